"""Rows sorted, with intervals and costs; a baseline that cannot be had is a line and no end of the run."""

import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console
from test_baselines import dataset

from trainer import memory
from trainer.baselines import ease as ease_file
from trainer.baselines import entry, item_knn
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.evaluation import leaderboard
from trainer.evaluation.ranking import evaluate_ranking
from trainer.evaluation.retrieval import evaluate_retrieval
from trainer.progress import Reporter
from trainer.settings import DataSettings, EvaluateSettings
from trainer.workdir import keep

PLAIN = EvaluateSettings(bootstrap=0)
OBJECTIVES = {"retrieval": "ndcg@10", "ranking": "rmse"}


@pytest.fixture(scope="module")
def ring():
    return prepare(dataset(), DataSettings())


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def enter(ring, screen):
    """Fits and measures a baseline as a run does."""

    def one(name, kind="baseline", world=ring, settings=PLAIN):
        def measure(fitted):
            if kind == "baseline":
                return evaluate_retrieval(fitted, world.test, world, settings)
            return evaluate_ranking(fitted, world.rated_test, world, settings)

        return entry.enter(kind, name, world, Reporter(screen), measure)

    return one


def board_of(enter, names, tmp_path, ratings=(), model=None, console=None, settings=PLAIN):
    """Enters baselines, one of them as the model, writes the leaderboard and returns what was written."""
    found, costs = {"retrieval": {}, "ranking": {}}, {"retrieval": {}, "ranking": {}}
    for task, kind, some in (("retrieval", "baseline", names), ("ranking", "rating_baseline", ratings)):
        for name in some:
            report, cost = enter(name, kind, settings=settings)
            row = "model" if name == model else name
            costs[task][row] = cost
            found[task] |= {} if report is None else {row: report}
    leaderboard.write(found, costs, OBJECTIVES, tmp_path, console)
    return json.loads((tmp_path / "leaderboard.json").read_text()), (tmp_path / "leaderboard.md").read_text()


def test_a_run_writes_both_files(enter, screen, tmp_path):
    names, ratings = ("popularity", "transitions", "ease_decayed"), ("global_mean", "user_item_bias")
    settings = EvaluateSettings(bootstrap=50)
    board, text = board_of(enter, names, tmp_path, ratings, "ease_decayed", screen, settings)
    figures = [row["ndcg@10"] for row in board["retrieval"]]
    assert figures == sorted(figures, reverse=True)
    assert [row["name"] for row in board["ranking"]] == ["user_item_bias", "global_mean"]
    popularity = next(row for row in board["retrieval"] if row["name"] == "popularity")
    assert popularity["difference"][0] < 0 and popularity["seconds"] >= 0 and popularity["memory_mb"] >= 0
    assert len(popularity["intervals"]["ndcg@10"]) == 2
    assert board["left_out"] == {} and "Left out" not in text
    assert "| popularity |" in text and "ndcg@10 - model" in text and "## Ranking, by rmse" in text
    assert "- popularity: collapse: " in text  # the alarms stand below the table
    assert "retrieval, test" in screen.file.getvalue()


def test_every_row_says_what_it_cost(enter, tmp_path):
    board, text = board_of(enter, ("popularity", "transitions"), tmp_path, model="transitions")
    assert all(row["seconds"] >= 0 and row["memory_mb"] >= 0 for row in board["retrieval"])
    model = next(line for line in text.splitlines() if line.startswith("| model |"))
    seconds, megabytes = [cell.strip() for cell in model.strip("|").split("|")][-2:]
    assert float(seconds) >= 0 and float(megabytes) >= 0


def test_baselines_that_cannot_be_had_are_listed_and_the_run_goes_on(enter, screen, monkeypatch, tmp_path):
    """A library that is not there, a matrix too large for the memory, and a fit that breaks."""
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    monkeypatch.setattr(memory, "available", lambda: 3_000)
    monkeypatch.setattr(item_knn, "nearest", lambda *_: 1 / 0)
    board, text = board_of(enter, ("als", "ease", "item_knn", "popularity"), tmp_path)
    assert [row["name"] for row in board["retrieval"]] == ["popularity"]
    assert set(board["left_out"]) == {"als", "ease", "item_knn"}
    assert "memory" in board["left_out"]["als"]
    assert board["left_out"]["ease"].startswith("ease's dense 61 x 61 matrix needs 0.0 GB")
    assert board["left_out"]["ease"].endswith("leave it out of evaluate.baselines")
    assert board["left_out"]["item_knn"] == "ZeroDivisionError: division by zero"
    assert "## Left out\n\n- als: " in text
    assert "baseline ease is left out: " in screen.file.getvalue()


def test_a_missing_library_is_a_line(enter, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    board, _ = board_of(enter, ("als",), tmp_path)
    assert "needs the library implicit (pip install implicit)" in board["left_out"]["als"]


def test_memory_that_runs_out_is_a_line(enter, monkeypatch, tmp_path):
    def greedy(*_):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(item_knn, "nearest", greedy)
    board, _ = board_of(enter, ("item_knn", "popularity"), tmp_path)
    assert board["left_out"] == {"item_knn": "out of memory Unable to allocate 9 TiB"}


def test_a_corpus_too_large_for_ease_leaves_the_others(enter, monkeypatch, tmp_path):
    monkeypatch.setattr(ease_file, "LIMIT", 20)
    board, _ = board_of(enter, ("ease", "popularity"), tmp_path)
    assert "ease would invert a dense 61 x 61 matrix" in board["left_out"]["ease"]
    assert [row["name"] for row in board["retrieval"]] == ["popularity"]


def test_a_row_is_added_and_replaced(enter, tmp_path):
    board_of(enter, ("popularity", "transitions"), tmp_path)
    for name in ("transitions", "popularity"):
        leaderboard.add(tmp_path, "bundle", enter(name)[0], OBJECTIVES)
    rows = json.loads((tmp_path / "leaderboard.json").read_text())["retrieval"]
    assert [row["name"] for row in rows] in (
        ["transitions", "popularity", "bundle"],
        ["transitions", "bundle", "popularity"],
    )
    assert (tmp_path / "leaderboard.md").read_text().count("| bundle |") == 1


def test_a_leaderboard_may_begin_with_a_bundle(enter, tmp_path):
    leaderboard.add(tmp_path, "bundle", enter("popularity")[0], OBJECTIVES)
    assert "| bundle |" in (tmp_path / "leaderboard.md").read_text()


def test_an_unknown_baseline_is_an_error(enter):
    with pytest.raises(UserError, match="did you mean 'popularity'"):
        enter("populairty")


def test_the_cost_of_a_block_is_its_time_and_memory():
    with memory.costing() as cost:
        block = np.ones(300 * 2**20, np.uint8)  # more than an allocator keeps for later
    assert block.sum() and cost.seconds > 0
    assert 200 < cost.memory_mb < 600


def test_a_cost_is_told_also_where_the_block_fails():
    with pytest.raises(KeyError), memory.costing() as cost:
        raise KeyError
    assert cost.seconds > 0


def test_what_does_not_fit_is_refused_with_the_need_and_the_setting(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 4 * 10**9)
    memory.require(3.9e9, "it", "")
    with pytest.raises(
        UserError, match=r"a table needs 20\.0 GB of memory and 4\.0 GB are free; lower a\.setting"
    ):
        memory.require(2e10, "a table", "lower a.setting")


def test_the_memory_left_is_the_smaller_of_system_and_container(monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available() == 1000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() == 1000 * 1024
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("100000\n")
    assert memory.available() == 400_000
    (tmp_path / "memory.stat").write_text("active_file 1\ninactive_file 60000\n")
    assert memory.available() == 460_000  # what was read from disk is given up
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "nothing")
    assert memory.available() is None
    memory.require(1e18, "anything", "")  # unknown: tried


def test_what_training_cost_is_kept_for_a_run_that_is_opened_again(tmp_path):
    path = tmp_path / "costs.json"
    first = keep(path, {"retrieval": memory.Cost(12.0, 300.0).then(memory.Cost(3.0, 500.0))})
    assert first["retrieval"] == memory.Cost(15.0, 500.0)
    assert keep(path, {"retrieval": memory.Cost(0.1, 1.0)}) == first


def test_other_cutoffs_have_their_columns(enter, tmp_path):
    board_of(enter, ["popularity"], tmp_path, settings=EvaluateSettings(bootstrap=0, cutoffs=(3, 7)))
    header = (tmp_path / "leaderboard.md").read_text().splitlines()[4]
    assert "recall@3" in header and "coverage@3" in header
