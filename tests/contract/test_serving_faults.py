"""What a server on call lives through; each with real processes and real load. Slow, and of one's own server only."""

import asyncio
import concurrent.futures
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from serving_models import publish, write_half, write_recommender
from serving_process import eventually

from serving.client import Recommender

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SERVING_URL" in os.environ, reason="needs a server of its own"),
]
SWAP_SECONDS = float(os.environ.get("SWAP_SECONDS", "15"))  # `make soak`: 60, the whole minute
SOAK_SECONDS = os.environ.get("SOAK_SECONDS", "20")  # `make soak`: 600, the ten minutes
CROWD = int(os.environ.get("CROWD", "10000"))
ROOT = Path(__file__).parents[2]
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


@pytest.fixture
def half(tmp_path):
    write_half(tmp_path / "half" / "1", 1.0)
    return tmp_path / "half"


def test_a_new_version_every_second_under_load(start, half):
    server = start("--model_name=half", f"--model_base_path={half}")
    with load(server) as answers:
        until, version = time.monotonic() + SWAP_SECONDS, 1
        while time.monotonic() < until:
            version += 1
            publish(half / "1", half, version)
            time.sleep(1)  # the rhythm of the fault itself
        eventually(lambda: server.states("half").get(version) == "AVAILABLE", "the last version serves")
    assert {status for status, _ in answers} == {200}
    assert len({body for _, body in answers}) == 1


def test_memory_stays_flat_under_load():
    """`python -m tests.benchmarks.soak`: good and bad requests, REST and gRPC, batching, versions that come and go."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.soak", "--seconds", SOAK_SECONDS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_kill_under_load_costs_no_call_and_no_wrong_answer(start, tmp_path):
    """kill -9 while clients ask over REST and gRPC, and a new server on the same ports: their retries carry them over."""
    base = tmp_path / "recommender"
    write_recommender(base / "1")
    flags = ("--model_name=recommender", f"--model_base_path={base}")
    server = start(*flags)
    ports = (f"--rest_api_port={server.rest.rsplit(':', 1)[1]}", f"--port={server.grpc.rsplit(':', 1)[1]}")
    stop, answered = threading.Event(), []

    def ask(caller, url):
        with Recommender(url, timeout=60, retries=1000) as recommender:
            turn = 0
            while not stop.is_set():
                turn += 1
                user = f"{caller}.{turn}"
                found = [item for item, _ in recommender.recommend(user, 3)]
                answered.append((found == [f"{user}-{place}" for place in range(3)], again.is_set()))

    again = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        urls = [server.rest, f"grpc://{server.grpc}"]
        asked = [pool.submit(ask, caller, urls[caller % 2]) for caller in range(4)]
        try:
            eventually(lambda: len(answered) > 100, "the load is on")
            server.process.kill()
            server.process.wait(20)
            start(*flags, *ports, ready=False)
            eventually(
                lambda: server.get("/v1/models/recommender").status_code == 200, "it is back", within=60
            )
            again.set()
            eventually(lambda: sum(late for _, late in answered) > 100, "the callers go on")
        finally:
            stop.set()
        for one in asked:
            one.result()
    assert all(right for right, _ in answered)


FULL_DISK = """
import resource, shutil, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
shutil.copytree(sys.argv[1], sys.argv[2])
"""


def test_a_disk_that_is_full_at_publishing_harms_nobody(start, half):
    """A careless publisher, who writes in place, runs out of space: the old version serves on, the next attempt is taken."""
    server = start("--model_name=half", f"--model_base_path={half}", "--max_num_load_retries=0")
    words = [sys.executable, "-c", FULL_DISK, half / "1", half / "2"]
    assert subprocess.run(words, capture_output=True).returncode != 0
    assert (half / "2" / "saved_model.pb").stat().st_size <= 1000
    eventually(lambda: server.states("half").get(2) == "END", "what is cut off is given up")
    broken = server.get("/v1/models/half/versions/2").json()["model_version_status"][0]["status"]
    assert broken["error_code"] != "OK"
    assert broken["error_message"]
    assert server.post("/v1/models/half:predict", BODY).status_code == 200
    shutil.rmtree(half / "2")
    publish(half / "1", half, 2)
    eventually(lambda: server.states("half") == {2: "AVAILABLE", 1: "END"}, "the whole version is taken")


def test_a_slow_model_holds_up_only_its_own_callers(start, models):
    flags = (f"--model_config_file={models}/models.config", "--allow_version_labels_for_unavailable_models")
    server = start(*flags, "--port=0", "--rest_api_timeout_in_ms=4000")
    slow = {"signature_name": "slow", "inputs": [2_000_000_000]}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(server.post, "/v1/models/kinds:predict", slow) for _ in range(4)]
        with httpx.Client(base_url=server.rest, trust_env=False) as client:
            others = [client.post("/v1/models/half:predict", json=BODY).status_code for _ in range(50)]
        assert not any(one.done() for one in waiting), "the others had to wait"
    assert set(others) == {200}
    assert {one.result().status_code for one in waiting} == {504}
    assert server.post("/v1/models/half:predict", BODY).status_code == 200


def test_ids_of_a_megabyte_and_too_many_rows(start, tmp_path):
    write_recommender(tmp_path / "recommender" / "1")
    server = start("--model_name=recommender", f"--model_base_path={tmp_path}/recommender")
    with Recommender(server.rest) as rest, Recommender(f"grpc://{server.grpc}") as rpc:
        for recommender in (rest, rpc):
            assert recommender.recommend("x" * (1 << 20), 2)[1].item_id == "x" * (1 << 20) + "-1"
    rows = {"signature_name": "recommend", "inputs": {"user_id": ["u"] * 100_000, "k": [1] * 100_000}}
    rows["inputs"]["exclude"] = [[]] * 100_000
    response = server.post("/v1/models/recommender:predict", rows)
    assert response.status_code == 400
    assert "has 100000 rows; the limit is 10000 (--max_batch)" in response.json()["error"]


def test_connections_beyond_the_limit_are_refused_politely(start, half):
    """Everyone gets an answer, a 503 where the server is too full, and is served once the crowd has gone."""
    limit = 200
    server = start("--model_name=half", f"--model_base_path={half}", f"--max_connections={limit}", "--port=0")
    port = int(server.rest.rsplit(":", 1)[1])
    request = b"GET /v1/models/half HTTP/1.1\r\nhost: x\r\n\r\n"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = min(CROWD, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, crowd + 500), hard))

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        return (await reader.read(12))[-3:], writer

    async def visit(count):
        found = await asyncio.gather(*(one() for _ in range(count)))
        for _, writer in found:
            writer.close()
        return [status for status, _ in found]

    assert set(asyncio.run(visit(limit))) == {b"200"}
    eventually(lambda: server.get("/v1/models/half").status_code == 200, "they have gone")
    statuses = asyncio.run(visit(crowd))
    assert b"503" in statuses
    assert set(statuses) <= {b"200", b"503"}
    eventually(lambda: server.get("/v1/models/half").status_code == 200, "the server is itself again")


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
