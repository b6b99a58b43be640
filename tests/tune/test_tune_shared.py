"""Keras Tuner's chief and two workers, as three processes on loopback: `python -m trainer tune`, thrice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.config import load

ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds for all of it
pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture
def start(tmp_path, tiny_arguments, port):
    """Starts a process of the search by its name; whatever still runs is stopped in the end."""
    processes: list[subprocess.Popen[str]] = []
    settings = tmp_path / "ranges.toml"
    settings.write_text(
        '[tune]\nalgorithm = "random"\n[tune.parameters]\n'
        '"retrieval.embedding_dimension" = {choice = [2, 4, 8]}\n'
        '"retrieval.temperature" = {float = [0.05, 1.0], log = true}\n'
    )
    shared = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}

    def begin(name: str, trials: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainer", "tune", "--config", str(settings), *tiny_arguments]
        process = subprocess.Popen(
            [*command, "train.epochs=2", "--trials", str(trials), "--workdir", str(tmp_path / "search")],
            cwd=ROOT,
            env={**os.environ, **shared, "KERASTUNER_TUNER_ID": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output[-3000:]
    return output


def trials(workdir: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted((workdir / "search").glob("trial_*/trial.json"))]


def wait_for(process: subprocess.Popen[str], ready) -> None:
    until = time.monotonic() + LIMIT
    while not ready():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < until
        time.sleep(0.2)


def test_two_workers_share_the_trials_and_the_chief_writes_the_best(start, tmp_path):
    chief, *workers = (start(name, trials=6) for name in ("chief", "tuner0", "tuner1"))
    said = [finish(worker) for worker in workers]
    finish(chief)
    home = tmp_path / "search"
    done = trials(home)
    assert len(done) == 6
    assert {trial["status"] for trial in done} == {"COMPLETED"}
    trained = [{path.name for path in (tmp_path / f"search-tuner{n}" / "trials").iterdir()} for n in (0, 1)]
    assert all(trained)  # both had some
    assert not trained[0] & trained[1]  # none was trained twice
    assert len(trained[0] | trained[1]) == 6
    best = max(done, key=lambda trial: trial["score"])["hyperparameters"]["values"]
    found = load(None, home / "best.toml").retrieval
    assert found.embedding_dimension == best["retrieval.embedding_dimension"]
    assert found.temperature == pytest.approx(best["retrieval.temperature"])
    assert len((home / "trials.md").read_text().split("\n\n")[0].splitlines()) == 8
    assert all("the chief writes best.toml" in output for output in said)
    assert not list(tmp_path.glob("search-*/best.toml"))


def test_a_chief_that_is_stopped_is_taken_up_again(start, tmp_path):
    """Ctrl-C ends the chief; its worker waits and goes on with the next one, and no finished trial is lost."""
    home = tmp_path / "search"
    chief, worker = start("chief", trials=5), start("tuner0", trials=5)
    wait_for(chief, lambda: len([trial for trial in trials(home) if trial["status"] == "COMPLETED"]) >= 2)
    chief.send_signal(signal.SIGINT)
    output, _ = chief.communicate(timeout=60)
    assert chief.returncode == 130, output[-3000:]
    before = {trial["trial_id"]: trial["score"] for trial in trials(home) if trial["status"] == "COMPLETED"}
    assert worker.poll() is None

    again = start("chief", trials=5)
    finish(worker)
    finish(again)
    after = {trial["trial_id"]: trial["score"] for trial in trials(home)}
    assert len(after) == 5
    assert before.items() <= after.items()
    assert (home / "best.toml").exists()
