"""The client over real gRPC, against a server built from TensorFlow Serving's own messages."""

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.client import (
    AsyncRecommender,
    BadRequest,
    BadResponse,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Recommender,
    RecommenderError,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    messages,
)

Ask = Callable[..., Any]
Answer = Callable[[str, dict[str, Any]], dict[str, list[Any]]]
CONTEXT: dict[str, Any] = {
    "device": (tf.string, [None]),
    "at": (tf.float64, [None]),
    "place": (tf.float32, [None, 2]),
}


class OfficialServer(
    prediction_service_pb2_grpc.PredictionServiceServicer,  # type: ignore[misc]
    model_service_pb2_grpc.ModelServiceServicer,  # type: ignore[misc]
):
    """Decodes with `tf.make_ndarray`, answers with `tf.make_tensor_proto`; `faults` come first."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.faults: list[Callable[[grpc.ServicerContext], Any]] = []
        self.specs: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.dtypes: dict[str, int] = {}
        self.context: dict[str, Any] = {}

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.specs.append(request.model_spec)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.faults:
            return self.faults.pop(0)(context)
        self.dtypes = {name: tensor.dtype for name, tensor in request.inputs.items()}
        inputs = {name: _plain(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        self.context = {name: inputs[name] for name in CONTEXT if name in inputs}
        response = predict_pb2.PredictResponse()
        signature = "recommend" if self.context else request.model_spec.signature_name
        for name, column in self.answer(signature, inputs).items():
            floats = name in ("score", "embedding")
            values = np.asarray(column, np.float32 if floats else object)
            response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
        return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        assert list(request.metadata_field) == ["signature_def"]
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, (dtype, shape) in CONTEXT.items():
            info = signatures.signature_def["recommend_in_context"].inputs[name]
            info.dtype = dtype.as_datatype_enum
            info.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.specs.append(request.model_spec)
        if request.model_spec.name != "recommender":
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=7, state=get_model_status_pb2.ModelVersionStatus.LOADING)
        broken = response.model_version_status.add(
            version=12, state=get_model_status_pb2.ModelVersionStatus.END
        )
        broken.status.error_code = 5
        broken.status.error_message = "no file"
        return response


def _plain(values: Any) -> Any:
    if values.dtype == object:
        return np.vectorize(bytes.decode, otypes=[object])(values).tolist()
    return values.tolist()


@pytest.fixture
def official(stub_answer: Answer) -> Iterator[tuple[OfficialServer, str]]:
    service = OfficialServer(stub_answer)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, f"grpc://127.0.0.1:{port}"
    service.released.set()
    server.stop(None).wait()


@pytest.fixture
def far(official: tuple[OfficialServer, str]) -> Iterator[str]:
    """The same server, 0.3 s away in each direction."""
    place = ("127.0.0.1", int(official[1].rpartition(":")[2]))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                time.sleep(0.3)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    class Link(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(place) as there:
                back = threading.Thread(target=carry, args=(there, self.request))
                back.start()
                carry(self.request, there)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Link) as link:
        thread = threading.Thread(target=link.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"grpc://127.0.0.1:{link.server_address[1]}"
        link.shutdown()
        thread.join()


@pytest.fixture(params=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest, official: tuple[OfficialServer, str]) -> Ask:
    def blocking(verb: str, *args: Any, **kwargs: Any) -> Any:
        settings = {"url": official[1], **kwargs.pop("settings", {})}
        with Recommender(**settings) as client:
            return getattr(client, verb)(*args, **kwargs)

    async def awaited(verb: str, *args: Any, **kwargs: Any) -> Any:
        settings = {"url": official[1], **kwargs.pop("settings", {})}
        async with AsyncRecommender(**settings) as client:
            return await getattr(client, verb)(*args, **kwargs)

    if request.param == "blocking":
        return blocking
    return lambda *args, **kwargs: asyncio.run(awaited(*args, **kwargs))


def test_every_verb(ask: Ask) -> None:
    assert ask("recommend", "42", 2, exclude=["i0"]) == [("i1", 1.0), ("i2", pytest.approx(0.99))]
    assert ask("recommend", history=["i0", "i5"], k=1) == [("i1", 1.0)]
    assert ask("recommend", history=["i0", "i5"], k=1).path == "history"
    assert len(ask("recommend", "42", 1000)) == 20
    assert [row[0].item_id for row in ask("recommend_many", ["1", "ü"], 3, exclude=[["i0"], []])] == [
        "i1",
        "i0",
    ]
    assert ask("similar_items", "i0", 1) == [("i1", 1.0)]
    assert ask("rank", "42", ["i1", "i7"]) == [("i7", 7.0), ("i1", 1.0)]
    assert ask("embed", history=["i1"]) == [0.5, -0.25, 2.0]
    assert ask("titles", ["i3", "nothing"]) == ["Tïtle i3", ""]
    assert ask("history", "42") == ["i3", "i1"]
    assert ask("status") == [(12, "END", "NOT_FOUND", "no file"), (7, "LOADING", "OK", "")]


def test_what_is_on_the_wire(ask: Ask, official: tuple[OfficialServer, str]) -> None:
    ask("recommend", "42", settings={"api_key": "secret", "version": 7})
    ask("recommend", "42", settings={"label": "canary"})
    with pytest.raises(NotFound, match="Could not find any versions"):
        ask("status", settings={"model": "other"})
    first, second, third = official[0].specs
    assert (first.name, first.signature_name) == ("recommender", "recommend")
    assert first.version.value == 7 and official[0].metadata[0]["authorization"] == "Bearer secret"
    assert second.version_label == "canary" and not second.HasField("version")
    assert third.name == "other"
    assert official[0].dtypes == {"user_id": tf.string, "exclude": tf.string, "k": tf.int32}


def test_a_context_arrives_in_the_types_that_the_metadata_declares(
    ask: Ask, official: tuple[OfficialServer, str]
) -> None:
    context = {"device": "phone", "at": 1_600_000_000.125, "place": [1, 2]}
    assert ask("recommend", "42", 1, context=context) == [("i0", 1.0)]
    assert official[0].context == {"device": ["phone"], "at": [1_600_000_000.125], "place": [[1.0, 2.0]]}
    assert {name: official[0].dtypes[name] for name in CONTEXT} == {
        name: dtype for name, (dtype, _) in CONTEXT.items()
    }
    with pytest.raises(InvalidArgument, match="'devise', and the model has only at, device, place"):
        ask("recommend", "42", 1, context={"devise": "phone"})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", BadRequest),
        ("FAILED_PRECONDITION", BadRequest),
        ("NOT_FOUND", NotFound),
        ("UNAUTHENTICATED", Unauthorized),
        ("PERMISSION_DENIED", Unauthorized),
        ("RESOURCE_EXHAUSTED", TooManyRequests),
        ("UNAVAILABLE", Unavailable),
        ("DEADLINE_EXCEEDED", DeadlineExceeded),
        ("INTERNAL", ServerError),
        ("UNKNOWN", ServerError),
        ("UNIMPLEMENTED", ServerError),
    ],
)
def test_a_code_becomes_a_typed_error(
    ask: Ask, official: tuple[OfficialServer, str], code: str, kind: type[RecommenderError]
) -> None:
    official[0].faults = [lambda context: context.abort(grpc.StatusCode[code], "the server's words")]
    with pytest.raises(kind, match="the server's words") as caught:
        ask("recommend", "42", settings={"retries": 0})
    assert type(caught.value) is kind


def test_a_request_over_the_limit_of_the_server_is_a_bad_one(ask: Ask) -> None:
    with pytest.raises(BadRequest, match=r"larger than max \(.* smaller max_batch") as caught:
        ask("recommend", "42", exclude=["x" * 5_000_000])
    assert caught.value.batch_limit is None


def test_what_may_pass_is_tried_again(ask: Ask, official: tuple[OfficialServer, str]) -> None:
    official[0].faults = [lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "busy")] * 2
    assert ask("recommend", "42", 1) == [("i0", 1.0)]
    assert len(official[0].specs) == 3


def test_the_deadline_holds(ask: Ask, official: tuple[OfficialServer, str]) -> None:
    official[0].faults = [lambda context: official[0].released.wait(20)]
    with pytest.raises(DeadlineExceeded):
        ask("recommend", "42", settings={"timeout": 0.1})


def test_a_server_far_away_is_reached(ask: Ask, far: str) -> None:
    assert ask("recommend", "42", 1, settings={"url": far, "timeout": 20}) == [("i0", 1.0)]


def test_nobody_there(ask: Ask) -> None:
    with pytest.raises(ConnectionFailed, match=r"no connection to grpc://127\.0\.0\.1:1"):
        ask("recommend", "42", settings={"url": "grpc://127.0.0.1:1"})


def test_an_id_that_is_no_unicode_is_refused_before_it_is_sent(ask: Ask) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ask("recommend", "a\ud800", exclude=["other"])
    assert str(caught.value) == r"recommend has an id that is not valid Unicode: 'a\ud800'"


def _packed(**outputs: Any) -> Callable[[grpc.ServicerContext], Any]:
    """A fault: these tensors as the answer."""
    response = predict_pb2.PredictResponse()
    for name, tensor in outputs.items():
        response.outputs[name].CopyFrom(tensor)
    return lambda context: response


def test_each_way_to_write_a_tensor_is_read(ask: Ask, official: tuple[OfficialServer, str]) -> None:
    ids = tf.make_tensor_proto([["a", "b", "c"]])
    listed = tf.make_tensor_proto([[0.5, 0.25, 0.25]], dtype=tf.float32)
    packed = tf.make_tensor_proto(np.array([[0.5, 0.25, 0.25]], np.float32))
    shortened = tf.make_tensor_proto([[0.5, 0.25, 0.25]], dtype=tf.float32)
    shortened.ClearField("tensor_content")
    shortened.float_val[:] = [0.5, 0.25]
    for scores in (listed, packed, shortened):
        official[0].faults = [_packed(item_id=ids, score=scores)]
        assert ask("recommend", "42") == [("a", 0.5), ("b", 0.25), ("c", 0.25)]
    assert packed.tensor_content and not shortened.tensor_content


def test_an_embedding_of_several_interests_is_a_list_of_lists(
    ask: Ask, official: tuple[OfficialServer, str]
) -> None:
    for interests in ([[0.5, 1.0, 2.0], [0.25, 0.0, -1.0]], [[0.5, 0.5]] * 3, [[], []]):
        official[0].faults = [_packed(embedding=tf.make_tensor_proto([interests], dtype=tf.float32))]
        assert ask("embed", user_id="42") == interests


@pytest.mark.parametrize(
    "titles",
    [
        tf.make_tensor_proto([b"\xff"]),
        tf.make_tensor_proto("scalar"),
        tf.make_tensor_proto([True]),
        tf.make_tensor_proto([[["deep"]]]),
    ],
)
def test_a_tensor_that_is_no_column_is_a_bad_response(
    ask: Ask, official: tuple[OfficialServer, str], titles: Any
) -> None:
    official[0].faults = [_packed(title=titles)]
    with pytest.raises(BadResponse):
        ask("titles", ["i1"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (messages.PredictRequest, predict_pb2.PredictRequest),
        (messages.PredictResponse, predict_pb2.PredictResponse),
        (messages.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataRequest),
        (messages.GetModelMetadataResponse, get_model_metadata_pb2.GetModelMetadataResponse),
        (messages.SignatureDefMap, get_model_metadata_pb2.SignatureDefMap),
        (messages.GetModelStatusRequest, get_model_status_pb2.GetModelStatusRequest),
        (messages.GetModelStatusResponse, get_model_status_pb2.GetModelStatusResponse),
    ],
)
def test_every_field_has_the_official_number_and_wire_type(ours: Any, theirs: Any) -> None:
    compare_messages(ours.DESCRIPTOR, theirs.DESCRIPTOR)


def compare_messages(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        official = theirs.fields_by_name[field.name]
        assert official.number == field.number, field.full_name
        assert official.is_repeated == field.is_repeated, field.full_name
        if field.message_type is not None:
            compare_messages(field.message_type, official.message_type)
        else:
            enum_as_number = official.type == official.TYPE_ENUM and field.type == field.TYPE_INT32
            assert official.type == field.type or enum_as_number, field.full_name
