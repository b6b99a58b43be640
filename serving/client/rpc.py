"""TensorFlow Serving's gRPC API: a call as a message, a message as outputs, grpcio in between."""

import math
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from serving.client import messages
from serving.client.calls import Call, Column, InputSpec, Outputs, VersionStatus
from serving.client.errors import BadResponse, InvalidArgument, RecommenderError, from_grpc, not_connected

_METHODS: dict[str, tuple[str, Any, Any]] = {
    "predict": (
        "/tensorflow.serving.PredictionService/Predict",
        messages.PredictRequest,
        messages.PredictResponse,
    ),
    "metadata": (
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        messages.GetModelMetadataRequest,
        messages.GetModelMetadataResponse,
    ),
    "status": (
        "/tensorflow.serving.ModelService/GetModelStatus",
        messages.GetModelStatusRequest,
        messages.GetModelStatusResponse,
    ),
}
_FLOAT, _DOUBLE, _INT32, _STRING, _INT64 = 1, 2, 3, 7, 9  # TensorFlow's DataType
_TYPES = {  # its name, the field of a tensor that holds its values, and the code of `array`
    _FLOAT: ("DT_FLOAT", "float_val", "f"),
    _DOUBLE: ("DT_DOUBLE", "double_val", "d"),
    _INT32: ("DT_INT32", "int_val", "i"),
    _STRING: ("DT_STRING", "string_val", ""),
    _INT64: ("DT_INT64", "int64_val", "q"),
}
_SIGNATURES = "signature_def"  # the one field of a model's metadata
_STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # the policy retries
    # No grpc.min_reconnect_backoff_ms: it would be the longest a connection may take to open.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcTransport:
    """One channel to one server; opened at the first call."""

    def __init__(self, url: str, api_key: str | None = None, ca_file: str | None = None) -> None:
        place = urlsplit(url)
        self._url = url
        self._address = f"{place.hostname}:{place.port or 8500}"
        if place.hostname and ":" in place.hostname:
            self._address = f"[{place.hostname}]:{place.port or 8500}"
        self._credentials = None
        if place.scheme == "grpcs":
            roots = Path(ca_file).read_bytes() if ca_file else None
            self._credentials = grpc.ssl_channel_credentials(roots)
        self._metadata = None if api_key is None else (("authorization", f"Bearer {api_key}"),)
        self._blocking = _Channel(grpc.insecure_channel, grpc.secure_channel)
        self._awaited = _Channel(grpc.aio.insecure_channel, grpc.aio.secure_channel)

    def send(self, call: Call, timeout: float) -> Outputs:
        """Blocks until the answer is here; see `Transport.send`."""
        method = self._blocking.method(call.kind, self._address, self._credentials)
        try:
            answer = method(_request(call), timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error(error) from error
        return _outputs(call, answer)

    async def asend(self, call: Call, timeout: float) -> Outputs:
        """The same, awaited."""
        method = self._awaited.method(call.kind, self._address, self._credentials)
        try:
            answer = await method(_request(call), timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error(error) from error
        return _outputs(call, answer)

    def close(self) -> None:
        """Closes the channel of the blocking client."""
        if self._blocking.channel is not None:
            self._blocking.channel.close()

    async def aclose(self) -> None:
        """Closes the channel of the asynchronous client."""
        if self._awaited.channel is not None:
            await self._awaited.channel.close()

    def _error(self, error: Any) -> RecommenderError:
        code, text = error.code().name, error.details() or ""
        if code == "UNAVAILABLE" and ("failed to connect" in text or "Socket closed" in text):
            return not_connected(self._url, text)
        return from_grpc(code, text)


class _Channel:
    """A channel and its two methods, made when first used: an asynchronous one belongs to a running loop."""

    def __init__(self, insecure: Callable[..., Any], secure: Callable[..., Any]) -> None:
        self._insecure, self._secure = insecure, secure
        self._opening = threading.Lock()  # threads may arrive together
        self._methods: dict[str, Any] = {}
        self.channel: Any = None

    def method(self, kind: str, address: str, credentials: Any) -> Any:
        with self._opening:
            if self.channel is None:
                self.channel = (
                    self._insecure(address, _OPTIONS)
                    if credentials is None
                    else self._secure(address, credentials, _OPTIONS)
                )
            if kind not in self._methods:
                path, request, response = _METHODS[kind]
                self._methods[kind] = self.channel.unary_unary(
                    path,
                    request_serializer=request.SerializeToString,
                    response_deserializer=response.FromString,
                )
            return self._methods[kind]


def _request(call: Call) -> Any:
    request = _METHODS[call.kind][1]()
    spec = request.model_spec
    spec.name = call.target.model
    if call.target.version is not None:
        spec.version.value = call.target.version
    elif call.target.label is not None:
        spec.version_label = call.target.label
    if call.kind == "predict":
        spec.signature_name = call.signature
        for name, column in call.inputs.items():
            _fill(request.inputs[name], column, call.signature, name in call.doubles)
    elif call.kind == "metadata":
        request.metadata_field.append(_SIGNATURES)
    return request


def _fill(tensor: Any, column: Column, signature: str, double: bool) -> None:
    """A column or a rectangle of strings or numbers into a tensor; floats are float64 where `double`."""
    tensor.tensor_shape.dim.add(size=len(column))
    flat: Sequence[Any] = column
    if isinstance(column[0], list):
        tensor.tensor_shape.dim.add(size=len(column[0]))
        flat = [value for row in column for value in row]
    if isinstance(flat[0], int | float):
        tensor.dtype = _INT32 if isinstance(flat[0], int) else _DOUBLE if double else _FLOAT
        getattr(tensor, _TYPES[tensor.dtype][1]).extend(flat)
        return
    tensor.dtype = _STRING
    try:
        tensor.string_val.extend([value.encode() for value in flat])
    except UnicodeEncodeError as error:
        raise InvalidArgument(signature, f"has an id that is not valid Unicode: {error.object!r}") from error


def _outputs(call: Call, answer: Any) -> Outputs:
    if call.kind == "status":
        return _versions(answer)
    if call.kind == "metadata":
        return _input_specs(answer)
    try:
        return {name: _column(answer.outputs[name]) for name in call.outputs if name in answer.outputs}
    except (KeyError, ValueError) as error:
        raise BadResponse(f"{call.signature}: an output cannot be read: {error}") from error


def _input_specs(answer: Any) -> Outputs:
    signatures = messages.SignatureDefMap.FromString(answer.metadata[_SIGNATURES].value).signature_def
    rows = [
        InputSpec(
            signature,
            name,
            _TYPES.get(spec.dtype, (str(spec.dtype),))[0],
            dims[1].size if len(dims) > 1 else 0,
        )
        for signature, definition in signatures.items()
        for name, spec in definition.inputs.items()
        for dims in [spec.tensor_shape.dim]
    ]
    return {name: [getattr(row, name) for row in rows] for name in InputSpec._fields}


def _column(tensor: Any) -> Column:
    """A tensor `[rows, ...]` as a list, nested as deep as the tensor."""
    _, field, code = _TYPES[tensor.dtype]
    values: list[Any] = list(getattr(tensor, field))
    if tensor.tensor_content:
        values = _unpacked(code, tensor.tensor_content)
    elif code == "":
        values = [value.decode() for value in values]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    size = math.prod(shape)
    if len(values) != size and values:  # TensorFlow may write a run of equal values at the end once
        values += values[-1:] * (size - len(values))
    if not shape or len(values) != size:
        raise ValueError(f"{len(values)} values in the shape {shape}")
    return _nested(values, shape)


def _nested(values: list[Any], shape: list[int]) -> list[Any]:
    if len(shape) == 1:
        return values
    size = math.prod(shape[1:])
    return [_nested(values[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def _unpacked(code: str, content: bytes) -> list[Any]:
    values = array(code, content)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _versions(answer: Any) -> Outputs:
    rows = sorted(answer.model_version_status, key=lambda row: -row.version)
    columns = (
        [row.version for row in rows],
        [_STATES.get(row.state, str(row.state)) for row in rows],
        [_CODES.get(row.status.error_code, str(row.status.error_code)) for row in rows],
        [row.status.error_message for row in rows],
    )
    return dict(zip(VersionStatus._fields, columns, strict=True))
