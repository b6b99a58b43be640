"""Arrays from JSON, by the rules and in the words of TensorFlow Serving's RESTful API.

Row format has one element of `instances` per example, columnar format one whole tensor per input; bytes travel as
`{"b64": ...}`. Stricter than the real one in one thing: text must be valid UTF-8.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serving.server.errors import Code, RequestError, invalid
from serving.server.servable import Arrays

MAYBE_TOO_BIG = re.compile("[0-9][eE][+]?[0-9]{3}")
BEGUN = re.compile("n(ul?)?|t(ru?)?|f(a(ls?)?)?|-?(Na?|I(n(fi?n?i?t?)?)?)?")  # as much of a value as there is
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
CONSTANT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|-?(?:NaN|Inf(?:inity|(?!i)))', re.DOTALL)  # or string
REASONS = {  # Python's words for what is wrong, the real server's, and how far on it finds the fault (None: at the end)
    "Extra data": ("The document root must not be followed by other values.", 0),
    "Expecting property name": ("Missing a name for object member.", 0),
    "Illegal trailing comma before end of object": ("Missing a name for object member.", 0),
    "Expecting ':'": ("Missing a colon after a name of object member.", 0),
    "Unterminated string": ("Missing a closing quotation mark in string.", None),
    "Invalid control character": ("Invalid encoding in string.", 0),
    "Invalid \\u": ("Incorrect hex digit after \\u escape in string.", -1),
    "Invalid \\": ("Invalid escape character in string.", 0),
}
DEEPEST = 32  # dimensions of a tensor
SHOWN = 2_000  # characters of a wrong value that an error repeats
RANGES = {
    **dict.fromkeys(("int8", "int16", "int32", "uint8"), (-(2**31), 2**31 - 1)),
    **{"int64": (-(2**63), 2**63 - 1), "uint32": (0, 2**32 - 1), "uint64": (0, 2**64 - 1)},
}
LARGEST = {"float": (2**24 - 1, float(np.finfo(np.float32).max)), "double": (2**53 - 1, math.inf)}
_BATCHED = "multiple input tensors required as per tensorinfo_map"


def parse(body: bytes) -> dict[str, Any]:
    """The object that a request's body holds, with a text, if anything, for its `signature_name`."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        text = body.decode("utf-8-sig")
        try:
            document = json.loads(text, object_pairs_hook=_first_of_each)
        except json.JSONDecodeError:
            text, document = _with_constants(text)
        if MAYBE_TOO_BIG.search(text):
            json.loads(text, parse_float=_finite)
        if "\\u" in text:  # finds the surrogates that have no partner
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise _unparsable("Invalid encoding in string.", error.start) from None
    except UnicodeEncodeError:
        raise _unparsable("The surrogate pair in string is invalid.", 0) from None
    except json.JSONDecodeError as error:
        reason, place = _fault(text, error)
        raise _unparsable(reason, len(text[:place].encode("utf-8", "replace"))) from None
    except RecursionError:
        raise _unparsable("The document is nested too deep.", 0) from None
    except ValueError:  # a float beyond double, or an integer of thousands of digits
        raise _unparsable("Number too big to be stored in double.", 0) from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        text = "not formatted correctly. 'signature_name' key must be a string value."
        raise invalid(f"JSON Value: {shown(document)} {text}")
    return document


def _with_constants(text: str) -> tuple[str, Any]:
    """`text`, with NaN for the constants that Python does not know, such as -Inf, and what it holds, with their values."""
    found: list[float] = []

    def known(match: re.Match[str]) -> str:
        if match[0].startswith('"'):
            return match[0]
        found.append(float(match[0]))
        return "NaN".ljust(len(match[0]))  # whatever else is wrong keeps its place

    text, values = CONSTANT.sub(known, text), iter(found)
    return text, json.loads(text, object_pairs_hook=_first_of_each, parse_constant=lambda _: next(values))


def _first_of_each(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `members`: of those with the same name the first counts."""
    found = dict(members)
    if len(found) < len(members):
        found.update(reversed(members))
        if set(found) == {"b64"}:
            found["b64 (again)"] = members[1][1]  # base64 is an object of one member
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _fault(text: str, error: json.JSONDecodeError) -> tuple[str, int]:
    """What the real server says of the fault that Python has found, and the place in the text that it names."""
    place, found = error.pos, text[error.pos : error.pos + 9]
    if not text.split("\0")[0].strip(" \t\n\r"):
        return "The document is empty.", place
    for ours, (said, offset) in REASONS.items():
        if error.msg.startswith(ours):
            return said, len(text) if offset is None else place + offset
    if not error.msg.startswith("Expecting ','"):
        begun = BEGUN.match(found)
        return "Invalid value.", place + (begun.end() if begun else 0)
    if text[place - 1].isdigit() and found[:1] in (".", "e", "E"):
        missing = "fraction part" if found[0] == "." else "exponent"
        return f"Miss {missing} in number.", place + 1 + (found[1:2] in ("+", "-"))
    depth = 0
    for mark in reversed(re.findall(r"[][{}]", STRING.sub("", text[:place]))):
        depth += 1 if mark in "]}" else -1
        if depth < 0:
            break
    reason = "] after an array element" if mark == "[" else "} after an object member"
    return f"Missing a comma or {reason}.", place


def read_inputs(document: Mapping[str, Any], signature: Any) -> tuple[Arrays, bool]:
    """The input arrays by alias, and whether the request is in row format."""
    if not signature.inputs:
        name = document.get("signature_name") or "DEFAULT"
        raise invalid(f"Failed to get input map for signature: {name}")
    kinds = {alias: tf.as_dtype(info.dtype) for alias, info in sorted(signature.inputs.items())}
    if "instances" not in document:
        if "inputs" not in document:
            raise invalid("Missing 'inputs' or 'instances' key")
        return _from_columns(document["inputs"], kinds), False
    instances, wrong = document["instances"], ""
    if "inputs" in document:
        wrong = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    elif not isinstance(instances, list):
        wrong = "Excepting 'instances' to be an list/array"
    elif not instances:
        wrong = "No values in 'instances' array"
    if wrong:
        raise invalid(f"JSON Value: {shown(document)} {wrong}")
    return _from_rows(instances, kinds), True


def _from_rows(instances: list[Any], kinds: Mapping[str, tf.DType]) -> Arrays:
    if not isinstance(instances[0], dict) and len(kinds) > 1:
        raise invalid(f"instances is a plain list, but expecting list of objects as {_BATCHED}")
    named = _is_object(instances[0])
    (first, *_) = kinds
    columns = {alias: _Column(kinds[alias]) for alias in (kinds if named else [first])}
    for place, element in enumerate(instances):
        if named != _is_object(element):
            text = "Expecting object but got list" if named else "Expecting value/list but got object"
            raise invalid(f"{text} at item {place} of input list")
        for alias, value in element.items() if named else [(first, element)]:
            try:
                if alias not in columns:
                    raise invalid(f"JSON object: does not have named input: {alias}")
                columns[alias].add(value)
            except RequestError as error:
                where = f"{place} key: {alias}" if named else place
                text = f"of 'instances' list. Error: {error.code.name}: {error.message}"
                raise invalid(f"Failed to process element: {where} {text}") from None
        if named and set(element) != set(kinds):
            text = f"JSON object: {shown(element)} keys must be equal to: {','.join(kinds)}"
            raise invalid(f"Failed to process element: {place} of 'instances' list. {text}")
    return {alias: column.array(len(instances)) for alias, column in columns.items()}


def _from_columns(inputs: Any, kinds: Mapping[str, tf.DType]) -> Arrays:
    if not _is_object(inputs):
        if len(kinds) > 1:
            raise invalid(f"inputs is a plain value/list, but expecting an object as {_BATCHED}")
        inputs = dict.fromkeys(kinds, inputs)
    arrays = {}
    for alias, kind in kinds.items():
        if alias not in inputs:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
        column = _Column(kind)
        column.add(inputs[alias])
        arrays[alias] = column.array(None)
    return arrays


class _Column:
    """The values of one input, gathered from elements that must all be of one shape."""

    def __init__(self, kind: tf.DType) -> None:
        self._kind, self._leaf = kind, _leaf_reader(kind)
        self._shape: list[int] | None = None
        self._flat: list[Any] = []

    def add(self, element: Any) -> None:
        """Takes in one element; raises INVALID_ARGUMENT where its nesting, size or type is wrong."""
        shape: list[int] = []
        inner = element
        while isinstance(inner, list):
            shape.append(len(inner))
            if not inner:
                break
            inner = inner[0]
        if len(shape) > DEEPEST:
            raise invalid(f"A list nested {len(shape)} deep is no tensor; the limit is {DEEPEST}")
        self._fill(element, shape, 0)
        if self._shape is None:
            self._shape = shape
        elif math.prod(shape) != math.prod(self._shape):
            raise invalid(f"Expecting tensor size: {math.prod(self._shape)} but got: {math.prod(shape)}")
        elif shape != self._shape:
            raise invalid(f"Expecting shape {_brackets(self._shape)} but got: {_brackets(shape)}")

    def array(self, rows: int | None) -> NDArray[Any]:
        """Everything taken in as one array, with a leading dimension of `rows` unless that is None."""
        kind = object if self._kind == tf.string else self._kind.as_numpy_dtype
        # small integers wrap, as in TensorFlow
        wide = np.int64 if kind in (np.int8, np.int16, np.uint8) else kind
        shape = [*([] if rows is None else [rows]), *(self._shape or [])]
        return np.asarray(self._flat, dtype=wide).astype(kind, copy=False).reshape(shape)

    def _fill(self, value: Any, shape: list[int], level: int) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                text = f"found at incorrect level: {level + 1} in the JSON DOM."
                raise invalid(f"JSON Value: {shown(value)} {text} Expected at level: {len(shape)}")
            self._flat.append(self._leaf(value))
            return
        if level >= len(shape):
            raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            text = f"at level: {level} expected size: {shape[level]}"
            raise invalid(f"Encountered list at unexpected size: {len(value)} {text}")
        for element in value:
            self._fill(element, shape, level + 1)


def _leaf_reader(kind: tf.DType) -> Callable[[Any], Any]:
    """What turns one JSON value into a value of a type, or raises."""
    name = type_name(kind)
    if kind == tf.string:
        return _bytes
    if kind == tf.bool:
        return lambda value: value if isinstance(value, bool) else _mistyped(value, name)
    if name in LARGEST:
        return lambda value: _decimal(value, name)
    if name in RANGES:
        low, high = RANGES[name]
        return lambda value: value if type(value) is int and low <= value <= high else _mistyped(value, name)

    def unknown(value: Any) -> Any:
        if isinstance(value, dict):
            _mistyped(value, name)
        text = f"Conversion of JSON Value: {shown(value)} to type: {name}"
        raise RequestError(Code.UNIMPLEMENTED, text)

    return unknown


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")
    if not isinstance(value, dict):
        _mistyped(value, "string")
    if not _is_base64(value):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    padded = "".join(value["b64"].split())
    text = padded.rstrip("=.")
    try:
        if len(padded) not in (len(text), len(text) + -len(text) % 4):  # padding is left out, or is right
            raise ValueError
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise invalid("Unable to base64 decode") from None


def _decimal(value: Any, target: str) -> float:
    if type(value) not in (int, float):
        _mistyped(value, target)
    exact, largest = LARGEST[target]
    whole = isinstance(value, int) and -(2**63) <= value < 2**64
    if (whole and abs(value) > exact) or (largest < abs(value) < math.inf):
        raise invalid(f"Cannot convert JSON value: {shown(value)} to {target} without loss of precision.")
    try:
        return float(value)
    except OverflowError:
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None


def type_name(kind: tf.DType) -> str:
    """A type's name in error texts, which differs from NumPy's for some."""
    return {"float16": "half", "float32": "float", "float64": "double"}.get(str(kind.name), str(kind.name))


def _mistyped(value: Any, kind: str) -> Any:
    kinds = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}
    name = str(value) if isinstance(value, bool) else kinds[type(value)]
    raise invalid(f"JSON Value: {shown(value)} Type: {name} is not of expected type: {kind}")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _unparsable(reason: str, place: int) -> RequestError:
    return invalid(f"JSON Parse error: {reason} at offset: {place}")


def shown(value: Any) -> str:
    """A value as an error repeats it: as JSON, up to a length."""
    text = json.dumps(value, indent=4, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _brackets(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
