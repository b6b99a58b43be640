"""Rows sorted, with intervals and costs; a baseline that cannot be had is a line and no end of the run."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from test_baselines import dataset

from trainer import leaderboard
from trainer.baselines import ease as ease_file
from trainer.config import DataSettings, EvaluateSettings
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.evaluate import evaluate_ranking, evaluate_retrieval
from trainer.progress import Reporter


@pytest.fixture(scope="module")
def ring():
    return prepare(dataset(), DataSettings())


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=200)


def test_a_run_writes_both_files(ring, screen, tmp_path):
    reporter, settings = Reporter(screen), EvaluateSettings(bootstrap=50)
    retrieval, ranking, costs = {}, {}, {}
    for name in ("popularity", "transitions", "ease_decayed"):
        fitted, costs[name] = leaderboard.fit("baseline", name, ring, reporter)
        retrieval[name] = evaluate_retrieval(fitted, ring.test, ring, settings)
    retrieval["model"] = retrieval.pop("ease_decayed")
    for name in ("global_mean", "user_item_bias"):
        fitted, costs[name] = leaderboard.fit("rating_baseline", name, ring, reporter)
        ranking[name] = evaluate_ranking(fitted, ring.rated_test, ring, settings)
    leaderboard.write(retrieval, ranking, costs, tmp_path, screen)

    board = json.loads((tmp_path / "leaderboard.json").read_text())
    figures = [row["ndcg@10"] for row in board["retrieval"]]
    assert figures == sorted(figures, reverse=True)
    assert [row["name"] for row in board["ranking"]] == ["user_item_bias", "global_mean"]
    popularity = next(row for row in board["retrieval"] if row["name"] == "popularity")
    assert popularity["difference"][0] < 0 and popularity["seconds"] >= 0 and popularity["memory_mb"] >= 0
    assert len(popularity["intervals"]["ndcg@10"]) == 2
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| popularity |" in text and "ndcg@10 - model" in text and "## Ranking, by rmse" in text
    assert "retrieval, test" in screen.file.getvalue()


def test_a_baseline_that_cannot_be_had_is_a_line(ring, screen, monkeypatch):
    monkeypatch.setattr(ease_file, "LIMIT", 20)
    assert leaderboard.fit("baseline", "ease", ring, Reporter(screen)) is None
    assert "baseline ease is left out: ease would invert" in screen.file.getvalue()


def test_an_unknown_baseline_is_an_error(ring, screen):
    with pytest.raises(UserError, match="did you mean 'popularity'"):
        leaderboard.fit("baseline", "populairty", ring, Reporter(screen))


def test_the_cost_of_a_block_is_its_time_and_memory():
    with leaderboard.costing() as cost:
        block = np.ones(300 * 2**20, np.uint8)  # more than an allocator keeps for later
    assert block.sum() and cost.seconds > 0
    assert 200 < cost.memory_mb < 600
