"""Presets, files and overrides: what they come to, and that it survives being written and read."""

import math
from pathlib import Path

import pytest

from trainer.config import PRESETS, Config, apart, load, preset_names, to_toml, with_settings
from trainer.errors import UserError


@pytest.mark.parametrize("preset", preset_names())
def test_resolved_settings_read_back_equal(preset, tmp_path):
    config = load(preset, None, ["retrieval.layers=[32, 16]", "data.min_rating=3.5", "data.source.seed=1"])
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load(None, path) == config
    assert load(None, path).name == preset


def test_defaults_read_back_equal(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(to_toml(Config()), encoding="utf-8")
    assert load(None, path) == Config() == load(None)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.epochs=3", lambda config: config.train.epochs == 3),
        ("train.learning_rate=1e-3", lambda config: config.train.learning_rate == 0.001),
        ("train.learning_rate=1", lambda config: config.train.learning_rate == 1.0),
        ("train.joint=true", lambda config: config.train.joint is True),
        ("train.optimizer=adam", lambda config: config.train.optimizer == "adam"),
        ('train.optimizer="adam"', lambda config: config.train.optimizer == "adam"),
        ("evaluate.cutoffs=[1, 3]", lambda config: config.evaluate.cutoffs == (1, 3)),
        ('evaluate.baselines=["ease", "popularity"]', lambda config: config.evaluate.baselines == ("ease", "popularity")),
        ("evaluate.baselines=[]", lambda config: config.evaluate.baselines == ()),
        ("data.source.path=a/b=c.csv", lambda config: config.data.source.settings["path"] == "a/b=c.csv"),
        ("data.source={name='table', path='x'}", lambda config: config.data.source.name == "table"),
        ("retrieval.encoder.half_life=3", lambda config: config.retrieval.encoder.settings == {"half_life": 3}),
        ("ranking.targets=[{kind='binary', threshold=4}]", lambda config: config.ranking.targets[0].threshold == 4.0),
    ],
)  # fmt: skip
def test_overrides_have_types(override, read):
    assert read(load(None, None, [override]))


def test_a_part_without_a_name_is_the_default_one():
    config = load(None, None, ["data.source.interactions=1000", "export.index.leaves=4"])
    assert (config.data.source.name, config.export.index.name) == ("synthetic", "brute_force")


def test_the_order_of_overrides_does_not_matter():
    forwards = ["export.index.name=scann", "export.index.leaves=4"]
    assert load(None, None, forwards) == load(None, None, forwards[::-1])


def test_the_last_override_wins():
    assert load(None, None, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


def test_file_over_preset_and_override_over_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[data.source]\nname = 'table'\npath = 'x.csv'\n[train]\nepochs = 5\npatience = 2\n")
    config = load("movielens-latest-small", path, ["train.epochs=6"])
    assert config.data.source.settings == {"path": "x.csv"}  # nothing of the preset's source is left
    assert config.data.split.method == "leave_last_out"
    assert (config.train.epochs, config.train.patience, config.name) == (6, 2, "movielens-latest-small")


def test_settings_may_stand_on_both_sides_of_options(monkeypatch, tmp_path):
    from trainer.__main__ import main

    seen = {}

    def run(config, workdir, **options):
        seen.update(config=config, workdir=workdir, **options)

    monkeypatch.setattr("trainer.experiment.run", run)
    words = [
        "--preset",
        "demo",
        "train.epochs=3",
        "--workdir",
        str(tmp_path),
        "train.patience=2",
        "--restart",
    ]
    assert main(["train", *words]) == 0
    assert (seen["config"].train.epochs, seen["config"].train.patience) == (3, 2)
    assert (seen["workdir"], seen["restart"], seen["allow_below_baseline"]) == (tmp_path, True, False)
    assert main(["train", "--preset", "demo"]) == 0
    assert seen["workdir"] == Path("runs/demo")


def test_presets_are_listed_with_their_headers(trainer):
    answer = trainer("presets")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines] == list(preset_names())
    for name, line in zip(preset_names(), lines, strict=True):
        header = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
        assert header.startswith("# ") and line.endswith(header[2:])


def test_describe_prints_settings_that_load(trainer, table, rows, tmp_path):
    path = table(*(f"{row},phone" for row in rows), header="user_id,item_id,timestamp,rating,device")
    answer = trainer("describe", str(path))
    assert answer.code == 0 and "20 users" in answer.out
    (tmp_path / "mine.toml").write_text(answer.out, encoding="utf-8")
    config = load(None, tmp_path / "mine.toml")
    assert config.data.source.name == "table"
    assert config.data.source.settings["columns"]["user"] == "user_id"
    assert config.data.source.settings["context"] == {"device": "category"}


def test_describe_of_what_is_no_table(trainer, table, tmp_path):
    assert "there is no file" in trainer("describe", "none.csv").error
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in trainer("describe", "empty.csv").error
    assert "there are: who, what" in trainer("describe", str(table("1,2", header="who,what"))).error


def test_an_unknown_name_deep_inside_is_named(tmp_path):
    with pytest.raises(UserError, match=r"unknown setting data\.split\.metod; did you mean 'method'\?"):
        load(None, None, ["data.split.metod=time"])


def test_a_column_called_name_is_no_name_of_a_part(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[data.source]\nname = 'table'\npath = 'x.csv'\n[data.source.items]\npath = 'i.csv'\n"
        "[data.source.items.features]\nname = 'category'\nprice = 'number'\n"
    )
    config = load("table-sequential", path, ["data.source.items.features.name=text"])
    features = config.data.source.settings["items"]["features"]
    assert features == {"name": "text", "price": "number"}


def test_an_empty_table_on_the_line_empties_what_was_there(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[data]\nbehaviours = {view = 1.0}\n[data.source]\nname = 'table'\npath = 'x.csv'\ncontext = {device = 'category'}\n"
    )
    found = load("table-sequential", path, ["data.source.context={}"])
    assert found.data.source.settings == {"path": "x.csv", "context": {}}
    assert found.data.behaviours == {"view": 1.0}
    again = load("table-sequential", path, ["data.source.context={}", "data.source.context.hour=number"])
    assert again.data.source.settings["context"] == {"hour": "number"}
    undone = load("demo", None, ["data.behaviours.view=1.0", "data.behaviours={}"])
    assert undone.data.behaviours == with_settings(found, {"data.behaviours": {}}).data.behaviours == {}


def test_a_parts_setting_may_stand_before_its_name():
    """A sweep may name them in this order; the settings of the part that was there before are gone."""
    found = with_settings(
        load("demo", None, ["retrieval.negatives.extra=9"]),
        {"retrieval.negatives.depth": 64, "retrieval.negatives.name": "hard"},
    )
    assert found.retrieval.negatives.model_dump() == {"name": "hard", "depth": 64}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("a+retrieval.layers=[64,32],b", ["a+retrieval.layers=[64,32]", "b"]),
        ("[64,32],[64]", ["[64,32]", "[64]"]),
        ("{a=1,b=2},c", ["{a=1,b=2}", "c"]),
        ("a+b=[{c='d'},{c='e'}],f", ["a+b=[{c='d'},{c='e'}]", "f"]),
        ("[[1,2],[3,4]]", ["[[1,2],[3,4]]"]),
    ],
)
def test_commas_inside_brackets_part_nothing(words, parts):
    assert apart(words) == parts


def test_an_infinite_half_life_survives_every_way_that_settings_take(tmp_path):
    """As the decaying encoder recommends, where days alone shall tell; JSON has no infinity."""
    config = load("demo", None, ["retrieval.encoder.name=decay", "retrieval.encoder.half_life=inf"])
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load(None, path) == config == with_settings(config, {})
    assert with_settings(config, {"train.epochs": 3}).retrieval.encoder.settings == {"half_life": math.inf}
