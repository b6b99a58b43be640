"""Batching, warm-up, the key, TLS and the limits (tensorflow.org/tfx/serving/serving_config, /saved_model_warmup), hostile input too.

These start servers of their own, and are skipped for a server given by SERVING_URL.
"""

import concurrent.futures
import contextlib
import os
import shutil
import socket
import ssl
import subprocess

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import publish, write_recommender, write_warmup
from serving_process import eventually, running

from serving.client import Recommender

pytestmark = pytest.mark.skipif("SERVING_URL" in os.environ, reason="needs a server of its own")
BATCHING = """max_batch_size {{ value: 8 }} batch_timeout_micros {{ value: {timeout} }}
num_batch_threads {{ value: 2 }} max_enqueued_batches {{ value: 100 }} allowed_batch_sizes: 4 allowed_batch_sizes: 8"""


@pytest.fixture(scope="module")
def batched(half, tmp_path_factory):
    """A server that batches, has a key, replays warm-up records and keeps tight limits."""
    root = tmp_path_factory.mktemp("batched")
    publish(half / "1", root / "half", 1)
    write_warmup(root / "half" / "1", [[1.0], [2.0, 3.0]])
    (root / "batching.config").write_text(BATCHING.format(timeout=20_000))
    (root / "monitoring.config").write_text("prometheus_config { enable: true }")
    (root / "key").write_text("open sesame\n")
    flags = [
        f"--{name}_file={root}/{name.split('_')[0]}.config"
        for name in ("batching_parameters", "monitoring_config")
    ]
    own = (
        "--max_body_bytes=100000",
        "--max_batch=1000",
        f"--api_key_file={root}/key",
        "--enable_grpc_healthcheck_service=false",
    )
    base = ("--model_name=half", f"--model_base_path={root}/half", "--enable_batching")
    with running(root / "server.log", *base, *flags, *own) as server:
        yield server


KEY = {"headers": {"authorization": "Bearer open sesame"}}


def batched_answer(server, values):
    return server.post("/v1/models/half:predict", {"instances": values}, **KEY)


def sample(server, line):
    page = server.get("/monitoring/prometheus/metrics", **KEY).text
    return sum(float(each.rsplit(" ", 1)[1]) for each in page.splitlines() if each.startswith(line))


def test_concurrent_requests_run_as_one(batched):
    """serving/batching: requests are merged along dimension 0, padded to an allowed size, and split again."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda value: batched_answer(batched, [value, value]), range(64)))
    assert [each.json() for each in answers] == [{"predictions": [value / 2 + 1] * 2} for value in range(64)]
    name = ":tensorflow:serving:batching_session:processed_batch_size"
    assert sample(batched, f"{name}_count") < 64
    assert sample(batched, f"{name}_sum") % 4 == 0
    runs = sample(batched, ":tensorflow:serving:batching_session:wrapped_run_count")
    assert runs == sample(batched, f"{name}_count")
    waits = ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name=""}'
    assert sample(batched, waits) >= 64


def test_batching_asks_for_a_dimension_0(batched):
    response = batched.post("/v1/models/half:predict", {"inputs": 1.0}, **KEY)
    assert response.status_code == 400
    assert response.json()["error"] == "Batching Run() input tensors must have at least one dimension"


def test_more_rows_than_a_batch_takes(batched):
    response = batched_answer(batched, [0.0] * 9)
    assert response.status_code == 400
    assert response.json()["error"] == "Task size 9 is larger than maximum input batch size 8"


def test_a_large_request_is_split_into_runs(start, half, tmp_path):
    """serving_config, enable_large_batch_splitting: a request may have max_batch_size rows, a run max_execution_batch_size."""
    (tmp_path / "batching.config").write_text(
        "max_batch_size { value: 10 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 4 } allowed_batch_sizes: 4 pad_variable_length_inputs: true"
    )
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    flags = ("--model_name=half", f"--model_base_path={half}", "--enable_batching", "--port=0")
    files = [f"--batching_parameters_file={tmp_path}/batching.config"]
    files.append(f"--monitoring_config_file={tmp_path}/monitoring.config")
    server = start(*flags, *files)
    answer = server.post("/v1/models/half:predict", {"instances": list(range(10))})
    assert answer.json() == {"predictions": [value / 2 + 2 for value in range(10)]}
    page = server.get("/monitoring/prometheus/metrics").text
    assert ":tensorflow:serving:batching_session:wrapped_run_count{} 3\n" in page
    refused = server.post("/v1/models/half:predict", {"instances": [0] * 11})
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "Task size 11 is larger than maximum input batch size 10",
    )


def test_warmup_records_are_replayed_at_load(batched):
    assert sample(batched, ":tensorflow:serving:model_warmup_latency_count") == 1


def test_limits_are_named(batched):
    assert "1000 (--max_batch)" in batched_answer(batched, [0] * 1001).json()["error"]
    response = batched.post("/v1/models/half:predict", b" " * 100_001, **KEY)
    assert (response.status_code, "100000 bytes (--max_body_bytes)" in response.json()["error"]) == (
        413,
        True,
    )


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Both addresses of a recommender that takes two rows at once, any time, and requests from any page."""
    root = tmp_path_factory.mktemp("narrow")
    write_recommender(root / "recommender" / "1")
    flags = ("--model_name=recommender", f"--model_base_path={root}/recommender", "--max_batch=2")
    flags += ("--rest_api_timeout_in_ms=-1", "--rest_api_enable_cors_support")
    with running(root / "server.log", *flags) as server:
        yield server.rest, f"grpc://{server.grpc}"


def test_the_client_sends_no_more_rows_than_the_server_takes(narrow):
    for url in narrow:
        with Recommender(url) as client:
            found = client.recommend_many(list("abcde"), 1)
            assert [row[0].item_id for row in found] == [f"{user}-0" for user in "abcde"]
            assert client.max_batch == 2


def test_both_transports_give_equal_scores(narrow):
    with Recommender(narrow[0]) as rest, Recommender(narrow[1]) as rpc:
        assert rest.recommend("a", 50) == rpc.recommend("a", 50)


@pytest.mark.parametrize(
    ("method", "path", "lets"),
    [
        ("OPTIONS", "/v1/models/recommender:predict", "*"),
        ("GET", "/v1/models/recommender", "*"),
        ("GET", "/v1/models/nobody", "*"),
        ("GET", "/", None),
    ],
)
def test_pages_of_other_sites_may_ask(narrow, method, path, lets):
    """http_rest_api_util.cc, AddCORSHeaders: on every answer below /v1/, errors too."""
    found = httpx.request(method, f"{narrow[0]}{path}", headers={"origin": "http://shop"}, trust_env=False)
    assert found.headers.get("access-control-allow-origin") == lets
    assert found.headers.get("access-control-allow-methods") == (lets and "POST, GET")
    assert found.headers.get("access-control-allow-headers") == (lets and "Content-Type")


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer open"}, {"authorization": "open sesame"}, {"authorization": "Bearer é"}],
)
def test_without_the_key_nothing_is_answered(batched, headers):
    raw = {key: value.encode() for key, value in headers.items()}
    response = batched.get("/v1/models/half", headers=raw)
    assert (response.status_code, set(response.json())) == (401, {"error"})
    assert "open sesame" not in batched.log.read_text()


def test_the_key_over_grpc(batched):
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half"
    with grpc.insecure_channel(batched.grpc) as channel:
        call = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
        for scheme in ("Bearer", "bearer"):
            answer = call(request, metadata=[("authorization", f"{scheme} open sesame")])
            assert answer.model_version_status[0].version == 1
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_health_service_can_be_turned_off(batched):
    with grpc.insecure_channel(batched.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_call_without_a_deadline_is_batched_too(batched):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([2.0]))
    with grpc.insecure_channel(batched.grpc) as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        answer = call(request, metadata=[("authorization", "Bearer open sesame")])
    assert answer.outputs["y"].float_val == [2.0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls_on_both_ports(start, half, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", *make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    flags = (
        f"--tls_certificate={certificate}",
        f"--tls_key={key}",
        "--model_name=half",
        f"--model_base_path={half}",
    )
    server = start(*flags, scheme="https")
    trusting = ssl.create_default_context(cafile=certificate)
    assert server.get("/v1/models/half", verify=trusting).status_code == 200
    with grpc.secure_channel(server.grpc, grpc.ssl_channel_credentials(certificate.read_bytes())) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)


HOSTILE = [
    pytest.param(b"[" * 90_000, id="deep JSON"),
    pytest.param(b'{"inputs":' + b"[" * 900 + b"1" + b"]" * 900 + b"}", id="deep tensor"),
    pytest.param(b"[" * 998 + b"]" * 998, id="as deep as the parser goes"),
    pytest.param(b'{"a":' * 15_000, id="deep objects"),
    pytest.param(b'{"inputs": ' + b"9" * 5000 + b"}", id="a number of 5,000 digits"),
    pytest.param(b'{"inputs": [1e999]}', id="a number beyond all"),
    pytest.param(b'{"inputs": [' + b"9" * 400 + b"]}", id="an integer beyond double"),
    pytest.param(b"\x00\xff\xfe", id="no text"),
    pytest.param(b'{"inputs": ["\xff"]}', id="not UTF-8"),
    pytest.param(b'{"signature_name": "' + b"x" * 90_000 + b'", "inputs": [1]}', id="a name of 90 kB"),
    pytest.param(b'{"inputs": {"x": {"x": {"x": 1}}}}', id="objects in objects"),
    pytest.param(b'{"inputs": null}', id="null"),
    pytest.param(b'{"instances": [null]}', id="a null row"),
]


@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_input_is_answered_in_kind(batched, body):
    response = batched.post("/v1/models/half:predict", body, **KEY)
    assert 400 <= response.status_code < 500, response.text
    assert set(response.json()) == {"error"}
    assert len(response.content) < 100_000


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%00", "a" * 8000, "half%0d%0aset-cookie:1", "%ff"]
)
def test_names_are_only_looked_up(batched, name):
    assert batched.get(f"/v1/models/{name}", **KEY).status_code in (400, 404)


@pytest.mark.slow
def test_headers_that_never_end_close_the_connection(start, half):
    """Callers that send a little at a time take no place for longer than --rest_api_timeout_in_ms."""
    flags = ("--model_name=half", f"--model_base_path={half}", "--port=0")
    server = start(*flags, "--rest_api_timeout_in_ms=1000")
    address = ("127.0.0.1", int(server.rest.rsplit(":", 1)[1]))
    part = b"GET /v1/models/half HTTP/1.1\r\nhost: x\r\n"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(4)]
        slow[0].sendall(part + b"\r\n")  # and it is slow from its second request on
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 200")
        for caller in slow[:3]:  # the last one says nothing at all
            caller.sendall(part)

        def closed():
            for caller in slow[:3]:
                with contextlib.suppress(OSError):
                    caller.sendall(b"x")
            return not any(_open(caller) for caller in slow)

        eventually(closed, "all of them are closed")
    assert server.get("/v1/models/half").status_code == 200


def _open(caller):
    caller.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        with contextlib.suppress(ConnectionError):
            while caller.recv(1000):
                pass
        return False
    return True


def test_a_timeout_is_a_504(start, models):
    """--rest_api_timeout_in_ms ends a request."""
    flags = (
        "--model_name=kinds",
        f"--model_base_path={models}/kinds",
        "--rest_api_timeout_in_ms=300",
        "--port=0",
    )
    server = start(*flags)
    for steps, status in ((1, 200), (1, 200), (2_000_000, 504)):  # a quick run says nothing of the next one
        response = server.post("/v1/models/kinds:predict", {"signature_name": "slow", "inputs": [steps]})
        assert response.status_code == status
    assert response.json() == {"error": "Timed out waiting for notification"}
    response = server.post("/v1/models/kinds:predict", {"signature_name": "slow", "inputs": [2_000_000_000]})
    assert (response.status_code, response.json()) == (504, {"error": "Timed out waiting for notification"})


def test_a_timeout_in_the_queue_is_a_429(start, half, tmp_path):
    """BatchingSession::ProcessBatch: RESOURCE_EXHAUSTED for what has waited too long to be run at all."""
    (tmp_path / "batching.config").write_text("batch_timeout_micros { value: 10000000 }")
    flags = ("--model_name=half", f"--model_base_path={half}", "--enable_batching", "--port=0")
    batching = f"--batching_parameters_file={tmp_path}/batching.config"
    server = start(*flags, batching, "--rest_api_timeout_in_ms=300")
    response = server.post("/v1/models/half:predict", {"instances": [1.0]})
    text = "Run() timeout exceeded while waiting in batching queue"
    assert (response.status_code, response.json()) == (429, {"error": text})


@pytest.mark.slow
def test_batches_whose_callers_have_gone_hold_up_nobody(start, models, tmp_path):
    """A run ends with the last deadline in its batch, so that its thread is free for other models."""
    (tmp_path / "batching.config").write_text("num_batch_threads { value: 2 }")
    flags = (f"--model_config_file={models}/models.config", "--allow_version_labels_for_unavailable_models")
    batching = ("--enable_batching", f"--batching_parameters_file={tmp_path}/batching.config")
    server = start(*flags, *batching, "--rest_api_timeout_in_ms=1000", "--port=0")
    slow = {"signature_name": "slow", "inputs": [2_000_000_000]}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.post("/v1/models/kinds:predict", slow), range(4)))
    assert {answer.status_code for answer in answers} <= {504, 429}  # 429 where no thread was free in time
    half = {"instances": [0.0]}
    eventually(lambda: server.post("/v1/models/half:predict", half).status_code == 200, "a thread is free")
