"""A real `kill -9` of a real training run, and the same command again: the run ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 180  # seconds for one run
pytestmark = [pytest.mark.slow, pytest.mark.long]


def start(workdir: Path, arguments) -> subprocess.Popen[str]:
    # Many short epochs, so that the kill falls between the second and the last; --allow: the tiny model need not be good.
    more = ["train.epochs=12", "train.patience=12", "ranking.epochs=6", "export.keep_versions=2"]
    command = [sys.executable, "-m", "trainer", "train", *arguments, *more, "--allow-below-baseline"]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output[-3000:]


def kill_after(process: subprocess.Popen[str], epochs: Path, entries: int) -> int:
    """Kills the run, hard, once so many entries are recorded; returns how many there were."""
    until = time.monotonic() + LIMIT
    while not (epochs.exists() and len(json.loads(epochs.read_text())) >= entries):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return len(json.loads(epochs.read_text()))


def figures(workdir: Path) -> dict:
    metrics = json.loads((workdir / "metrics.json").read_text())
    del metrics["seconds"], metrics["cascade"]["milliseconds"]
    return metrics


def flat(value, path=""):
    if isinstance(value, dict):
        return {
            name: leaf for key, inner in value.items() for name, leaf in flat(inner, f"{path}/{key}").items()
        }
    if isinstance(value, list):
        return flat(dict(enumerate(value)), path)
    return {path: value}


def test_killed_twice_and_run_again_it_ends_with_the_same_figures(tmp_path, tiny_arguments):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole, tiny_arguments))

    retrieval = broken / "retrieval" / "checkpoint" / "epochs.json"
    done = kill_after(start(broken, tiny_arguments), retrieval, entries=2)
    assert done < 13, "killed too late to show anything"
    assert not (broken / "metrics.json").exists()
    ranking = broken / "ranking" / "checkpoint" / "epochs.json"
    kill_after(start(broken, tiny_arguments), ranking, entries=2)
    finish(start(broken, tiny_arguments))

    for part in ("retrieval", "ranking"):
        recorded = [
            json.loads((run / part / "checkpoint" / "epochs.json").read_text()) for run in (whole, broken)
        ]
        assert len(recorded[0]) == len(recorded[1])
        assert flat(recorded[0]) == pytest.approx(flat(recorded[1]), rel=1e-6, nan_ok=True)
    wanted, found = flat(figures(whole)), flat(figures(broken))
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert found[name] == (
            pytest.approx(value, rel=1e-6, nan_ok=True) if isinstance(value, float) else value
        ), name
    assert (broken / "bundle" / "manifest.json").exists()
    assert not list((broken / "bundle").glob(".staging*"))
