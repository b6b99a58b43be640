"""What a server on call lives through; each with real processes and real load. Slow, and of one's own server only."""

import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from serving_models import write_half
from serving_process import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SERVING_URL" in os.environ, reason="needs a server of its own"),
]
SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
BODY = {"instances": [0.0]}


@contextlib.contextmanager
def load(server, callers=4):
    """Callers that ask without a pause; yields the answers, as (status, body), that they got so far."""
    stop, answers = threading.Event(), []

    def ask():
        with httpx.Client(base_url=server.rest, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                response = client.post("/v1/models/half:predict", json=BODY)
                answers.append((response.status_code, response.text))

    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        asked = [pool.submit(ask) for _ in range(callers)]
        try:
            yield answers
        finally:
            stop.set()
        for one in asked:
            one.result()


def publish(source, base_path, version):
    shutil.copytree(source, base_path / f".tmp-{version}")
    (base_path / f".tmp-{version}").rename(base_path / str(version))


@pytest.fixture
def half(tmp_path):
    write_half(tmp_path / "half" / "1", 1.0)
    return tmp_path / "half"


def test_a_new_version_every_second_under_load(start, half):
    server = start("--model_name=half", f"--model_base_path={half}")
    with load(server) as answers:
        until, version = time.monotonic() + SECONDS, 1
        while time.monotonic() < until:
            version += 1
            publish(half / "1", half, version)
            time.sleep(1)  # the rhythm of the fault itself
        eventually(lambda: server.states("half").get(version) == "AVAILABLE", "the last version serves")
    assert {status for status, _ in answers} == {200}
    assert len({body for _, body in answers}) == 1


def test_memory_stays_flat_under_load(start, half):
    server = start("--model_name=half", f"--model_base_path={half}", "--enable_batching")
    process = psutil.Process(server.process.pid)
    with load(server) as answers:
        eventually(lambda: len(answers) > 2000, "the server is warm", within=60)
        before = process.memory_info().rss
        time.sleep(SECONDS)  # the soak
        after = process.memory_info().rss
    assert {status for status, _ in answers} == {200}
    assert after - before < 32 << 20, f"{(after - before) >> 20} MiB more after {len(answers)} requests"


def test_connections_beyond_the_limit_are_refused_politely(start, half):
    """Everyone gets an answer, a 503 where the server is too full, and is served once the crowd has gone."""
    limit, crowd = 200, 2_000
    server = start("--model_name=half", f"--model_base_path={half}", f"--max_connections={limit}", "--port=0")
    port = int(server.rest.rsplit(":", 1)[1])
    request = b"GET /v1/models/half HTTP/1.1\r\nhost: x\r\n\r\n"

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        return (await reader.read(12))[-3:], writer

    async def everyone():
        return await asyncio.gather(*(one() for _ in range(crowd)))

    async def visit():
        found = await everyone()
        for _, writer in found:
            writer.close()
        return [status for status, _ in found]

    statuses = asyncio.run(visit())
    assert b"503" in statuses
    assert set(statuses) <= {b"200", b"503"}
    eventually(lambda: server.get("/v1/models/half").status_code == 200, "the server is itself again")


def test_a_kill_leaves_nothing_that_a_restart_trips_over(start, half):
    server = start("--model_name=half", f"--model_base_path={half}")
    server.process.kill()
    server.process.wait(20)
    ports = (f"--rest_api_port={server.rest.rsplit(':', 1)[1]}", f"--port={server.grpc.rsplit(':', 1)[1]}")
    again = start("--model_name=half", f"--model_base_path={half}", *ports, ready=False)
    eventually(lambda: server.get("/v1/models/half").status_code == 200, "the port answers again", within=60)
    assert again.process.poll() is None


def test_a_slow_caller_holds_up_nobody(start, half):
    server = start("--model_name=half", f"--model_base_path={half}", "--rest_api_timeout_in_ms=2000")

    async def dawdle():
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.rest.rsplit(":", 1)[1]))
        writer.write(b"POST /v1/models/half:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        began = time.monotonic()
        others = await asyncio.to_thread(
            lambda: [server.post("/v1/models/half:predict", BODY).status_code for _ in range(50)]
        )
        status = (await reader.read(12))[-3:]
        writer.close()
        return others, status, time.monotonic() - began

    others, status, took = asyncio.run(dawdle())
    assert (set(others), status) == ({200}, b"504")
    assert took < 10


def test_a_half_written_version_is_taken_once_it_is_whole(start, half):
    server = start("--model_name=half", f"--model_base_path={half}")
    slow = half / "2"
    for source in sorted(Path(half / "1").rglob("*")):  # saved_model.pb arrives before the variables
        target = slow / source.relative_to(half / "1")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copy(source, target)
            time.sleep(1.5)  # longer than a poll: the server looks at each stage
        assert server.post("/v1/models/half:predict", BODY).status_code == 200
    eventually(lambda: server.states("half") == {2: "AVAILABLE", 1: "END"}, "version 2 serves")
