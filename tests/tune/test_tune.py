"""The search on the tiny world: what it writes, that it resumes, and what it says to a table that will not do."""

import errno
import itertools
import json
import math
from pathlib import Path

import pytest

from trainer import tune
from trainer.config import load, with_settings
from trainer.errors import UserError
from trainer.evaluation.scoring import FactorScorer
from trainer.tune_report import short

RANGES = {
    "retrieval.embedding_dimension": {"choice": [2, 4, 8]},
    "retrieval.temperature": {"float": [0.05, 1.0], "log": True},
}


@pytest.fixture
def config(tiny_config):
    return with_settings(
        tiny_config,
        {
            "train.epochs": 1,
            "train.batch_size": 1024,
            "retrieval.features": False,
            "tune.trials": 3,
            "tune.algorithm": "random",
            "tune.parameters": RANGES,
        },
    )


class Pretend:
    """In place of training: remembers the settings of each trial; the score says how near they are to (4, 0.2)."""

    def __init__(self, monkeypatch):
        self.trained = []
        self.given, self.as_given = (
            -1.0,
            0,
        )  # what the settings come to as they were given, and how often that was asked
        self.raises = {}  # number of the call -> what it raises
        monkeypatch.setattr(tune, "train_retrieval", self.train)
        monkeypatch.setattr(tune, "scorer", lambda retriever, prepared: retriever)
        measure = tune.measure
        monkeypatch.setattr(
            tune,
            "measure",
            lambda model, *rest: measure(model, *rest) if isinstance(model, FactorScorer) else model,
        )

    def train(self, config, prepared, workdir, reporter):
        if workdir.name == "given":
            self.retriever, self.as_given = self.given, self.as_given + 1
            return self
        number = len(self.trained)
        self.trained.append(config)
        if number in self.raises:
            raise self.raises[number]
        chosen = config.retrieval
        self.retriever = (
            1 - abs(chosen.embedding_dimension - 4) / 10 - abs(math.log(chosen.temperature / 0.2)) / 10
        )
        return self


@pytest.fixture
def pretend(monkeypatch):
    return Pretend(monkeypatch)


def settings_of(configs):
    return [(one.retrieval.embedding_dimension, one.retrieval.temperature) for one in configs]


def tables(workdir):
    """The lines of each table in `trials.md`, without the two of its header."""
    return [part.splitlines()[2:] for part in (workdir / "trials.md").read_text().split("\n\n")]


def rows(workdir):
    return tables(workdir)[0]


@pytest.mark.slow
def test_three_real_trials(config, tmp_path):
    """No pretending: towers are trained, and what is written can be trained again."""
    best = tune.run(config, tmp_path / "search")
    assert best == tmp_path / "search" / "best.toml"
    found = load(None, best)
    scores = [float(row.split("|")[-2]) for row in rows(tmp_path / "search")]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    top = rows(tmp_path / "search")[0].split("|")
    assert found.retrieval.embedding_dimension == int(top[2])
    assert found.retrieval.temperature == pytest.approx(float(top[3]), rel=1e-3)
    assert found.model_copy(update={"retrieval": config.retrieval}) == config  # nothing else is changed
    assert (tmp_path / "search" / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "search").rglob("checkpoint"))  # no weights of finished trials are kept
    assert len(list((tmp_path / "search" / "trials").glob("*/retrieval/epochs.csv"))) == 4  # and as given


def test_the_best_trial_wins(config, tmp_path, pretend):
    best = load(None, tune.run(with_settings(config, {"tune.trials": 12}), tmp_path))
    tried = settings_of(pretend.trained)
    assert len(set(tried)) == 12
    wanted = max(tried, key=lambda one: 1 - abs(one[0] - 4) / 10 - abs(math.log(one[1] / 0.2)) / 10)
    assert settings_of([best]) == [wanted]
    assert all(dimension in (2, 4, 8) and 0.05 <= heat <= 1 for dimension, heat in tried)


def test_settings_that_no_trial_betters_are_kept(config, tmp_path, pretend, capsys):
    """Looked at once, whichever call gets so far; `trials.md` is of the trials."""
    pretend.given = 0.99
    kept = load(None, tune.run(config, tmp_path))
    assert kept == config
    told = " ".join(capsys.readouterr().err.split())
    assert "as they were given come to 0.9900, the best trial to" in told and "best.toml keeps them" in told
    assert (
        load(None, tune.run(with_settings(config, {"tune.trials": 5}), tmp_path)).retrieval
        == config.retrieval
    )
    assert (pretend.as_given, len(rows(tmp_path))) == (1, 5)


def test_an_interrupted_search_goes_on(config, tmp_path, pretend):
    config = with_settings(config, {"tune.trials": 4})
    pretend.raises[1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tune.run(config, tmp_path)
    assert not (tmp_path / "best.toml").exists()
    tune.run(config, tmp_path)
    tried = settings_of(pretend.trained)
    assert len(tried) == 5
    assert tried[1] == tried[2]  # the interrupted trial again, with its settings
    assert len(set(tried)) == 4  # and no other twice
    assert len(rows(tmp_path)) == 4


def test_a_search_that_a_full_disk_ended_goes_on(config, tmp_path, pretend, monkeypatch):
    """Keras Tuner of itself writes its state in place, and half a state ends every later search."""
    write = Path.write_bytes

    def full(path, *args, **kwargs):
        if len(pretend.trained) == 2 and path.name == ".trial.json.new":
            write(path, b"{")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"could not write .*trial.json: No space left on device"):
            tune.run(config, tmp_path / "run")
    tune.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "best.toml").exists()
    assert not list(tmp_path.rglob("*.new"))


def test_interrupted_in_its_first_trial_it_starts_with_the_same(config, tmp_path, pretend):
    pretend.raises[0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tune.run(config, tmp_path)
    tune.run(config, tmp_path)
    tried = settings_of(pretend.trained)
    assert tried[0] == tried[1]
    assert len(rows(tmp_path)) == 3


def test_a_finished_search_can_be_made_longer(config, tmp_path, pretend):
    tune.run(config, tmp_path)
    tune.run(config, tmp_path)
    assert len(pretend.trained) == 3
    tune.run(with_settings(config, {"tune.trials": 5}), tmp_path)
    assert len(pretend.trained) == 5
    assert len(rows(tmp_path)) == 5


def test_the_same_seed_searches_the_same(config, tmp_path, pretend):
    for name in ("one", "two"):
        tune.run(config, tmp_path / name)
    assert pretend.trained[:3] == pretend.trained[3:]


def test_a_trial_that_fails_leaves_the_others(config, tmp_path, pretend):
    pretend.raises[0] = UserError("the loss became nan")
    tune.run(config, tmp_path)
    assert len(pretend.trained) == 3
    assert len(rows(tmp_path)) == 2


def test_when_all_trials_fail_the_reason_is_told(config, tmp_path, pretend):
    pretend.raises = {n: UserError("the loss became nan at step 7") for n in range(9)}
    with pytest.raises(UserError, match=r"^no trial finished; the last one: the loss became nan at step 7$"):
        tune.run(config, tmp_path)
    assert len(pretend.trained) == 3


def test_a_sweep_stands_beside_the_rules_of_thumb(config, tmp_path, pretend, tiny_prepared):
    """Of 300 items at most: a fourth root of 4, and 16 by size, which was not measured."""
    words = ["retrieval.embedding_dimension=8,2,4", "retrieval.temperature=0.2,0.4"]
    best = load(None, tune.run(tune.sweep(config, words), tmp_path))
    assert settings_of(pretend.trained) == list(itertools.product((8, 2, 4), (0.2, 0.4)))
    assert settings_of([best]) == [(4, 0.2)]
    assert 150 < tiny_prepared.items.trained <= 300
    assert tables(tmp_path)[1] == [
        "| 2 | 2 | 0.8000 |  |",
        "| 4 | 2 | 1.0000 | fourth root |",
        "| 8 | 2 | 0.6000 |  |",
        "| 16 | - | not measured | table by size (auto) |",
    ]


def test_a_sweep_of_another_setting_has_no_table_of_dimensions(config, tmp_path, pretend):
    tune.run(tune.sweep(config, ["train.optimizer=adam,adagrad"]), tmp_path)
    assert [one.train.optimizer for one in pretend.trained] == ["adam", "adagrad"]
    assert len(tables(tmp_path)) == 1


def test_an_interrupted_sweep_goes_on(config, tmp_path, pretend):
    """Keras Tuner's own grid search would stop here: what comes next is not in what it saves."""
    pretend.raises[1] = KeyboardInterrupt()
    pretend.raises[3] = UserError("the loss became nan")
    search = tune.sweep(config, ["retrieval.embedding_dimension=2,4,8,16"])
    with pytest.raises(KeyboardInterrupt):
        tune.run(search, tmp_path)
    tune.run(search, tmp_path)
    assert [one.retrieval.embedding_dimension for one in pretend.trained] == [2, 4, 4, 8, 16]
    assert len(rows(tmp_path)) == 3


@pytest.mark.parametrize("word", ["retrieval.temperature", "retrieval.temperature=", "=1,2"])
def test_a_sweep_of_nothing_is_one_line(config, word):
    with pytest.raises(
        UserError, match=r"is no sweep; write it as retrieval\.embedding_dimension=8,16,32,64"
    ):
        tune.sweep(config, [word])


def test_bayesian_comes_near(config, tmp_path, pretend):
    ranges = {"retrieval.temperature": {"float": [0.01, 1.0], "log": True}}
    search = config.tune.model_copy(update={"algorithm": "bayesian", "trials": 7, "parameters": ranges})
    best = load(None, tune.run(config.model_copy(update={"tune": search}), tmp_path))
    assert len(pretend.trained) == 7
    assert 0.1 < best.retrieval.temperature < 0.4


def test_hyperband_gives_the_promising_more_epochs(config, tmp_path, pretend):
    config = with_settings(config, {"tune.algorithm": "hyperband", "train.epochs": 9, "tune.trials": 40})
    best = load(None, tune.run(config, tmp_path))
    epochs = [one.train.epochs for one in pretend.trained]
    assert {1, 3, 9} == set(epochs)
    assert epochs.count(1) > epochs.count(9)
    assert best.train.epochs == 9  # as was asked, whatever round the best trial was of
    assert len(pretend.trained) <= 40


@pytest.mark.parametrize("algorithm", ["bayesian", "hyperband"])
def test_trials_is_the_most_there_are(config, tmp_path, pretend, algorithm):
    tune.run(
        with_settings(config, {"tune.algorithm": algorithm, "train.epochs": 9, "tune.trials": 3}), tmp_path
    )
    assert len(pretend.trained) == 3


@pytest.mark.parametrize(
    "ranges",
    [
        {"retrieval.learn_temperature": {"choice": [True, False]}},
        {
            "train.optimizer": {"choice": ["adam", "adagrad"]},
            "train.batch_size": {"int": [16, 4096], "log": True},
        },
        {"data.history_length": {"int": [2, 10], "step": 2}},
        {
            "retrieval.encoder.half_life": {"float": [1.0, 9.0]},
            "train.learning_rate": {"float": [0.01, 0.1], "step": 0.01},
        },
    ],
)
def test_any_kind_of_setting_is_searched_and_drawn(config, tmp_path, pretend, ranges):
    found = tune.run(
        config.model_copy(update={"tune": config.tune.model_copy(update={"parameters": ranges})}), tmp_path
    )
    best = json.loads(load(None, found).model_dump_json())
    for name in ranges:
        value = best
        for step in name.split("."):
            value = value[step]
        assert f" {short(value)} " in rows(tmp_path)[0]
    assert (tmp_path / "trials.png").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        (
            "retrieval.temperatur",
            {"float": [0.1, 1.0]},
            r"unknown setting retrieval\.temperatur.*did you mean 'temperature'",
        ),
        ("retrieval.temperature", {"floats": [0.1, 1.0]}, "it takes one of choice, int, float"),
        ("retrieval.temperature", {"float": [0.1, 1.0], "choice": [1]}, "it takes one of choice, int, float"),
        ("retrieval.temperature", {"float": 0.1}, "it takes a list"),
        ("retrieval.temperature", {"float": [0.1]}, "it takes a list"),
        ("retrieval.temperature", {"float": [1.0, 0.1]}, "lowest and highest"),
        ("retrieval.temperature", {"float": [0.1, "b"]}, "it takes a list"),
        ("retrieval.temperature", {"float": [0.0, 1.0]}, r"retrieval\.temperature=0\.0"),
        ("train.learning_rate", {"float": [-1.0, 1.0], "log": True}, "tune.parameters.'train.learning_rate'"),
        ("retrieval.embedding_dimension", {"choice": []}, "it takes a list"),
        ("retrieval.embedding_dimension", {"choice": [8, -1]}, r"retrieval\.embedding_dimension=-1"),
        ("retrieval.embedding_dimension", {"choice": [8, "big"]}, "retrieval.embedding_dimension"),
        ("retrieval.embedding_dimension", {"int": [1.5, 8]}, "it takes a list"),
        ("retrieval.embedding_dimension", {"int": [1, 8], "step": "a"}, "retrieval.embedding_dimension"),
        ("retrieval.embedding_dimension", {"int": [1, 8], "steps": 2}, "it takes one of choice, int, float"),
        ("retrieval.layers", {"choice": [[], [8]]}, "retrieval.layers"),
        ("ranking.dropout", {"float": [0.1, 0.5]}, "cannot be searched"),
        ("data.min_rating", {"choice": [3, 4]}, "cannot be searched"),
    ],
)
def test_a_wrong_table_is_one_line_before_anything_is_made(config, tmp_path, pretend, name, options, line):
    wrong = config.model_copy(update={"tune": config.tune.model_copy(update={"parameters": {name: options}})})
    with pytest.raises(UserError, match=line) as found:
        tune.run(wrong, tmp_path / "search")
    assert "\n" not in str(found.value)
    assert not pretend.trained
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"train.objective": "ndgc@10"}, "'ndgc@10'.*ndcg@k"),
        ({"retrieval.enabled": False}, r"retrieval\.enabled is false"),
    ],
)
def test_what_cannot_be_maximised_is_one_line(config, tmp_path, pretend, settings, line):
    with pytest.raises(UserError, match=line):
        tune.run(with_settings(config, settings), tmp_path)
    assert not pretend.trained


def test_nothing_to_search_is_one_line(config, tmp_path):
    empty = config.model_copy(update={"tune": config.tune.model_copy(update={"parameters": {}})})
    with pytest.raises(UserError, match=r"tune\.parameters is empty"):
        tune.run(empty, tmp_path)


def test_a_workdir_of_another_search_is_left_alone(config, tmp_path, pretend):
    tune.run(config, tmp_path)
    before = (tmp_path / "best.toml").read_text()
    other = {"retrieval.temperature": {"float": [0.1, 0.2]}}
    with pytest.raises(UserError, match=r"holds another search \(tune\.parameters differs\)"):
        tune.run(
            config.model_copy(update={"tune": config.tune.model_copy(update={"parameters": other})}), tmp_path
        )
    with pytest.raises(UserError, match=r"holds another search \(tune\.algorithm differs\)"):
        tune.run(with_settings(config, {"tune.algorithm": "bayesian"}), tmp_path)
    with pytest.raises(UserError, match="holds another run"):
        tune.run(with_settings(config, {"train.learning_rate": 0.3}), tmp_path)
    assert (tmp_path / "best.toml").read_text() == before


def test_a_shared_search_needs_all_three_variables(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(UserError, match="KERASTUNER_ORACLE_PORT is not"):
        tune.run(config, tmp_path / "search")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8000")
    with pytest.raises(UserError, match="KERASTUNER_TUNER_ID is not"):
        tune.run(config, tmp_path / "search")
    assert not (tmp_path / "search").exists()
