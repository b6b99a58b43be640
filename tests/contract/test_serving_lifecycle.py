"""How versions come and go: tensorflow.org/tfx/serving/serving_config and /architecture, and what a stop does.

These start servers of their own, and are skipped for a server given by SERVING_URL.
"""

import concurrent.futures
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
import tensorflow as tf
from serving_models import publish
from serving_process import Server, eventually, free_ports, running
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

pytestmark = pytest.mark.skipif("SERVING_URL" in os.environ, reason="needs a server of its own")
MODELS = ("swap", "broken", "rollback", "ignored", "several")
LONG = 1_000_000  # steps of the model that only counts: some seconds
CONFIG = """model_config_list {{
  {models}
  config {{
    name: "several" base_path: "{root}/several" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 3 }} }}
    version_labels {{ key: "stable" value: {stable} }}
  }}
}}
"""


def configure(root, stable):
    simple = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    text = CONFIG.format(
        models="\n  ".join(simple.format(name, root) for name in MODELS[:-1]), root=root, stable=stable
    )
    (root / ".models.config").write_text(text)
    (root / ".models.config").rename(root / "models.config")


@pytest.fixture(scope="module")
def site(half, tmp_path_factory):
    """A server of several models, each for one test, and the directory that they lie in."""
    root = tmp_path_factory.mktemp("site")
    for name in MODELS:
        for version in (1, 2, 3) if name == "several" else (1,):
            publish(half / "1", root / name, version)
    configure(root, stable=1)
    (root / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = (
        f"--model_config_file={root}/models.config",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",
        "--max_num_load_retries=0",
    )
    with running(root / "server.log", *flags, f"--monitoring_config_file={root}/monitoring.config") as server:
        yield server, root


def answer(server, model, which=""):
    response = server.post(f"/v1/models/{model}{which}:predict", {"instances": [0.0]})
    assert response.status_code == 200, response.text
    return response.json()["predictions"][0]


def test_a_new_version_takes_over_and_no_request_fails(site, half):
    """AvailabilityPreservingPolicy: the new version is loaded before the old one is dropped."""
    server, root = site
    stop = threading.Event()

    def ask():
        answers = []
        while not stop.is_set():
            answers.append(answer(server, "swap"))
        return answers

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(ask) for _ in range(4)]
        publish(half / "2", root / "swap", 2)
        try:
            eventually(
                lambda: server.states("swap") == {2: "AVAILABLE", 1: "END"}, "version 2 has taken over"
            )
        finally:
            stop.set()
        heard = [caller.result() for caller in callers]
    assert heard == [sorted(answers) for answers in heard]  # version 1 until a moment, version 2 from then on
    assert {value for answers in heard for value in answers} == {1.0, 2.0}


def test_a_broken_version_is_reported_and_the_old_one_serves(site, half):
    server, root = site
    shutil.copytree(half / "2", root / "broken" / ".new")
    (root / "broken" / ".new" / "saved_model.pb").write_bytes(b"not a SavedModel")
    (root / "broken" / ".new").rename(root / "broken" / "2")
    eventually(lambda: server.states("broken").get(2) == "END", "version 2 is given up")
    broken, serving = server.get("/v1/models/broken").json()["model_version_status"]
    assert broken["status"] == {
        "error_code": "OUT_OF_RANGE",
        "error_message": "Read less bytes than requested",
    }
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


def test_a_server_starts_without_models_and_is_given_them(start, half, tmp_path):
    """ServerCore::ReloadConfig: an empty list unloads everything, an empty file "takes no action"."""

    def say(text):
        (tmp_path / ".new").write_text(text)
        (tmp_path / ".new").rename(tmp_path / "models.config")

    listed = f'config {{ name: "half" base_path: "{half}" model_platform: "tensorflow" }}'
    say("")
    flags = (f"--model_config_file={tmp_path}/models.config", "--model_config_file_poll_wait_seconds=1")
    server = start(*flags)
    assert server.get("/v1/models/half").status_code == 404
    say(f"model_config_list {{ {listed} }}")
    eventually(lambda: server.get("/v1/models/half").status_code == 200, "the model is there")
    say("")
    time.sleep(2.5)  # two times that the file is read
    assert answer(server, "half") == 2.0
    say("model_config_list {}")
    eventually(lambda: server.states("half") == {2: "END"}, "the model is unloaded")


@pytest.mark.slow
def test_a_line_of_json_says_when_the_server_is_ready(half, tmp_path):
    (rest,) = free_ports(1)
    flags = ["--model_name=half", f"--model_base_path={half}", "--port=0", f"--rest_api_port={rest}"]
    command = [sys.executable, "-m", "serving", "serve", "--json", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            said = json.loads(process.stdout.readline())
            assert said == {"host": "127.0.0.1", "port": 0, "rest_api_port": rest, "models": {"half": 2}}
            assert Server(f"http://127.0.0.1:{rest}", "").states("half") == {2: "AVAILABLE"}
        finally:
            process.terminate()


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


@pytest.mark.slow
def test_a_stop_answers_the_calls_that_run(start, models):
    """The same over gRPC: a call that runs when the signal comes is answered, one that comes later is not taken."""
    server = start("--model_name=kinds", f"--model_base_path={models}/kinds")
    address = ("127.0.0.1", int(server.grpc.rsplit(":", 1)[1]))
    with grpc.insecure_channel(server.grpc) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        running = predict.future(_slow(LONG), timeout=60)
        predict(_slow(1), timeout=60)  # calls begin in the order in which they arrive
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refused(address), "the port is closed")
        assert not running.done(), "the call must outlast the port, or this tests nothing"
        assert running.result().outputs["y"].int_val[0] == LONG
    assert server.process.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("batching", [(), ("--enable_batching",)], ids=["alone", "batched"])
def test_a_call_that_outlasts_the_time_to_drain_is_told(start, models, batching):
    """As UNAVAILABLE, which clients try elsewhere."""
    server = start("--model_name=kinds", f"--model_base_path={models}/kinds", "--drain_seconds=1", *batching)
    address = ("127.0.0.1", int(server.rest.rsplit(":", 1)[1]))
    body = json.dumps({"signature_name": "slow", "instances": [3 * LONG]}).encode()
    head = b"POST /v1/models/kinds:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.create_connection(address, timeout=20) as caller:
        caller.sendall(head + body)
        assert server.get("/v1/models/kinds").status_code == 200  # the call before it has begun
        server.process.send_signal(signal.SIGTERM)
        answered = b"".join(iter(lambda: caller.recv(1000), b""))
    assert answered.startswith(b"HTTP/1.1 503 ")
    assert b"The server is shutting down" in answered
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def _slow(steps):
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "kinds", "slow"
    message.inputs["x"].CopyFrom(tf.make_tensor_proto([steps], tf.int32))
    return message


def _refused(address):
    try:
        socket.create_connection(address).close()
    except OSError:
        return True
    return False
