"""`python -m tests.benchmarks.soak --seconds 600`: a server under everything at once, whose memory must stay flat.

Good requests, bad ones, other verbs and new versions arrive together for as long as is asked. Memory is the resident size
of the server: the median of the last quarter of the time is compared with that of the second, the first being warm-up.
"""

import argparse
import contextlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from serving.client import Recommender, RecommenderError
from serving.demo import free_ports
from tests.contract.serving_models import write_recommender

CALLERS, VERSION_EVERY, BATCH = 4, 5.0, 20  # threads, seconds, users a request
ALLOWED = 16 << 20  # bytes of growth: what the allocator keeps of the versions that came and went
PATH = "/v1/models/recommender"
BAD: list[tuple[str, str, bytes]] = [
    ("POST", f"{PATH}:predict", b'{"instances": ['),
    ("POST", f"{PATH}:predict", b'{"signature_name": "no", "instances": [1]}'),
    ("POST", f"{PATH}:predict", b'{"signature_name": "recommend", "inputs": {"k": [1]}}'),
    ("POST", "/v1/models/no:predict", b"{}"),
    ("PUT", PATH, b"\xff" * 10_000),
    ("GET", f"{PATH}/metadata", b""),
    ("GET", PATH, b""),
    ("GET", "/monitoring/prometheus/metrics", b""),
]


def main() -> int:
    """Runs the soak, prints its figures, and returns 1 where a request failed or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    seconds = parser.parse_args().seconds
    answers: Counter[str] = Counter()
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        base = Path(folder) / "recommender"
        write_recommender(base / "1")
        process, rest, rpc = stack.enter_context(served(base))
        end = time.monotonic() + seconds
        work = [
            threading.Thread(target=ask, args=(url, end, answers))
            for url in (rest, rpc)
            for _ in range(CALLERS // 2)
        ]
        work += [
            threading.Thread(target=err, args=(rest, end, answers)),
            threading.Thread(target=swap, args=(base, end)),
        ]
        for thread in work:
            thread.start()
        while time.monotonic() < end:
            sizes.append(process.memory_info().rss)
            time.sleep(min(1.0, seconds / 100))  # one sample
        for thread in work:
            thread.join()
    quarter = len(sizes) // 4
    grown = statistics.median(sizes[-quarter:]) - statistics.median(sizes[quarter : 2 * quarter])
    print(json.dumps({"answers": answers, "MiB": [size >> 20 for size in sizes[:: max(quarter // 2, 1)]]}))
    passed = grown <= ALLOWED and answers["good"] > 0 and not answers["failed"]
    print(
        f"{'passed' if passed else 'FAILED'}: memory grew by {grown / 2**20:.1f} MiB in {seconds:.0f} s "
        f"({ALLOWED >> 20} MiB are allowed), {answers['failed']} requests failed"
    )
    return int(not passed)


@contextlib.contextmanager
def served(base: Path) -> Iterator[tuple[psutil.Process, str, str]]:
    """Yields the server's process and its REST and gRPC addresses."""
    rest, rpc = free_ports(2)
    monitoring = base.parent / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    command = [
        sys.executable,
        "-m",
        "serving",
        "serve",
        "--model_name=recommender",
        f"--model_base_path={base}",
    ]
    command += [
        f"--rest_api_port={rest}",
        f"--port={rpc}",
        "--enable_batching",
        f"--monitoring_config_file={monitoring}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            with Recommender(f"http://127.0.0.1:{rest}") as recommender:
                recommender.wait_until_ready(120)
            yield psutil.Process(process.pid), f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{rpc}"
        finally:
            process.terminate()


def ask(url: str, end: float, answers: Counter[str]) -> None:
    """Asks for many users until the end; every answer must be theirs."""
    with Recommender(url, timeout=20, retries=0) as recommender:
        for turn in itertools.count():
            if time.monotonic() > end:
                return
            users = [f"{turn}.{user}" for user in range(BATCH)]
            try:
                found = recommender.recommend_many(users, 10)
            except RecommenderError as error:
                if not answers["failed"]:
                    print(error, file=sys.stderr)
                answers["failed"] += 1
                continue
            right = all(row[0].item_id == f"{user}-0" for user, row in zip(users, found, strict=True))
            answers["good" if right else "failed"] += 1


def err(url: str, end: float, answers: Counter[str]) -> None:
    """Sends what is refused, and asks for what is no prediction, until the end."""
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        for method, path, body in itertools.cycle(BAD):
            if time.monotonic() > end:
                return
            status = client.request(method, path, content=body).status_code
            answers["failed" if status >= 500 else "other"] += 1


def swap(base: Path, end: float) -> None:
    """Publishes a new version again and again, and deletes the oldest."""
    for version in itertools.count(2):
        time.sleep(min(VERSION_EVERY, max(end - time.monotonic(), 0)))  # the rhythm of the versions
        if time.monotonic() >= end:
            return
        shutil.copytree(base / str(version - 1), base / f".tmp-{version}")
        (base / f".tmp-{version}").rename(base / str(version))
        shutil.rmtree(base / str(version - 2), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
