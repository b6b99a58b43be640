"""A server process that is killed under load and comes back: no call fails, no answer is wrong."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.client import Recommendation, Recommender

REST = """
import sys
from conftest import StubServer
StubServer(int(sys.argv[1])).serve_forever()
"""
GRPC = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from serving.client.messages import PredictRequest, PredictResponse

def predict(request, context):
    answer = PredictResponse()
    for name, dtype, field, value in (("item_id", 7, "string_val", b"i0"), ("score", 1, "float_val", 1.0)):
        tensor = answer.outputs[name]
        tensor.dtype = dtype
        tensor.tensor_shape.dim.add(size=1)
        tensor.tensor_shape.dim.add(size=1)
        getattr(tensor, field).append(value)
    return answer

server = grpc.server(ThreadPoolExecutor(4))
method = grpc.unary_unary_rpc_method_handler(
    predict, PredictRequest.FromString, PredictResponse.SerializeToString
)
service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": method})
server.add_generic_rpc_handlers((service,))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
"""


class Process:
    """A server in a process of its own, always on the same port."""

    def __init__(self, code: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._words = [sys.executable, "-c", code, str(self.port)]
        self.start()

    def start(self) -> None:
        here = Path(__file__).parent
        environment = {"PYTHONPATH": f"{here}:{here.parents[1]}", "PATH": ""}
        self._process = subprocess.Popen(self._words, env=environment)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(params=["http", "grpc"])
def process(request: pytest.FixtureRequest) -> Iterator[tuple[str, Process]]:
    running = Process(REST if request.param == "http" else GRPC)
    yield f"{request.param}://127.0.0.1:{running.port}", running
    running.kill()


def test_a_killed_server_costs_no_call(process: tuple[str, Process]) -> None:
    url, running = process
    answers: list[list[Recommendation]] = []
    errors: list[BaseException] = []
    enough = threading.Event()

    def load() -> None:
        try:
            while not enough.is_set():
                answers.append(client.recommend("42", 1))
        except BaseException as error:
            errors.append(error)

    def wait_for(count: int) -> None:
        target = len(answers) + count
        while len(answers) < target and not errors:
            enough.wait(0.005)

    with Recommender(url, timeout=30, retries=1000) as client:
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                wait_for(50)
                running.kill()
                running.start()
            wait_for(50)
        finally:
            enough.set()
            for thread in threads:
                thread.join()
    assert errors == []
    assert len(answers) >= 150 and all(answer == [("i0", 1.0)] for answer in answers)
