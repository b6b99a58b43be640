"""A real server process on free loopback ports, shared by the serving conformance suite."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from serving_models import write_models

STARTS_WITHIN = 60.0


@dataclass
class Server:
    """Where a server listens, and its process where it is ours."""

    rest: str
    grpc: str
    process: subprocess.Popen | None = None
    log: Path | None = None

    def get(self, path, **kwargs):
        return httpx.get(f"{self.rest}{path}", timeout=20, trust_env=False, **kwargs)

    def post(self, path, body, **kwargs):
        kind = {"json": body} if isinstance(body, dict) else {"content": body}
        return httpx.post(f"{self.rest}{path}", timeout=20, trust_env=False, **kind, **kwargs)

    def states(self, model):
        entries = self.get(f"/v1/models/{model}").json()["model_version_status"]
        return {int(entry["version"]): entry["state"] for entry in entries}


def free_ports(count):
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def eventually(check, what, within=30.0):
    """What `check` returns once that is true; fails when it never is."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if outcome := check():
                return outcome
        time.sleep(0.05)  # between two looks at the condition
    return pytest.fail(f"not within {within} s: {what}")


@contextlib.contextmanager
def running(log, *flags, scheme="http", ready=True):
    """A server with `flags`, up and answering."""
    rest, rpc = free_ports(2)
    command = [sys.executable, "-m", "serving", "serve", f"--port={rpc}", f"--rest_api_port={rest}", *flags]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        server = Server(f"{scheme}://127.0.0.1:{rest}", f"127.0.0.1:{rpc}", process, log)

        def up():
            assert process.poll() is None, f"the server has ended:\n{log.read_text()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", rest)):
                return True

        try:
            if ready:
                eventually(up, "the REST port is open", STARTS_WITHIN)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A directory with the suite's models and their configuration."""
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    return root


@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    """The server under test: that of SERVING_URL (and SERVING_GRPC), or an embedded one of its own."""
    if url := os.environ.get("SERVING_URL"):
        return (yield Server(url.rstrip("/"), os.environ.get("SERVING_GRPC", "127.0.0.1:8500")))
    root = request.getfixturevalue("models")
    flags = [
        f"--model_config_file={root}/models.config",
        f"--monitoring_config_file={root}/monitoring.config",
    ]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running(log, *flags, "--allow_version_labels_for_unavailable_models=true") as embedded:
        yield embedded


@pytest.fixture(scope="session")
def channel(server):
    """A gRPC channel to the server under test."""
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture
def start(tmp_path):
    """Starts further servers, `start(*flags)`, that stop with the test; not for a server given by SERVING_URL."""
    if os.environ.get("SERVING_URL"):
        pytest.skip("needs a server of its own")
    with contextlib.ExitStack() as stack:
        yield lambda *flags, **kwargs: stack.enter_context(
            running(tmp_path / f"server-{len(list(tmp_path.iterdir()))}.log", *flags, **kwargs)
        )
