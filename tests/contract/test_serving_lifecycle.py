"""How versions come and go: tensorflow.org/tfx/serving/serving_config and /architecture, and what a stop does.

These start servers of their own, and are skipped for a server given by SERVING_URL.
"""

import concurrent.futures
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading

import grpc
import pytest
from serving_models import write_half
from serving_process import eventually, running

pytestmark = pytest.mark.skipif("SERVING_URL" in os.environ, reason="needs a server of its own")
MODELS = ("swap", "broken", "rollback", "ignored", "several")
CONFIG = """model_config_list {{
  {models}
  config {{
    name: "several" base_path: "{root}/several" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 3 }} }}
    version_labels {{ key: "stable" value: {stable} }}
  }}
}}
"""


def publish(source, base_path, version):
    """Puts a copy of a version in place at once, as the export does."""
    shutil.copytree(source, base_path / f".tmp-{version}")
    (base_path / f".tmp-{version}").rename(base_path / str(version))


def configure(root, stable):
    simple = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    text = CONFIG.format(
        models="\n  ".join(simple.format(name, root) for name in MODELS[:-1]), root=root, stable=stable
    )
    (root / ".models.config").write_text(text)
    (root / ".models.config").rename(root / "models.config")


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Two versions that differ: x / 2 + 1 and x / 2 + 2."""
    root = tmp_path_factory.mktemp("half")
    for plus in (1, 2):
        write_half(root / str(plus), float(plus))
    return root


@pytest.fixture(scope="module")
def site(half, tmp_path_factory):
    """A server of several models, each for one test, and the directory that they lie in."""
    root = tmp_path_factory.mktemp("site")
    for name in MODELS:
        for version in (1, 2, 3) if name == "several" else (1,):
            publish(half / "1", root / name, version)
    configure(root, stable=1)
    (root / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = (f"--model_config_file={root}/models.config", "--model_config_file_poll_wait_seconds=1")
    with running(root / "server.log", *flags, f"--monitoring_config_file={root}/monitoring.config") as server:
        yield server, root


def answer(server, model, which=""):
    response = server.post(f"/v1/models/{model}{which}:predict", {"instances": [0.0]})
    assert response.status_code == 200, response.text
    return response.json()["predictions"][0]


def test_a_new_version_takes_over_and_no_request_fails(site, half):
    """AvailabilityPreservingPolicy: the new version is loaded before the old one is dropped."""
    server, root = site
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(answer(server, "swap"))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(ask) for _ in range(4)]
        publish(half / "2", root / "swap", 2)
        try:
            eventually(
                lambda: server.states("swap") == {2: "AVAILABLE", 1: "END"}, "version 2 has taken over"
            )
        finally:
            stop.set()
        for caller in callers:
            caller.result()
    assert (
        sorted(answers) == answers
    )  # version 1 until a moment, version 2 from then on, but for the calls that race
    assert set(answers) == {1.0, 2.0}


def test_a_broken_version_is_reported_and_the_old_one_serves(site, half):
    server, root = site
    shutil.copytree(half / "2", root / "broken" / ".new")
    (root / "broken" / ".new" / "saved_model.pb").write_bytes(b"not a SavedModel")
    (root / "broken" / ".new").rename(root / "broken" / "2")
    eventually(lambda: server.states("broken").get(2) == "END", "version 2 is given up")
    broken, serving = server.get("/v1/models/broken").json()["model_version_status"]
    assert broken["status"]["error_code"] != "OK"
    assert broken["status"]["error_message"]
    assert (serving["state"], answer(server, "broken")) == ("AVAILABLE", 1.0)
    assert 'broken/2",status="fail"' in server.get("/metrics").text
    shutil.copy(half / "2" / "saved_model.pb", root / "broken" / "2" / "saved_model.pb")
    eventually(lambda: answer(server, "broken") == 2.0, "the repaired version is loaded")


def test_rollback_by_deleting(site, half):
    server, root = site
    publish(half / "2", root / "rollback", 2)
    eventually(lambda: answer(server, "rollback") == 2.0, "version 2 serves")
    shutil.rmtree(root / "rollback" / "2")
    eventually(lambda: server.states("rollback") == {2: "END", 1: "AVAILABLE"}, "version 1 is back")
    assert answer(server, "rollback") == 1.0


def test_directories_without_a_number_are_ignored(site, half):
    server, root = site
    for name in (".tmp-9", "latest", "2x"):
        shutil.copytree(half / "2", root / "ignored" / name)
    publish(half / "2", root / "ignored", 5)
    eventually(
        lambda: server.states("ignored") == {5: "AVAILABLE", 1: "END"}, "version 5 serves, and nothing else"
    )


def test_specific_versions_and_a_label_that_moves(site):
    """serving_config: "Serving a Specific Version", "Assigning String Labels", and the file is read again."""
    server, root = site
    assert server.states("several") == {3: "AVAILABLE", 1: "AVAILABLE"}
    which = "/v1/models/several/labels/stable"
    assert server.get(which).json()["model_version_status"][0]["version"] == "1"
    configure(root, stable=3)
    eventually(
        lambda: server.get(which).json()["model_version_status"][0]["version"] == "3", "the label has moved"
    )


# --- batching, warm-up ---------------------------------------------------------------------------------------------

BATCHING = """max_batch_size {{ value: 8 }} batch_timeout_micros {{ value: {timeout} }}
num_batch_threads {{ value: 2 }} max_enqueued_batches {{ value: 100 }} allowed_batch_sizes: 4 allowed_batch_sizes: 8"""


def warmup(path, records):
    """Writes warm-up records: a TFRecord file of PredictionLog messages (saved_model_warmup)."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for values in records:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(values))
            file.write(log.SerializeToString())


@pytest.fixture(scope="module")
def batched(half, tmp_path_factory):
    """A server that batches, has a key, replays warm-up records and keeps tight limits."""
    root = tmp_path_factory.mktemp("batched")
    publish(half / "1", root / "half", 1)
    warmup(root / "half" / "1", [[1.0], [2.0, 3.0]])
    (root / "batching.config").write_text(BATCHING.format(timeout=20_000))
    (root / "monitoring.config").write_text("prometheus_config { enable: true }")
    (root / "key").write_text("open sesame\n")
    flags = [
        f"--{name}_file={root}/{name.split('_')[0]}.config"
        for name in ("batching_parameters", "monitoring_config")
    ]
    own = ("--max_body_bytes=100000", "--max_batch=1000", f"--api_key_file={root}/key")
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


def test_batching_asks_for_a_dimension_0(batched):
    response = batched.post("/v1/models/half:predict", {"inputs": 1.0}, **KEY)
    assert response.status_code == 400
    assert response.json()["error"] == "Batching Run() input tensors must have at least one dimension"


def test_more_rows_than_a_batch_takes(batched):
    response = batched_answer(batched, [0.0] * 9)
    assert response.status_code == 400
    assert response.json()["error"] == "Task size 9 is larger than maximum input batch size 8"


def test_warmup_records_are_replayed_at_load(batched):
    assert sample(batched, ":tensorflow:serving:model_warmup_latency_count") == 1


def test_limits_are_named(batched):
    assert "1000 (--max_batch)" in batched_answer(batched, [0] * 1001).json()["error"]
    response = batched.post("/v1/models/half:predict", b" " * 100_001, **KEY)
    assert (response.status_code, "100000 bytes (--max_body_bytes)" in response.json()["error"]) == (
        413,
        True,
    )


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
        assert (
            call(request, metadata=[("authorization", "Bearer open sesame")]).model_version_status[0].version
            == 1
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


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


# --- hostile input -------------------------------------------------------------------------------------------------

HOSTILE = [
    pytest.param(b"[" * 90_000, id="deep JSON"),
    pytest.param(b'{"inputs":' + b"[" * 900 + b"1" + b"]" * 900 + b"}", id="deep tensor"),
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


# --- stopping ------------------------------------------------------------------------------------------------------


def test_a_stop_answers_what_has_arrived(start, half):
    """SIGTERM: the ports close, the requests that have arrived are answered, the exit code is 0."""
    server = start("--model_name=half", f"--model_base_path={half}")
    address = ("127.0.0.1", int(server.rest.rsplit(":", 1)[1]))
    body = b'{"instances": [2.0]}'
    head = "POST /v1/models/half:predict HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(address, timeout=20) as caller:
        caller.sendall((head % len(body)).encode())
        assert caller.recv(1000).startswith(b"HTTP/1.1 100")  # the request is being read
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refused(address), "the port is closed")
        caller.sendall(body)
        answered = b"".join(iter(lambda: caller.recv(1000), b""))
    assert answered.startswith(b"HTTP/1.1 200")
    assert b"3.0" in answered
    assert server.process.wait(20) == 0


def _refused(address):
    try:
        socket.create_connection(address).close()
    except OSError:
        return True
    return False


def test_a_timeout_is_a_504(start, models):
    """--rest_api_timeout_in_ms ends a request."""
    flags = (
        "--model_name=kinds",
        f"--model_base_path={models}/kinds",
        "--rest_api_timeout_in_ms=300",
        "--port=0",
    )
    server = start(*flags)
    response = server.post("/v1/models/kinds:predict", {"signature_name": "slow", "inputs": [2_000_000_000]})
    assert (response.status_code, response.json()) == (504, {"error": "Timed out waiting for notification"})


def test_a_bad_warmup_record_is_a_version_that_does_not_load(half, tmp_path):
    """saved_model_warmup: an error in the records fails the load; it keeps this test off the network to load in process."""
    from serving.server.errors import RequestError
    from serving.server.metrics import Metrics
    from serving.server.options import ServerOptions
    from serving.server.servable import Servable

    publish(half / "1", tmp_path, 1)
    (tmp_path / "1" / "assets.extra").mkdir()
    record = b"not a PredictionLog"
    framed = struct.pack("<Q", len(record)) + b"\0\0\0\0" + record + b"\0\0\0\0"
    (tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(framed)
    with pytest.raises(Exception) as caught:
        Servable("half", 1, tmp_path / "1", ServerOptions(), Metrics())
    assert "corrupted record" in RequestError.of(caught.value).message
