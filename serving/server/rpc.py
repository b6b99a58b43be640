"""The gRPC API: PredictionService.Predict and GetModelMetadata, ModelService.GetModelStatus, and the health service."""

import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.errors import Code, RequestError, StartError, invalid
from serving.server.options import ServerOptions
from serving.server.predict import Predictor, Spec

CODES = {code.value[0]: code for code in grpc.StatusCode}


def grpc_server(predictor: Predictor, options: ServerOptions) -> grpc.Server:
    """Returns a server bound to its port, not yet started; raises `StartError` where the port is taken."""
    limit = options.max_body_bytes
    server = grpc.server(
        ThreadPoolExecutor(options.threads, thread_name_prefix="grpc"),
        interceptors=[ApiKey(options.api_key)] if options.api_key else [],
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(predictor), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(predictor), server)
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"[{options.host}]:{options.grpc_port}" if ":" in options.host else f"{options.host}:{options.grpc_port}"
    try:
        if options.tls_certificate and options.tls_key:
            pair = (options.tls_key.read_bytes(), options.tls_certificate.read_bytes())
            server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            server.add_insecure_port(address)
    except RuntimeError:
        raise StartError(f"--port={options.grpc_port}: {address} is in use or cannot be bound; give another --port") from None
    return server


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the rest of the service is unimplemented, and says so."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Runs a signature."""
        return _answered(context, lambda: self._predict(request))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Returns the signatures."""
        return _answered(context, lambda: self._metadata(request))

    def _predict(self, request: Any) -> Any:
        servable = self._predictor.servable(_spec(request))
        signature = request.model_spec.signature_name
        definition = servable.signature(signature)
        inputs = {}
        for name, tensor in request.inputs.items():
            if name not in definition.inputs:
                known = ", ".join(sorted(definition.inputs))
                raise invalid(f"input tensor alias not found in signature: {name}. Inputs expected to be in the set {{{known}}}.")
            if tensor.dtype != definition.inputs[name].dtype:
                want, got = (tf.dtypes.as_dtype(one).name for one in (definition.inputs[name].dtype, tensor.dtype or 1))
                raise invalid(f"input {name} is of type {got}; expected {want}")
            try:
                inputs[name] = tf.make_ndarray(tensor)
            except (ValueError, TypeError) as error:
                raise invalid(f"input {name} is no valid tensor: {error}") from None
        outputs = self._predictor.predict(servable, signature, inputs, "GRPC")
        response = predict_pb2.PredictResponse()
        wanted = list(request.output_filter) or list(outputs)
        for name in wanted:
            if name not in outputs:
                raise invalid(f"output tensor alias not found in signature: {name}")
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = signature or "serving_default"
        return response

    def _metadata(self, request: Any) -> Any:
        if list(request.metadata_field) != ["signature_def"]:
            fields = list(request.metadata_field)
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field" if not fields else f"Metadata field {fields[0]} is not supported")
        servable = self._predictor.servable(_spec(request))
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response


class Status(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Returns the states of a model's versions."""
        return _answered(context, lambda: self._status(request))

    def _status(self, request: Any) -> Any:
        spec = _spec(request)
        response = get_model_status_pb2.GetModelStatusResponse()
        kind = get_model_status_pb2.ModelVersionStatus
        for version, state in self._predictor.manager.status(spec.name, spec.version, spec.label):
            entry = response.model_version_status.add(version=version, state=kind.State.Value(state.state))
            entry.status.error_code = Code[state.code].value
            entry.status.error_message = state.message
        return response


class ApiKey(grpc.ServerInterceptor):
    """Refuses calls without the key; the health service needs none."""

    def __init__(self, key: str) -> None:
        self._expected = f"Bearer {key}".encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "A valid API key is needed")
        )

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Returns the handler, or one that refuses."""
        given = dict(details.invocation_metadata).get("authorization", "")
        known = hmac.compare_digest(str(given).encode(), self._expected)
        return continuation(details) if known or details.method.startswith("/grpc.health.v1.") else self._refusal


def _spec(request: Any) -> Spec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return Spec(spec.name, version, spec.version_label if choice == "version_label" else None)


def _answered(context: grpc.ServicerContext, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except RequestError as error:
        context.abort(CODES[error.code.value], str(error))
