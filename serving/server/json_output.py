"""Arrays to JSON, numbers printed as by TensorFlow Serving: NaN and Infinity are bare tokens, bytes are base64."""

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serving.server.errors import invalid
from serving.server.json_input import RANGES, decimals, type_name
from serving.server.runner import Arrays

OBJECT, FLOAT, DOUBLE, BOOL = map(np.dtype, ("object", "float32", "float64", "bool"))
QUOTED = json.JSONEncoder(ensure_ascii=False).encode  # made once: `dumps` would make one for every value


def write_outputs(outputs: Arrays, rows: bool) -> bytes:
    """The body that answers a request: `predictions`, one element per row, or `outputs`, whole tensors.

    Raises INVALID_ARGUMENT where row format is asked of outputs that do not share a dimension 0.
    """
    texts = {alias: _texts(alias, tensor) for alias, tensor in outputs.items()}
    if not rows:
        members = {alias: _nested(text, outputs[alias].shape) for alias, text in texts.items()}
        return f'{{\n    "outputs": {_object(members, 4)}\n}}'.encode("utf-8", "surrogateescape")
    size = _row_count(outputs)
    columns = {}
    for alias, text in texts.items():
        shape = outputs[alias].shape[1:]
        step = math.prod(shape)
        columns[alias] = [_nested(text[row * step : (row + 1) * step], shape) for row in range(size)]
    if len(columns) == 1:
        (lines,) = columns.values()
        body = ", ".join(lines)
    else:
        elements = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        body = ",".join("\n        " + _object(element, 8) for element in elements)
    end = "\n    ]" if size else "]"
    return f'{{\n    "predictions": [{body}{end}\n}}'.encode("utf-8", "surrogateescape")


def _row_count(outputs: Arrays) -> int:
    size = -1
    for alias, tensor in outputs.items():
        if tensor.ndim == 0:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        if size not in (-1, tensor.shape[0]):
            text = f"Tensor name: {alias} has inconsistent batch size: {tensor.shape[0]} expecting: {size}"
            raise invalid(text)
        size = tensor.shape[0]
    return size


def _object(members: Mapping[str, str], indent: int) -> str:
    """One value as it is, several as an object."""
    if len(members) == 1:
        return next(iter(members.values()))
    inner = "\n" + " " * (indent + 4)
    lines = (f"{inner}{json.dumps(name)}: {text}" for name, text in members.items())
    return "{" + ",".join(lines) + "\n" + " " * indent + "}"


def _nested(flat: list[str], shape: tuple[int, ...]) -> str:
    """The values of a tensor, last dimension first, in the brackets of its shape."""
    if 0 in shape:
        before = shape[: shape.index(0)]
        flat, shape = ["[]"] * math.prod(before), before
    for size in reversed(shape):
        flat = [f"[{', '.join(flat[start : start + size])}]" for start in range(0, len(flat), size)]
    return flat[0]


def _texts(alias: str, tensor: NDArray[Any]) -> list[str]:
    """Each value of a tensor as JSON."""
    values, kind = tensor.ravel().tolist(), tensor.dtype
    if kind == OBJECT:
        if alias.endswith("_bytes"):
            return [json.dumps({"b64": base64.b64encode(value).decode()}) for value in values]
        return [QUOTED(value.decode("utf-8", "surrogateescape")) for value in values]
    if kind in (FLOAT, DOUBLE):
        return decimals(values, "f" if kind == FLOAT else "d")
    if kind == BOOL:
        return ["true" if value else "false" for value in values]
    if values and kind.name not in RANGES:
        raise invalid(f"Failed to write JSON value for tensor type: {type_name(tf.as_dtype(kind))}")
    return list(map(str, values))
