"""The work directory: one run each, nothing else's, and nothing thrown away by mistake."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config import Config, from_values, to_toml
from trainer.errors import UserError
from trainer.workdir import claim, replace

SMALL = (
    "data.source.interactions=1000",
    "train.epochs=1",
    "ranking.enabled=false",
    "retrieval.factorisation_rank=4",
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def another(tmp_path) -> Path:
    """A folder that holds a run with other settings."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(to_toml(from_values({"name": "earlier", "train": {"epochs": 7}})))
    (folder / "metrics.json").write_text("{}")
    return folder


def test_a_folder_that_holds_another_run(trainer, another):
    before = contents(another)
    line = trainer("train", "--workdir", str(another), *SMALL).error
    assert "holds another run (earlier; its settings differ in data, retrieval, ranking, train)" in line
    assert "--workdir" in line and "--restart" in line
    assert contents(another) == before


def test_restart_throws_away_what_a_run_made_and_nothing_else(another):
    (another / "bundle" / "models").mkdir(parents=True)
    (another / "retrieval").mkdir()
    (another / "retrieval" / "epochs.csv").write_text("epoch")
    (another / "events.csv").write_text("years of clicks")
    claim(another, Config(), restart=True)
    assert contents(another) == {"config.toml": to_toml(Config()).encode(), "events.csv": b"years of clicks"}
    assert (another / "bundle" / "models").is_dir()


def test_a_recorded_setting_that_is_no_longer_known_is_named_with_its_file(trainer, another):
    (another / "config.toml").write_text("[retrieval]\nshape = 3\n")
    line = trainer("train", "--workdir", str(another), *SMALL).error
    assert line.startswith(f"{another}/config.toml: ") and "shape" in line


@pytest.mark.slow
def test_every_night_the_table_has_grown(table, train, trainer, rows, tmp_path):
    """Weights of other data would be other items' weights: refused; --restart trains anew and publishes the next version."""
    assert train(table(*rows)).code == 0
    run = tmp_path / "run"
    grown = table(*rows, *(f"u{user},i{user % 5},1700000000,5" for user in range(20)))
    before = contents(run)
    said = "the data is not what "
    assert train(grown).error.startswith(said)
    assert trainer("evaluate", "--workdir", str(run)).error.startswith(said)
    assert trainer("export", "--workdir", str(run)).error.startswith(said)
    assert contents(run) == before
    assert train(grown, "--restart").code == 0
    assert sorted(path.name for path in (run / "bundle" / "models" / "recommender").iterdir()) == ["1", "2"]


def test_a_setting_put_right_goes_on_where_nothing_was_trained_yet(tmp_path):
    home = tmp_path / "run"
    claim(home, from_values({"name": "wrong"}), restart=False)
    right = from_values({"name": "right", "train": {"epochs": 7}})
    claim(home, right, restart=False)
    assert contents(home) == {"config.toml": to_toml(right).encode()}


def test_a_folder_that_holds_something_else(trainer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("years of work")
    for words in ([], ["--restart"]):
        line = trainer("train", "--workdir", "run", *SMALL, *words).error
        assert line == "run is not empty and holds no run; give another --workdir"
    assert contents(tmp_path / "run") == {"thesis.doc": b"years of work"}


def test_a_config_of_another_program_is_no_run_to_throw_away(trainer, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "config.toml").write_text('baseURL = "https://example.org"\n')
    (tmp_path / "site" / "post.md").write_text("hello")
    before = contents(tmp_path / "site")
    assert "baseURL" in trainer("train", "--workdir", "site", "--restart", *SMALL).error
    assert contents(tmp_path / "site") == before


def test_a_file_in_place_of_a_folder(trainer, tmp_path):
    (tmp_path / "run").write_text("a file")
    assert "holds no run" in trainer("train", "--workdir", "run", *SMALL).error
    assert (tmp_path / "run").read_text() == "a file"


def test_restart_with_bad_settings_or_data_keeps_the_earlier_run(trainer, another):
    before = contents(another)
    for words in (
        ["train.epoch=1"],
        ["retrieval.encoder.name=meen"],
        ["data.source.name=table", "data.source.path=no"],
    ):
        assert trainer("train", "--workdir", str(another), "--restart", *words).error
        assert contents(another) == before


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_a_folder_without_a_run(trainer, tmp_path, verb):
    line = trainer(verb, "--workdir", "nowhere").error
    assert line == "nowhere holds no run: there is no nowhere/config.toml"
    (tmp_path / "empty").mkdir()
    assert "holds no run" in trainer(verb, "--workdir", "empty").error
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_a_run_is_not_reopened_with_other_training_settings(trainer, another, verb):
    before = contents(another)
    assert "differ in train" in trainer(verb, "--workdir", str(another), "train.epochs=9").error
    assert "unknown baseline" in trainer(verb, "--workdir", str(another), "evaluate.baselines=['x']").error
    assert contents(another) == before


def test_overrides_of_a_later_verb_are_not_recorded(trainer, tmp_path, monkeypatch):
    """What `train` recorded stands; a plain `evaluate` afterwards measures by it again."""
    monkeypatch.setattr("trainer.experiment._fit", lambda *_: (None, None))
    assert trainer("train", "--workdir", "run", *SMALL).code == 0
    before = (tmp_path / "run" / "config.toml").read_bytes()
    assert trainer("evaluate", "--workdir", "run", "evaluate.bootstrap=7").code == 0
    assert trainer("export", "--workdir", "run", "export.history=all").code == 0
    assert (tmp_path / "run" / "config.toml").read_bytes() == before
    assert trainer("train", "--workdir", "run", *SMALL, "evaluate.bootstrap=7").code == 0
    assert "bootstrap = 7" in (tmp_path / "run" / "config.toml").read_text()


def test_default_settings_are_a_run_of_their_own(tmp_path):
    assert from_values({}) == Config()


def test_a_folder_that_another_process_works_in(trainer, tmp_path):
    """Two of them would throw away each other's epochs; the one that is over, however it ended, stands in nobody's way."""
    folder = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from trainer.workdir import hold; "
        f"hold(Path({str(folder)!r})); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout.readline()
        line = trainer("train", "--workdir", str(folder), *SMALL).error
        other.kill()
    assert f"another process is at work in {folder}" in line
    claim(folder, Config(), restart=False)
    claim(folder, Config(), restart=False)  # this process's own
    assert contents(folder) == {"config.toml": to_toml(Config()).encode()}


@pytest.fixture
def full_disk():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_full_disk_broke_off_is_no_run(tmp_path, full_disk):
    with pytest.raises(UserError, match=rf"could not write {tmp_path}/run/config.toml: File too large"):
        claim(tmp_path / "run", Config(), restart=False)
    assert contents(tmp_path) == {}
    full_disk()
    (tmp_path / "run" / ".config.toml.new").write_text("seed =")  # what a kill leaves
    claim(tmp_path / "run", Config(), restart=False)
    replace(tmp_path / "run" / "data.json", "{}")
    assert sorted(contents(tmp_path / "run")) == ["config.toml", "data.json"]
