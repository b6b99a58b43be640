"""How quickly the client is there: the limit of 0.3 s over the seconds from a bare interpreter to a client, in fresh processes."""

import statistics
import subprocess
import sys

LIMIT, ROUNDS = 0.3, 7


def run() -> dict[str, float]:
    """Returns the limit over the median seconds, for a REST and a gRPC client."""
    urls = {"rest": "http://127.0.0.1:8501", "grpc": "grpc://127.0.0.1:8500"}
    return {f"client_start_limit_over_{name}": LIMIT / seconds(url) for name, url in urls.items()}


def seconds(url: str) -> float:
    """Returns the median seconds that import and construction take."""
    code = (
        "import time; began = time.perf_counter()\n"
        "from serving.client import Recommender\n"
        f"Recommender({url!r})\n"
        "print(time.perf_counter() - began)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(ROUNDS)
    ]
    return statistics.median(float(run.stdout) for run in runs)
