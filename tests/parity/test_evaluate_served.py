"""`evaluate --bundle` and `--url`: the figures of what was exported, and of what is served, are those of the model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from serving.client import Recommender
from trainer.__main__ import main
from trainer.evaluation import served
from trainer.evaluation.retrieval import evaluate_retrieval
from trainer.retrieval.inference import scorer

METRICS = ("recall@10", "ndcg@10", "hit_rate@20", "map@5", "novelty@10", "coverage@20")


@pytest.fixture(scope="module")
def copy(workdir, tmp_path_factory):
    """A copy of the run that may be written into."""
    home = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(workdir, home)
    return home


@pytest.fixture(scope="module")
def wanted(run):
    """The offline figures of the same cases."""
    return evaluate_retrieval(
        scorer(run.retrieval.retriever, run.prepared), run.prepared.test, run.prepared, run.config.evaluate
    ).as_dict()


def test_an_exported_bundle_measures_as_the_model_does(copy, wanted):
    assert main(["evaluate", "--workdir", str(copy), "--bundle", str(copy / "bundle")]) == 0
    found = json.loads((copy / "metrics-bundle.json").read_text())["retrieval"]["test"]
    assert {name: found[name] for name in METRICS} == pytest.approx({name: wanted[name] for name in METRICS})
    assert found["alarms"] == []
    assert "mrr" not in found and found["mrr@50"] <= wanted["mrr"]
    assert any("mrr cannot be had" in line for line in found["notes"])
    board = json.loads((copy / "leaderboard.json").read_text())["retrieval"]
    assert {"bundle", "model", "popularity"} <= {row["name"] for row in board}
    assert "| bundle |" in (copy / "leaderboard.md").read_text()


def test_a_running_server_measures_as_the_model_does(copy, wanted, server):
    with Recommender(server[0]) as recommender:
        recommender.wait_until_ready(120)
    assert main(["evaluate", "--workdir", str(copy), "--url", server[0]]) == 0
    found = json.loads((copy / "metrics-server.json").read_text())["retrieval"]["test"]
    assert {name: found[name] for name in METRICS} == pytest.approx({name: wanted[name] for name in METRICS})
    board = json.loads((copy / "leaderboard.json").read_text())["retrieval"]
    assert [row["name"] for row in board].count("server") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--bundle", "nowhere"], "no bundle at nowhere"),
        (["--url", "http://127.0.0.1:9"], "no answer from http://127.0.0.1:9"),
        (["--url", "nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_asked_is_a_line(copy, words, line, capsys):
    assert main(["evaluate", "--workdir", str(copy), *words]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and line in last


def test_bundle_and_baselines_are_not_asked_for_at_once(copy, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--workdir", str(copy), "--baselines", "--url", "http://127.0.0.1:1"])
    assert "not allowed with" in capsys.readouterr().err


def test_strangers_in_a_context_measure_as_the_model_does(copy, run):
    """Users that the run does not know are asked for by their history, through the signature with every wish."""
    test = run.prepared.test
    cases = dataclasses.replace(test, user=np.zeros_like(test.user))
    lists = served.bundle(copy / "bundle", "recommender").lists(run.prepared)
    found, offline = (
        evaluate_retrieval(model, cases, run.prepared, run.config.evaluate).as_dict()
        for model in (lists, scorer(run.retrieval.retriever, run.prepared))
    )
    assert run.prepared.schema.context
    assert {name: found[name] for name in METRICS} == pytest.approx({name: offline[name] for name in METRICS})
