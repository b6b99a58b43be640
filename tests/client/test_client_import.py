"""The client brings no TensorFlow: looked at in fresh processes. How fast it starts is in tests/benchmarks."""

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


@pytest.mark.parametrize(
    "code",
    [
        "from serving.client import Recommender; Recommender('http://127.0.0.1:8501')",
        "from serving.client import Recommender; Recommender('grpc://127.0.0.1:8500')",
        "import serving.client.rest, serving.client.rpc, serving.client.hedging, serving.client.comparison",
        "from serving.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from serving.__main__ import main; assert main(['recommend', '--k', '0']) == 2",
    ],
)
def test_nothing_heavy_comes_along(code: str) -> None:
    report = f"\nimport sys; print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    assert run(code + report).splitlines()[-1] == "HEAVY []"
