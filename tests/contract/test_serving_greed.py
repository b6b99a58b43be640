"""Callers that take more than their due: endless headers, answers that are not read, threads that are all taken; and the key beside CORS.

These start a server of their own, and are skipped for a server given by SERVING_URL.
"""

import contextlib
import json
import os
import socket
import time

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_process import eventually, running

from serving.server.json_input import SHOWN, shown

pytestmark = pytest.mark.skipif("SERVING_URL" in os.environ, reason="needs a server of its own")
KEY = {"authorization": "Bearer open sesame"}
BODY = 20_000_000


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("greed")
    (root / "key").write_text("open sesame")
    flags = (
        "--model_name=kinds",
        f"--model_base_path={models}/kinds",
        f"--api_key_file={root}/key",
        "--rest_api_enable_cors_support",
        "--rest_api_timeout_in_ms=1500",
        "--max_connections=5",
        f"--max_body_bytes={BODY}",
        "--grpc_max_threads=2",
        f"--max_batch={BODY}",
    )
    with running(root / "server.log", *flags) as started:
        yield started


@pytest.fixture
def connect(server):
    """Opens sockets to the REST port that are closed at the end."""
    host, port = server.rest.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection((host, int(port)), timeout=20))


def answers(server):
    return server.get("/v1/models/kinds", headers=KEY).status_code == 200


@pytest.mark.parametrize("ends", ["in many", "in one"])
def test_endless_headers_are_refused(server, connect, ends):
    """What is kept of a header takes many times its size."""
    eventually(lambda: answers(server), "the server answers")
    caller = connect()
    lines = b"a: b\r\n" * 12_000 if ends == "in many" else b"a: " + b"b" * 72_000
    caller.sendall(b"GET /v1/models/kinds HTTP/1.1\r\nhost: x\r\n" + lines)
    head, _, body = caller.recv(10_000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body) == {"error": "The path and the headers are larger than 65536 bytes"}
    assert caller.recv(1) == b""


def test_endless_trailers_close_the_connection(server, connect):
    eventually(lambda: answers(server), "the server answers")
    caller = connect()
    start = b"POST /v1/models/kinds:predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer open sesame\r\n"
    caller.sendall(start + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    found = b""
    with contextlib.suppress(ConnectionError):
        for _ in range(4):  # 2.4 MB
            caller.sendall(b"a: b\r\n" * 100_000)
        found = caller.recv(10_000)
    assert found == b""  # and not a 504, once the time of the request is up


def test_headers_up_to_the_limit_are_read(server):
    headers = KEY | {f"a{number}": "b" * 1000 for number in range(60)}
    assert server.get("/v1/models/kinds", headers=headers).status_code == 200


def test_an_answer_that_nobody_reads_is_given_up(server, connect):
    """Else so many connections as there may be would lock the port."""
    eventually(lambda: answers(server), "the server answers")
    text = json.dumps({"signature_name": "echo_string", "inputs": ["x" * (BODY - 100)]}).encode()
    head = f"POST /v1/models/kinds:predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(text)}\r\n"

    def full():
        if answers(server):
            connect().sendall(head.encode() + b"authorization: Bearer open sesame\r\n\r\n" + text)
            return False
        return True

    eventually(full, "no place is left")
    eventually(lambda: answers(server), "a place is free again")


def test_an_answer_that_is_read_slowly_arrives(server):
    """In parts, over longer than a request may take."""
    eventually(lambda: answers(server), "the server answers")
    asked = {"signature_name": "echo_string", "inputs": ["x" * (BODY - 100)]}
    with httpx.Client(trust_env=False, timeout=20) as client:
        call = client.stream("POST", f"{server.rest}/v1/models/kinds:predict", json=asked, headers=KEY)
        with call as response:
            start, read = time.monotonic(), 0
            for part in response.iter_raw(1 << 20):
                read += len(part)
                if time.monotonic() - start < 4:
                    time.sleep(0.4)  # the caller's own slowness
    assert read == int(response.headers["content-length"]) > BODY - 100


def slow_calls(channel, count):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "kinds", "slow"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([2_000_000_000]))
    call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
    return [call.future(request, 6, metadata=list(KEY.items())) for _ in range(count)]


def test_models_that_take_every_thread_keep_no_probe_waiting(server):
    with grpc.insecure_channel(server.grpc) as channel:
        calls = slow_calls(channel, 6)
        check = health_pb2_grpc.HealthStub(channel).Check
        for _ in range(5):
            assert check(health_pb2.HealthCheckRequest(), timeout=2).status == 1
        assert not any(call.done() for call in calls)
        for call in calls:
            call.cancel()


def test_an_answer_may_be_larger_than_a_request(server):
    """server.cc sets no limit to what is sent."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "kinds", "uneven"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(tf.zeros([BODY // 8])))
    with grpc.insecure_channel(server.grpc, [("grpc.max_receive_message_length", -1)]) as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        answer = call(request, timeout=60, metadata=list(KEY.items()))
    assert answer.ByteSize() > BODY
    assert answer.outputs["b"].tensor_shape.dim[0].size == BODY // 4


def test_a_page_may_ask_a_server_with_a_key(server):
    """No browser sends a key when it asks whether its page may ask."""
    url, origin = f"{server.rest}/v1/models/kinds:predict", {"origin": "http://shop"}
    found = httpx.options(url, headers=origin, trust_env=False)
    assert (found.status_code, found.content) == (200, b"")
    assert found.headers["access-control-allow-headers"] == "Content-Type, Authorization"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_the_scheme_of_the_key_is_read_in_any_case(server, scheme):
    """RFC 9110, 11.1."""
    found = server.get("/v1/models/kinds", headers={"authorization": f"{scheme} open sesame"})
    assert found.status_code == 200


@pytest.mark.parametrize("name", ["Upgrade", "upgrade", "UPGRADE"])
def test_an_offer_of_another_protocol_is_passed_over(server, connect, name):
    """RFC 9110, 7.8: clients offer HTTP/2 beside a request that is whole; its body is no request of its own."""
    caller, body = connect(), b'{"signature_name": "no", "instances": [1]}'
    head = f"POST /v1/models/kinds:predict HTTP/1.1\r\nhost: x\r\nconnection: {name}, HTTP2-Settings\r\n{name}: h2c\r\n"
    head += f"http2-settings: AAMAAABk\r\nauthorization: Bearer open sesame\r\ncontent-length: {len(body)}\r\n\r\n"
    for _ in range(2):
        caller.sendall(head.encode() + body)
        found = b""
        while not found.endswith(b"}"):
            found += caller.recv(10_000)
        assert found.startswith(b"HTTP/1.1 400 ")
        assert rb"Serving signature name: \"no\" not found in signature def" in found


def test_an_offer_in_two_parts_ends_the_connection(server, connect):
    caller = connect()
    caller.sendall(b"GET /v1/models/kinds HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgr")
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    eventually(lambda: answers(server), "the server has read the first part")
    caller.sendall(b"ade: h2c\r\n\r\nGET /v1/models/kinds HTTP/1.1\r\n\r\n")
    assert b"".join(iter(lambda: caller.recv(1000), b"")).count(b"HTTP/1.1") <= 1


def test_who_has_no_key_is_told_what_to_send(server):
    found = server.get("/v1/models/kinds")
    assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")


class Counted(list):
    """A list that knows how much of it was looked at."""

    looked = 0

    def __iter__(self):
        for one in super().__iter__():
            self.looked += 1
            yield one


def test_of_a_large_document_an_error_writes_no_more_than_it_shows():
    values = Counted([1] * 1_000_000)
    assert shown(values) == json.dumps([1] * 1_000, indent=4)[:SHOWN] + "..."
    assert values.looked < SHOWN
