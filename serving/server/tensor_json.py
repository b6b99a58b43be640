"""Requests and responses in JSON, by the rules of TensorFlow Serving's REST API (its page "RESTful API").

Row format (`instances`, one element an example, all of the same shape) and columnar format (`inputs`, whole tensors); strings that are
bytes travel as `{"b64": ...}`; NaN and Infinity are bare tokens.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from serving.server.errors import invalid
from serving.server.servable import Arrays, as_array, input_type

INTEGERS = (tf.int8, tf.uint8, tf.int16, tf.int32, tf.int64, tf.uint32, tf.uint64)
NAMES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", bool: "Bool", type(None): "Null"}
SHOWN = 500  # characters of a wrong value that an error repeats


def parse(body: bytes) -> dict[str, Any]:
    """Returns the request's JSON object."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid value. at offset: {error.pos}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from None
    except RecursionError:
        raise invalid("JSON Parse error: nested too deep") from None
    except ValueError:
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_show(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(f"JSON Value: {_show(document)} not formatted correctly. 'signature_name' key must be a string value.")
    return document


def read_inputs(document: Mapping[str, Any], definition: Any) -> tuple[dict[str, npt.NDArray[Any]], bool]:
    """Returns the input arrays by name, and whether the request was in row format."""
    if "instances" in document and "inputs" in document:
        raise invalid(f"JSON Value: {_show(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    if "instances" in document:
        return _from_rows(document, definition), True
    if "inputs" in document:
        return _from_columns(document["inputs"], definition), False
    raise invalid("Missing 'inputs' or 'instances' key")


def write_outputs(outputs: Arrays, rows: bool) -> bytes:
    """Returns the response's body."""
    if not rows:
        texts = {name: _text(array, _leaf_writer(name, array)) for name, array in outputs.items()}
        return f'{{"outputs": {_object(texts) if len(texts) > 1 else next(iter(texts.values()))}}}'.encode()
    sizes = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(sizes) != 1 or None in sizes:
        raise invalid(
            "Tensors in the response do not share one batch size; row format needs that, columnar format ('inputs') does not"
        )
    writers = {name: _leaf_writer(name, array) for name, array in outputs.items()}
    columns = {name: [_text(row, writers[name]) for row in array] for name, array in outputs.items()}
    if len(columns) == 1:
        (lines,) = columns.values()
    else:
        lines = [_object(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    return f'{{"predictions": [{", ".join(lines)}]}}'.encode()


def _from_rows(document: Mapping[str, Any], definition: Any) -> dict[str, npt.NDArray[Any]]:
    elements, names = document["instances"], set(definition.inputs)
    if not isinstance(elements, list):
        raise invalid(f"JSON Value: {_show(document)} Excepting 'instances' to be an list/array")
    if not elements:
        raise invalid(f"JSON Value: {_show(document)} No values in 'instances' array")
    if not isinstance(elements[0], dict) and len(names) > 1:
        raise invalid("instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map")
    if not _is_object(elements[0]):
        (name,) = names
        return {name: _stack(elements, definition, name)}
    for place, element in enumerate(elements):
        if not _is_object(element):
            raise invalid(f"Expecting object but got list at item {place} of input list")
        for name in element:
            if name not in names:
                raise invalid(
                    f"Failed to process element: {place} key: {name} of 'instances' list. "
                    f"Error: INVALID_ARGUMENT: JSON object: does not have named input: {name}"
                )
        if set(element) != names:
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. JSON object: {_show(element)} "
                f"keys must be equal to: {','.join(sorted(names))}"
            )
    return {name: _stack([element[name] for element in elements], definition, name, f" key: {name}") for name in names}


def _stack(elements: list[Any], definition: Any, name: str, key: str = "") -> npt.NDArray[Any]:
    """Returns one array of elements that must be of one shape."""
    shape: list[int] | None = None
    flat: list[Any] = []
    for place, element in enumerate(elements):
        if shape is None and _is_object(element):
            raise invalid(f"Expecting value/list but got object at item {place} of input list")
        try:
            own = _shape(element)
            _fill(element, own, 0, input_type(definition, name), flat)
            if shape is not None and own != shape:
                size, expected = int(np.prod(own)), int(np.prod(shape))
                if size != expected:
                    raise invalid(f"Expecting tensor size: {expected} but got: {size}")
                raise invalid(f"Expecting shape {_brackets(shape)} but got: {_brackets(own)}")
        except Exception as error:
            text = f"Failed to process element: {place}{key} of 'instances' list. Error: INVALID_ARGUMENT: {error}"
            raise invalid(text) from None
        shape = own
    return as_array(flat, input_type(definition, name)).reshape([len(elements), *(shape or [])])


def _from_columns(inputs: Any, definition: Any) -> dict[str, npt.NDArray[Any]]:
    names = sorted(definition.inputs)
    if not _is_object(inputs):
        if len(names) > 1:
            raise invalid("inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map")
        inputs = {names[0]: inputs}
    arrays = {}
    for name in names:
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        shape, flat = _shape(inputs[name]), list[Any]()
        _fill(inputs[name], shape, 0, input_type(definition, name), flat)
        arrays[name] = as_array(flat, input_type(definition, name)).reshape(shape)
    return arrays


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _fill(value: Any, shape: list[int], level: int, dtype: Any, flat: list[Any]) -> None:
    """Appends the leaves of a nested list to `flat`, each checked for its place and type."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(f"JSON Value: {_show(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}")
        flat.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
    for element in value:
        _fill(element, shape, level + 1, dtype, flat)


def _leaf(value: Any, dtype: Any) -> Any:
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, dict):
            return _decode(value)
    elif dtype.is_floating and isinstance(value, int | float) and not isinstance(value, bool):
        return _decimal(value, dtype)
    elif dtype == tf.bool and isinstance(value, bool):
        return value
    elif dtype in INTEGERS and isinstance(value, int) and not isinstance(value, bool):
        held = tf.int32 if dtype.size < 4 else dtype
        if held.min <= value <= held.max:
            return value
    raise invalid(f"JSON Value: {_show(value)} Type: {_type_name(value)} is not of expected type: {dtype.name}")


def _decimal(value: float, dtype: Any) -> float:
    target = "float" if dtype == tf.float32 else "double"
    exact = 2 ** (24 if dtype == tf.float32 else 53) - 1
    if isinstance(value, int) and abs(value) > exact:
        raise invalid(f"Cannot convert JSON value: {value} to {target} without loss of precision.")
    if np.isfinite(value) and abs(value) > dtype.max:
        raise invalid(f"Cannot convert JSON value: {value} to {target} without loss of precision.")
    return value


def _decode(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_show(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"] + "=" * (-len(value["b64"]) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return NAMES[type(value)]


def _show(value: Any) -> str:
    try:
        text = json.dumps(value, indent=4, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep)"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _brackets(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _object(members: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in members.items()) + "}"


def _text(array: Any, write: Callable[[Any], str]) -> str:
    """Returns an array, or one of its values, as JSON."""
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        return write(array.item() if isinstance(array, np.ndarray | np.generic) else array)
    if array.ndim == 1:
        return "[" + ", ".join(map(write, array.tolist())) + "]"
    return "[" + ", ".join(_text(part, write) for part in array) + "]"


def _leaf_writer(name: str, array: npt.NDArray[Any]) -> Callable[[Any], str]:
    if array.dtype == object:
        if name.endswith("_bytes"):
            return lambda value: json.dumps({"b64": base64.b64encode(value).decode()})
        return lambda value: json.dumps(value.decode("utf-8", "replace"), ensure_ascii=False)
    if array.dtype.kind == "f":
        kind, digits = (np.float64, 17) if array.dtype == np.float64 else (np.float32, 9)
        return lambda value: number_text(value, kind, digits)
    return json.dumps


def number_text(value: float, kind: Any, digits: int) -> str:
    """Returns a float in six digits where that is exact, else in all of its; whole numbers end in `.0`."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    if kind(text) != kind(value):
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else f"{text}.0"
