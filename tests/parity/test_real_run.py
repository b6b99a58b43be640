"""The command of the README on MovieLens latest-small, with fewer epochs and narrower blocks, and what it must come to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.client import Recommender

pytestmark = [pytest.mark.slow, pytest.mark.long]
ROOT = Path(__file__).parents[2]
PATH = "../shared/data/ml-latest-small"


@pytest.fixture(scope="module")
def real(movielens_folder, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("real") / "RUN"
    words = ["--preset", "movielens-latest-small", f"data.source.path={PATH}", "--workdir", str(workdir)]
    shorter = ["train.epochs=3", "retrieval.factorisation_rank=64"]
    shorter += [
        "export.cascade.light_weight=0",
        "export.cascade.deep_weight=0",
    ]  # served is what retrieval gives
    command = [sys.executable, "-m", "trainer", "train", *words, *shorter]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def metrics(real) -> dict:
    return json.loads((real / "metrics.json").read_text())


def test_what_is_written(real, metrics):
    assert {"retrieval", "ranking", "seconds"} <= set(metrics)
    assert {"recall@10", "ndcg@10", "mrr", "cases"} <= set(metrics["retrieval"]["test"])
    assert {"recall@10", "ndcg@10"} <= set(metrics["retrieval"]["baselines"]["popularity"])
    assert {"rmse", "mae"} <= set(metrics["ranking"]["test"])
    for name in ("global_mean", "user_item_bias"):
        assert {"rmse", "mae"} <= set(metrics["ranking"]["baselines"][name])
    assert all(spent >= 0 for spent in metrics["seconds"].values()) and metrics["seconds"]
    assert metrics["retrieval"]["test"]["alarms"] == metrics["ranking"]["test"]["alarms"] == []
    for name in ("config.toml", "leaderboard.md", "bundle/manifest.json"):
        assert (real / name).exists()


def test_retrieval_is_clearly_above_popularity(metrics):
    model, popularity = metrics["retrieval"]["test"], metrics["retrieval"]["baselines"]["popularity"]
    for metric in ("recall@10", "ndcg@10"):
        assert model[metric] > 1.5 * popularity[metric]
        assert model["intervals"][metric][0] > popularity["intervals"][metric][1]


def test_ranking_is_clearly_below_the_biases(metrics):
    model, biases = metrics["ranking"]["test"], metrics["ranking"]["baselines"]["user_item_bias"]
    assert model["rmse"] < 0.99 * biases["rmse"]
    assert model["mae"] < biases["mae"]


def test_the_server_gives_a_user_of_the_file_the_evaluators_ten(real, metrics):
    from serving.demo import served
    from trainer import experiment
    from trainer.evaluation.retrieval import evaluate_retrieval
    from trainer.retrieval.inference import scorer

    run = experiment.reopen(real, [])
    prepared = run.prepared
    report = evaluate_retrieval(
        scorer(run.retrieval.retriever, prepared), prepared.test, prepared, run.config.evaluate
    )
    assert report.values["ndcg@10"] == pytest.approx(metrics["retrieval"]["test"]["ndcg@10"], abs=1e-6)
    users = prepared.users.decode(prepared.test.user)
    wanted = [prepared.items.decode(row[:10]) for row in report.lists]
    with served(real / "bundle") as url, Recommender(url, timeout=60) as recommender:
        recommender.wait_until_ready(120)
        found = recommender.recommend_many(users, 10)
        single = recommender.recommend("42")
    assert [item.item_id for item in single] == wanted[users.index("42")]
    assert [[item.item_id for item in row] for row in found] == wanted
