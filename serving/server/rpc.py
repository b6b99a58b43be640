"""The gRPC API: PredictionService.Predict and GetModelMetadata, ModelService.GetModelStatus, and health."""

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.errors import RequestError, StartError, bears, invalid
from serving.server.manager import Manager, Version
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions
from serving.server.servable import DEFAULT_SIGNATURE, Servable
from serving.server.tensors import to_proto

SIGNATURE_DEF = "signature_def"
NO_DEADLINE = 1e8  # seconds: without one, gRPC says centuries, which no clock can wait for
LONGEST_TEXT = 1024  # characters: more than gRPC has room for in its trailers helps nobody


class GrpcServer:
    """The gRPC port; `start` opens it."""

    def __init__(self, manager: Manager, metrics: Metrics, options: ServerOptions) -> None:
        self._options = options
        self._health = _Health()
        limits = [
            ("grpc.max_receive_message_length", options.max_body_bytes),
            ("grpc.max_send_message_length", -1),
        ]
        key = options.api_key()
        self._server = grpc.server(
            ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="grpc"),
            interceptors=[] if key is None else [_ApiKey(key)],
            options=[*limits, ("grpc.so_reuseport", 0)],
        )
        calls = _Calls(manager, metrics)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(calls, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(calls, self._server)
        if options.enable_grpc_healthcheck_service:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self) -> None:
        """Opens the port and reports SERVING; raises StartError where the port is taken."""
        options = self._options
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"{host}:{options.port}"
        try:
            if options.tls_certificate and options.tls_key:
                pair = (options.tls_key.read_bytes(), options.tls_certificate.read_bytes())
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self._server.add_insecure_port(address)
        except RuntimeError:
            raise StartError(f"--port={options.port}: cannot listen on {address}; it may be in use") from None
        self._server.start()
        for name in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Takes no more calls, gives those that run their time, and returns when the last is done."""
        self._health.enter_graceful_shutdown()
        self._server.stop(self._options.drain_seconds).wait()


def _answered(work: Callable[[Any, Any, float | None], Any]) -> Callable[..., Any]:
    """The method of a service that answers what `work` makes of a request and the seconds left for it, or its fault."""

    def method(self: "_Calls", request: Any, context: grpc.ServicerContext) -> Any:
        model = self.manager.known(request.model_spec.name)
        counted = self.metrics.request(model, "Predict", "GRPC")
        try:
            with counted if work.__name__ == "Predict" else contextlib.nullcontext():
                if not request.HasField("model_spec"):
                    raise invalid("Missing ModelSpec")
                left = context.time_remaining()
                return work(self, request, left if left is not None and left < NO_DEADLINE else None)
        except Exception as fault:
            error = RequestError.of(fault)
            text = error.message
            short = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}...TRUNCATED"
            return context.abort(grpc.StatusCode[error.code.name], short)

    return method


class _Calls(
    prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer
):
    def __init__(self, manager: Manager, metrics: Metrics) -> None:
        self.manager, self.metrics = manager, metrics

    @_answered
    def Predict(self, request: Any, timeout: float | None) -> Any:
        servable = self.manager.get(*_which(request.model_spec))
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        outputs = servable.call(name, request.inputs, tuple(request.output_filter), timeout).result()
        response = predict_pb2.PredictResponse()
        _describe(response.model_spec, servable, name)
        for alias, array in outputs.items():
            response.outputs[alias].CopyFrom(to_proto(array))
        return response

    @_answered
    def GetModelMetadata(self, request: Any, _timeout: float | None) -> Any:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        servable = self.manager.get(*_which(request.model_spec))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _describe(response.model_spec, servable)
        response.metadata[SIGNATURE_DEF].Pack(signature_map(servable))
        return response

    @_answered
    def GetModelStatus(self, request: Any, _timeout: float | None) -> Any:
        return model_status(self.manager.status(*_which(request.model_spec)))

    def _unsupported(self, request: Any, context: grpc.ServicerContext) -> Any:
        name = type(request).__name__
        text = f"{name} is not supported by the embedded server; use Predict"
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

    Classify = Regress = MultiInference = HandleReloadConfigRequest = _unsupported


def model_status(versions: Iterable[Version]) -> Any:
    """The GetModelStatusResponse that lists `versions`."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in versions:
        entry = response.model_version_status.add(version=version.number, state=version.state)
        entry.status.error_code, entry.status.error_message = version.code.value, version.message
    return response


def signature_map(servable: Servable) -> Any:
    """The SignatureDefMap of a version."""
    return get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)


class _Health(health.HealthServicer):
    """Health in a thread of its own: slow models keep no probe waiting."""

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        return super().Check(request, context)

    Check.experimental_thread_pool = ThreadPoolExecutor(1, "health")  # type: ignore[attr-defined]


class _ApiKey(grpc.ServerInterceptor):
    """Refuses calls without the key; the health service needs none."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "A valid API key is needed")
        )

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        given = dict(details.invocation_metadata).get("authorization", "")
        given = given if isinstance(given, bytes) else given.encode()
        if details.method.startswith("/grpc.health.v1.") or bears(given, self._key):
            return continuation(details)
        return self._refusal


def _which(spec: Any) -> tuple[str, int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return spec.name, version, spec.version_label if choice == "version_label" else None


def _describe(spec: Any, servable: Servable, signature_name: str = "") -> None:
    spec.name, spec.signature_name = servable.name, signature_name
    spec.version.value = servable.version
