"""The client starts quickly and brings no TensorFlow: measured in fresh processes."""

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "tf_keras", "keras", "numpy", "trainer", "serving.server")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("url", ["http://127.0.0.1:8501", "grpc://127.0.0.1:8500"])
def test_a_client_is_there_in_a_blink(url: str) -> None:
    code = (
        "import time; began = time.perf_counter()\n"
        "from serving.client import AsyncRecommender, Recommender\n"
        f"Recommender({url!r}); AsyncRecommender({url!r})\n"
        "print(time.perf_counter() - began)"
    )
    assert min(float(run(code)) for _ in range(3)) < 0.3


@pytest.mark.parametrize(
    "code",
    [
        "import serving.client.rest, serving.client.rpc, serving.client.hedging, serving.client.comparison",
        "from serving.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from serving.__main__ import main; assert main(['recommend', '--k', '0']) == 2",
    ],
)
def test_nothing_heavy_comes_along(code: str) -> None:
    report = f"\nimport sys; print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    assert run(code + report).splitlines()[-1] == "HEAVY []"
