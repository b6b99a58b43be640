"""The gRPC API: PredictionService and ModelService of tensorflow_serving/apis, and their status codes.

Each case names the rule it stands for; `SERVING_GRPC` points the suite at another server, as `SERVING_URL` does.
"""

import os

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

Code = grpc.StatusCode
EMBEDDED = pytest.mark.skipif(
    "SERVING_URL" in os.environ, reason="the embedded server differs here, on purpose"
)


@pytest.fixture
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def model(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def request(name="half", signature="", version=None, label=None, outputs=(), **inputs):
    message = predict_pb2.PredictRequest(output_filter=outputs)
    describe(message.model_spec, name, version, label)
    message.model_spec.signature_name = signature
    for key, value in inputs.items():
        message.inputs[key].CopyFrom(value)
    return message


def describe(spec, name, version=None, label=None):
    spec.name = name
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def tensor(values, kind=tf.float32):
    return tf.make_tensor_proto(values, dtype=kind)


def failure(call, message, **kwargs):
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=20, **kwargs)
    return caught.value.code(), caught.value.details()


def test_predict_answers_in_typed_fields(prediction):
    """Predict: the response names model, version and signature; tensors are in `float_val` and its like."""
    response = prediction.Predict(request(x=tensor([1.0, 2.0])))
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half", 2, "serving_default")
    y = response.outputs["y"]
    assert (list(y.float_val), y.dtype, [dim.size for dim in y.tensor_shape.dim]) == ([3.5, 4.0], 1, [2])


@pytest.mark.parametrize(
    ("which", "answer"), [({"version": 1}, 2.5), ({"label": "stable"}, 2.5), ({"label": "canary"}, 3.5)]
)
def test_predict_by_version_and_label(prediction, which, answer):
    assert prediction.Predict(request(**which, x=tensor([1.0]))).outputs["y"].float_val == [answer]


@pytest.mark.parametrize(
    "kind", ["float32", "float64", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "bool"]
)
def test_every_type_returns_as_it_was_sent(prediction, kind):
    sent = np.array([[0, 1], [1, 0]], dtype=kind)
    response = prediction.Predict(request("kinds", f"echo_{kind}", x=tf.make_tensor_proto(sent)))
    returned = tf.make_ndarray(response.outputs["y"])
    assert returned.dtype == sent.dtype
    np.testing.assert_array_equal(returned, sent)


@pytest.mark.parametrize("sent", [[b"a", b"\xff\x00"], b"scalar", [[b""]]], ids=["bytes", "scalar", "rank 2"])
def test_strings_are_bytes(prediction, sent):
    response = prediction.Predict(request("kinds", "echo_string", x=tensor(sent, tf.string)))
    assert tf.make_ndarray(response.outputs["y"]).tolist() == sent
    assert response.outputs["y"].HasField("tensor_shape")  # a scalar's too


def test_types_that_json_has_not(prediction):
    response = prediction.Predict(request("kinds", "echo_half", x=tensor([1.5], tf.float16)))
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [1.5]
    assert len(response.outputs["y"].half_val) == 1


def test_a_field_with_fewer_values_repeats_the_last(prediction):
    """TensorProto: `float_val: 2` with shape [3] is three twos."""
    proto = tensor([2.0])
    proto.tensor_shape.dim[0].size = 3
    assert prediction.Predict(request(x=proto)).outputs["y"].float_val == [4.0] * 3


def test_a_field_with_more_values_is_cut(prediction):
    """Tensor::FromProto takes as many values as the shape has, and casts those of `int_val` to the type."""
    proto = tensor([2.0])
    proto.float_val.append(3.0)
    assert prediction.Predict(request(x=proto)).outputs["y"].float_val == [4.0]
    small = tensor([0], tf.int8)
    small.int_val[:] = [300]
    assert prediction.Predict(request("kinds", "echo_int8", x=small)).outputs["y"].int_val == [44]


def test_output_filter(prediction):
    inputs = {"text": tensor(["a"], tf.string), "pair": tensor([[1.0, 2.0]])}
    assert set(prediction.Predict(request("kinds", outputs=["total"], **inputs)).outputs) == {"total"}


X = {"x": tensor([1.0])}
NO_TENSOR = predict_pb2.PredictRequest().inputs["x"]
REFUSALS = [
    pytest.param(
        request("no", **X), Code.NOT_FOUND, "Servable not found for request: Latest(no)", id="unknown model"
    ),
    pytest.param(
        request(version=7, **X),
        Code.NOT_FOUND,
        "Servable not found for request: Specific(half, 7)",
        id="unknown version",
    ),
    pytest.param(
        request(label="no", **X),
        Code.INVALID_ARGUMENT,
        "Unrecognized servable version label: no",
        id="unknown label",
    ),
    pytest.param(request("", **X), Code.INVALID_ARGUMENT, "ModelSpec has no name specified.", id="no name"),
    pytest.param(
        predict_pb2.PredictRequest(), Code.INVALID_ARGUMENT, "Missing ModelSpec", id="no model spec"
    ),
    pytest.param(
        request(signature="no", **X),
        Code.FAILED_PRECONDITION,
        'Serving signature key "no" not found.',
        id="unknown signature",
    ),
    pytest.param(
        request(),
        Code.INVALID_ARGUMENT,
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        id="an input is missing",
    ),
    pytest.param(
        request(**X, z=tensor([1.0])),
        Code.INVALID_ARGUMENT,
        "Sent extra: {z}. Missing but required: {}.",
        id="an input too many",
    ),
    pytest.param(request(z=tensor([1.0])), Code.INVALID_ARGUMENT, "z", id="an input of another name"),
    pytest.param(
        request(x=tensor([1], tf.int64)),
        Code.INVALID_ARGUMENT,
        "to be float but int64 is provided",
        id="types are not converted",
    ),
    pytest.param(
        request(**X, outputs=["no"]),
        Code.INVALID_ARGUMENT,
        "output tensor alias not found in signature: no Outputs expected to be in the set {y}.",
        id="an output that is not there",
    ),
    pytest.param(
        request(**X, outputs=["y", "y"]),
        Code.INVALID_ARGUMENT,
        "duplicate output tensor alias: y",
        id="an output twice",
    ),
    pytest.param(request(x=NO_TENSOR), Code.INVALID_ARGUMENT, "tensor parsing error: x", id="no tensor"),
    pytest.param(
        request(signature="no", x=NO_TENSOR),
        Code.FAILED_PRECONDITION,
        'Serving signature key "no" not found.',
        id="PreProcessPrediction: the signature comes before the tensors",
    ),
    pytest.param(
        request(**X, z=NO_TENSOR),
        Code.INVALID_ARGUMENT,
        "input size does not match signature",
        id="PreProcessPrediction: the names come before the tensors",
    ),
    pytest.param(
        request("kinds", "refuses", x=tensor([10.0])),
        Code.INVALID_ARGUMENT,
        "x must be below ten",
        id="the graph refuses",
    ),
]


@pytest.mark.parametrize(("message", "code", "text"), REFUSALS)
def test_predict_refuses(prediction, message, code, text):
    got, details = failure(prediction.Predict, message)
    assert got == code
    assert text in details


def test_a_long_text_is_cut(prediction):
    """Error details travel in the trailers: the server cuts them at 1,024 characters."""
    code, details = failure(prediction.Predict, request(signature="x" * 5000, **X))
    assert code == Code.FAILED_PRECONDITION
    assert details == f'Serving signature key "{"x" * 5000}" not found.'[:1024] + "...TRUNCATED"


@pytest.mark.parametrize("size", [2**24, 2**40])
def test_a_shape_that_claims_the_earth_is_refused(prediction, size):
    """One value stands for all of them: a few bytes would take as much memory as they name."""
    proto = tensor([1.0])
    proto.tensor_shape.dim[0].size = size
    assert failure(prediction.Predict, request(x=proto)) == (Code.INVALID_ARGUMENT, "tensor parsing error: x")


def test_a_deadline_ends_the_call(prediction, model):
    """gRPC deadlines: the caller gets DEADLINE_EXCEEDED, and the server is free for the next."""
    slow = request("kinds", "slow", x=tensor([2_000_000_000], tf.int32))
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(slow, timeout=0.3)
    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    assert prediction.Predict(request(**X), timeout=10).outputs["y"].float_val == [3.5]


def test_metadata(prediction):
    """GetModelMetadata: the field `signature_def` holds a SignatureDefMap."""
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    describe(message.model_spec, "half", label="stable")
    response = prediction.GetModelMetadata(message)
    assert (response.model_spec.name, response.model_spec.version.value) == ("half", 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].dtype == 1


@pytest.mark.parametrize(
    ("fields", "text"), [([], "must specify at least one metadata_field"), (["size"], "is not supported")]
)
def test_metadata_refuses(prediction, fields, text):
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    describe(message.model_spec, "half")
    code, details = failure(prediction.GetModelMetadata, message)
    assert (code, text in details) == (Code.INVALID_ARGUMENT, True)


def test_status(model):
    """GetModelStatus: every version, the highest first, with its state."""
    message = get_model_status_pb2.GetModelStatusRequest()
    describe(message.model_spec, "half")
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    entries = model.GetModelStatus(message).model_version_status
    assert [(entry.version, entry.state, entry.status.error_code) for entry in entries] == [
        (2, available, 0),
        (1, available, 0),
    ]


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("no", None, "Could not find any versions of model no"),
        ("half", 7, "Could not find version 7 of model half"),
    ],
)
def test_status_refuses(model, name, version, text):
    message = get_model_status_pb2.GetModelStatusRequest()
    describe(message.model_spec, name, version)
    assert failure(model.GetModelStatus, message) == (Code.NOT_FOUND, text)


@EMBEDDED
def test_the_rest_of_the_service_is_refused_by_name(prediction):
    code, details = failure(prediction.Classify, classification_pb2.ClassificationRequest())
    assert (code, "ClassificationRequest" in details) == (Code.UNIMPLEMENTED, True)


@EMBEDDED
@pytest.mark.parametrize(
    "service", ["", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"]
)
def test_health(channel, service):
    """grpc.health.v1: what a Kubernetes gRPC probe asks."""
    check = health_pb2.HealthCheckRequest(service=service)
    assert health_pb2_grpc.HealthStub(channel).Check(check).status == health_pb2.HealthCheckResponse.SERVING


def test_a_shape_of_more_dimensions_than_an_array_has_is_refused(prediction):
    proto = tensor([1.0])
    for _ in range(70):
        proto.tensor_shape.dim.add(size=1)
    assert failure(prediction.Predict, request(x=proto)) == (Code.INVALID_ARGUMENT, "tensor parsing error: x")


def test_an_unknown_rank_beside_dimensions_is_passed_over(prediction):
    """TensorShape::IsValid lets the flag pass, and the dimensions count."""
    proto = tensor([1.0])
    proto.tensor_shape.unknown_rank = True
    assert prediction.Predict(request(x=proto), timeout=10).outputs
