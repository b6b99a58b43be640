"""Arrays from JSON, by the rules and in the words of TensorFlow Serving's RESTful API.

What is malformed, and where, says rapidjson, which is the real one's parser too and reads numbers as it
does: of a double of more than 15 digits the last bits may be off. Row format has one element of
`instances` per example, columnar format one whole tensor per input; bytes travel as `{"b64": ...}`. Stricter than the
real one in two things: text must be valid UTF-8, and nesting has a limit.
"""

import base64
import json
import math
import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
import rapidjson
import tensorflow as tf
from numpy.typing import NDArray

from serving.server.errors import Code, RequestError, invalid
from serving.server.runner import Arrays

PLACE = re.compile(r"Parse error at offset (\d+): ")
REASONS = {  # rapidjson's words of today, and those of the version in TensorFlow Serving
    "Missing a comma or '}' after an object member.": "Missing a comma or } after an object member.",
    "Missing a comma or ']' after an array element.": "Missing a comma or ] after an array element.",
}
DEEPEST = 32  # dimensions of a tensor
SHOWN = 2_000  # characters of a wrong value that an error repeats
RANGES = {
    **dict.fromkeys(("int8", "int16", "int32", "uint8"), (-(2**31), 2**31 - 1)),
    **{"int64": (-(2**63), 2**63 - 1), "uint32": (0, 2**32 - 1), "uint64": (0, 2**64 - 1)},
}
LARGEST_FLOAT = float(np.finfo(np.float32).max)
SPECIAL = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_BATCHED = "multiple input tensors required as per tensorinfo_map"


def parse(body: bytes) -> dict[str, Any]:
    """The object that a request's body holds, with a text, if anything, for its `signature_name`."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    start = len(BOM_UTF8) if body.startswith(BOM_UTF8) else 0
    try:
        document = _decoder(body[start:])
    except UnicodeDecodeError as error:
        raise _unparsable("Invalid encoding in string.", start + error.start) from None
    except RecursionError:
        raise _unparsable("The document is nested too deep.", 0) from None
    except ValueError as error:
        told = str(error)
        place = PLACE.match(told)
        reason = told[place.end() :] if place else told
        raise _unparsable(REASONS.get(reason, reason), start + int(place[1] if place else 0)) from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        text = "not formatted correctly. 'signature_name' key must be a string value."
        raise invalid(f"JSON Value: {shown(document)} {text}")
    return document


class _Decoder(rapidjson.Decoder):
    """Of the members of an object with the same name the first counts."""

    def start_object(self) -> list[tuple[str, Any]]:
        """What gathers the members, all of them."""
        return []

    def end_object(self, members: list[tuple[str, Any]]) -> dict[str, Any]:
        """The object of `members`."""
        found = dict(members)
        if len(found) < len(members):
            found.update(reversed(members))
            if set(found) == {"b64"}:
                found["b64 (again)"] = members[1][1]  # base64 is an object of one member
        return found


_decoder = _Decoder(number_mode=rapidjson.NM_NATIVE | rapidjson.NM_NAN)


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
        wrong = "Expecting 'instances' to be an list/array"
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
        with np.errstate(over="ignore"):  # what no float holds is rounded, or infinite
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


@cache
def _leaf_reader(kind: tf.DType) -> Callable[[Any], Any]:
    """What turns one JSON value into a value of a type, or raises."""
    name = type_name(kind)
    if kind == tf.string:
        return _bytes
    if kind == tf.bool:
        return lambda value: value if isinstance(value, bool) else _mistyped(value, name)
    if name in ("float", "double"):
        return lambda value: float(value) if type(value) in (int, float) else _mistyped(value, name)
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


def type_name(kind: tf.DType) -> str:
    """A type's name in error texts, which differs from NumPy's for some."""
    return {"float16": "half", "float32": "float", "float64": "double"}.get(str(kind.name), str(kind.name))


def _mistyped(value: Any, kind: str) -> Any:
    raise invalid(f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {kind}")


def json_type(value: Any) -> str:
    """The type of a value in error texts; true and false are types of their own."""
    kinds = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}
    return str(value) if isinstance(value, bool) else kinds[type(value)]


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _unparsable(reason: str, place: int) -> RequestError:
    return invalid(f"JSON Parse error: {reason} at offset: {place}")


def shown(value: Any) -> str:
    """A value as an error repeats it: as JSON, up to a length, a decimal as a float has it."""
    if isinstance(value, float):
        small = abs(value) <= LARGEST_FLOAT
        return decimals(array("f", [value]).tolist(), "f")[0] if small else decimals([value], "d")[0]
    text = ""
    for piece in json.JSONEncoder(indent=4, ensure_ascii=False).iterencode(value):
        text += piece
        if len(text) > SHOWN:  # the rest of a large document would take seconds, and is not shown
            return f"{text[:SHOWN]}..."
    return text


def decimals(values: list[float], code: Literal["f", "d"]) -> list[str]:
    """Floats of an `array` code in six digits where these give the same float back, else in 9 (or 17); whole ones end in `.0`."""
    texts = [f"{value:.6g}" for value in values]
    digits = 9 if code == "f" else 17
    for place, (value, again) in enumerate(zip(values, array(code, map(float, texts)), strict=True)):
        if value != again and math.isfinite(value):
            texts[place] = f"{value:.{digits}g}"
    return [SPECIAL.get(text) or (text if "." in text or "e" in text else f"{text}.0") for text in texts]


def _brackets(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
