"""The comparison of presets: figures over seeds, marks, what is read back, and what cannot be compared."""

import json

import numpy as np
import pytest

from trainer import compare, experiment
from trainer.__main__ import main
from trainer.compare_figures import Figures, load_figures, row_of, save_figures
from trainer.config import load
from trainer.evaluation.significance import Sample

SMALL = (
    "data.source.name=chain",
    "data.source.users=60",
    "data.source.items=60",
    "data.source.shortest=5",
    "data.source.longest=8",
    "retrieval.embedding_dimension=4",
    "retrieval.factorisation=none",
    "ranking.enabled=false",
    "train.epochs=1",
    "evaluate.bootstrap=0",
)


def figures(*values, users=None, metric="ndcg@10", root=False, **fields):
    """Returns the figures of one seed: a value a case."""
    users = users or [f"known u{place}" for place in range(len(values))]
    sample = Sample.mean(np.array(values, float), np.arange(len(values)), root)
    return Figures({metric: sample}, {metric: np.array(users)}, fields.pop("seconds", 1.0), **fields)


def row(seeds, baselines=None, metric="ndcg@10"):
    return row_of("ours", seeds, baselines or {})["metrics"][metric]


def test_mean_and_deviation_are_over_seeds():
    found = row([figures(0, 0.2), figures(0.4, 0.4)])
    assert found["values"] == pytest.approx([0.1, 0.4])
    assert found["mean"] == pytest.approx(0.25)
    assert found["deviation"] == pytest.approx(0.3 / np.sqrt(2))
    assert found["against"] is None
    assert row([figures(0, 1)])["deviation"] is None  # one seed says nothing of seeds


def test_cases_of_one_user_are_drawn_together():
    """The same ten users in every seed are ten users, not thirty: more seeds make no interval narrower."""
    values = np.linspace(0, 1, 10)
    once, thrice = row([figures(*values)]), row([figures(*values)] * 3)
    assert thrice["interval"] == pytest.approx(once["interval"])
    others = [figures(*values, users=[f"known {seed}-{place}" for place in range(10)]) for seed in range(3)]
    apart = row(others)["interval"]
    assert apart[1] - apart[0] < 0.8 * (once["interval"][1] - once["interval"][0])


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [((0.6, 0.7, 0.8), (0.1, 0.2, 0.3), "better"), ((0.1, 0.2, 0.3), (0.6, 0.7, 0.8), "worse"),
     ((0.1, 0.9, 0.5), (0.9, 0.1, 0.5), "unsure")],
)  # fmt: skip
def test_the_mark_is_the_paired_difference_from_the_best_baseline(ours, theirs, verdict):
    beside = {"weak": [figures(*[0] * 12)], "strong": [figures(*theirs * 4)]}
    found = row([figures(*ours * 4)], beside)["against"]
    assert found["baseline"] == "strong"
    assert found["difference"] == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert found["verdict"] == verdict


def test_of_errors_the_smaller_is_better():
    ours, near, far = (
        [figures(*np.full(20, value) ** 2, metric="rmse", root=True)] for value in (0.8, 0.9, 1.1)
    )
    found = row(ours, {"far": far, "near": near}, "rmse")
    assert found["mean"] == pytest.approx(0.8)
    assert found["against"]["baseline"] == "near"
    assert found["against"]["verdict"] == "better"


def test_a_baseline_that_fell_out_in_one_seed_is_not_compared_with():
    beside = {"whole": [figures(0, 0)] * 2, "broken": [figures(1, 1)]}
    assert row([figures(0.5, 0.5)] * 2, beside)["against"]["baseline"] == "whole"


def test_figures_come_back_as_they_were_saved(tmp_path):
    ours = figures(0.25, np.nan, 1.0, parameters=12, best_reachable={"ndcg@10": 0.9}, users=["a", "b", "ü"])
    path = tmp_path / "new" / "figures.npz"
    save_figures({"model": ours, "ease_transitions": figures(1, metric="rmse", root=True)}, path)
    found = load_figures(path)
    assert list(found) == ["model", "ease_transitions"]
    back = found["model"]
    assert back.samples["ndcg@10"].value == ours.samples["ndcg@10"].value == pytest.approx(0.625)
    assert back.users["ndcg@10"].tolist() == ["a", "b", "ü"]
    assert (back.seconds, back.parameters, back.best_reachable) == (1.0, 12, {"ndcg@10": 0.9})
    assert found["ease_transitions"].samples["rmse"].root
    assert [path.name for path in path.parent.iterdir()] == ["figures.npz"]


def test_seeds_go_into_training_and_split():
    config = compare._seeded(load("demo"), 7)
    assert (config.train.seed, config.data.split.seed) == (7, 7)
    assert config.data.source == load("demo").data.source  # the world stays the same


def test_a_row_may_have_settings_of_its_own(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(compare, "compare", lambda configs, *rest: asked.update(configs) or [])
    monkeypatch.setattr(compare.compare_report, "write", lambda *rest: None)
    own = "history-mean+retrieval.encoder.name=decay+train.epochs=2"
    compare.run(["history-mean", own], 1, None, tmp_path, ["train.epochs=5"])
    assert [(row.retrieval.encoder.name, row.train.epochs) for row in asked.values()] == [
        ("mean", 5),
        ("decay", 2),
    ]


def test_all_presets_meet_the_baselines_of_each():
    first = load("demo", None, ["evaluate.baselines=['ease']", "evaluate.cutoffs=[50]"])
    shared = compare._comparable(first, [first, load("demo")]).evaluate
    assert shared.baselines == ("ease", "popularity")
    assert shared.cutoffs == (5, 10, 20, 50)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--presets", "demo,demo"], "--presets names 'demo' twice"),
        (["--presets", "demo,dema"], "unknown preset 'dema'; did you mean 'demo'?"),
        (["--presets", "demo,demo+train.epocs=3"], "unknown setting train.epocs; did you mean 'epochs'?"),
        (["--presets", "demo", "--seeds", "0"], "--seeds is 0; a comparison takes at least 1"),
        (
            ["--presets", "demo,movielens-latest-small"],
            "demo and movielens-latest-small are on different data (data.source differs)",
        ),
        (
            ["--presets", "demo,table-sequential", "data.source.name=chain", "retrieval.encoder.name=maen"],
            "unknown encoder 'maen'",
        ),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_trains(words, message, tmp_path, capsys):
    assert main(["compare", *words, "--workdir", str(tmp_path / "compare")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "compare").exists()


@pytest.mark.slow
def test_a_comparison_is_resumed_where_it_stopped(tmp_path, capsys, monkeypatch):
    words = [
        "compare",
        "--presets",
        "demo,table-sequential",
        "--seeds",
        "2",
        "--workdir",
        str(tmp_path / "c"),
    ]
    words += SMALL
    train, trained = experiment.train, []

    def stopped(config, home, reporter):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(home.relative_to(tmp_path / "c").as_posix())
        return train(config, home, reporter)

    monkeypatch.setattr(experiment, "train", stopped)
    assert main(words) == 130
    assert trained == ["demo/seed-1", "table-sequential/seed-1", "demo/seed-2"]
    assert not (tmp_path / "c" / "compare.json").exists()

    trained.clear()
    assert main(words) == 0
    assert trained == ["table-sequential/seed-2"]
    rows = {row["name"]: row for row in json.loads((tmp_path / "c" / "compare.json").read_text())}
    assert list(rows) == ["demo", "table-sequential", "popularity", "transitions", "ease_decayed_transitions"]
    best = max(list(rows)[2:], key=lambda name: rows[name]["metrics"]["ndcg@10"]["mean"])
    for name in ("demo", "table-sequential"):
        ndcg = rows[name]["metrics"]["ndcg@10"]
        assert len(ndcg["values"]) == 2
        assert ndcg["against"]["baseline"] == best
        assert 0 <= ndcg["interval"][0] <= ndcg["mean"] <= ndcg["interval"][1] <= 1
        assert ndcg["best_reachable"] > 0.9
        assert rows[name]["parameters"] > 60 * 4
    assert "| demo |" in (tmp_path / "c" / "compare.md").read_text()
    assert (tmp_path / "c" / "compare.png").read_bytes().startswith(b"\x89PNG")

    trained.clear()
    capsys.readouterr()
    assert main([*words, "train.epochs=2"]) == 1  # other settings are another comparison
    assert "holds another run" in capsys.readouterr().err
    assert not trained
