"""TensorProto to and from NumPy, in the typed fields (`float_val` and so on) that TensorFlow Serving answers with."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.framework import tensor_pb2

from serving.server.errors import invalid

_FIELDS = {
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "int_val"),
    **{"float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val"},
    **{"uint32": "uint32_val", "uint64": "uint64_val", "object": "string_val"},
    **{"float16": "half_val", "bfloat16": "half_val"},
}
_USUAL = {  # read here, a request's few values in a tenth of the time of `make_ndarray`
    tf.as_dtype(kind).as_datatype_enum: (_FIELDS[kind], np.dtype(kind))
    for kind in ("float32", "float64", "int32", "int64", "bool")
} | {tf.string.as_datatype_enum: ("string_val", np.dtype(object))}
FREE_ELEMENTS = 1 << 20  # more must be there: a proto of a few bytes may claim any shape


def to_array(proto: Any, alias: str = "") -> NDArray[Any]:
    """The array in a TensorProto, strings as an object array of bytes; raises INVALID_ARGUMENT if it holds none."""
    dims = [dim.size for dim in proto.tensor_shape.dim]
    size = math.prod(dims)
    if min(dims, default=0) < 0 or (size > FREE_ELEMENTS and size > proto.ByteSize()):
        raise invalid(f"tensor parsing error: {alias}")
    field, kind = _USUAL.get(proto.dtype, ("", None))
    try:
        if field and len(values := getattr(proto, field)) == size and not proto.tensor_content:
            return np.fromiter(values, kind, size).reshape(dims)
        return np.asarray(tf.make_ndarray(proto))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError):
        return _parsed(proto, alias)


def _parsed(proto: Any, alias: str) -> NDArray[Any]:
    """By TensorFlow itself, which is slower and takes more: superfluous values are left out, small integers wrap."""
    try:
        tensor = tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy()
    except (TypeError, ValueError, tf.errors.OpError):
        raise invalid(f"tensor parsing error: {alias}") from None
    return np.asarray(tensor, dtype=object if isinstance(tensor, bytes) else None)


def to_proto(array: NDArray[Any]) -> Any:
    """The TensorProto of an array."""
    if array.dtype.name not in _FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    proto.tensor_shape.SetInParent()  # a scalar has a shape too, of no dimensions
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    field = _FIELDS[array.dtype.name]
    values = array.view(np.uint16) if field == "half_val" else array
    getattr(proto, field).extend(values.ravel().tolist())
    return proto
