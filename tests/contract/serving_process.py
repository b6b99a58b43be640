"""A real server process on free loopback ports, for the serving tests."""

import contextlib
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

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
