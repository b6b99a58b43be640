"""The bundle on disk: whole or not there, readable without this project, and no larger than it must be."""

import dataclasses
import importlib.util
import io
import json
import resource
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import trainer.export.bundle as export_module
from trainer.__main__ import main
from trainer.errors import UserError
from trainer.evaluation.ranking import evaluate_ranking
from trainer.progress import Reporter

SIDES = ("config.toml", "manifest.json", "metrics.json", "vocabularies.json")


def files(folder: Path) -> dict[str, bytes]:
    """Returns all that lies below a folder, hidden files too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_text())


@pytest.fixture
def copy(workdir, tmp_path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(workdir, tmp_path / "run"))


@pytest.fixture
def publish(run, trained):
    """Publishes into a bundle; the settings of `export` by keyword."""
    from trainer.export.bundle import export

    def call(bundle: Path, **settings):
        config = run.config.model_copy(update={"export": run.config.export.model_copy(update=settings)})
        return export(trained[1], run.prepared, config, {"retrieval": {}}, "fingerprint", bundle)

    return call


@pytest.fixture
def quick(monkeypatch):
    """Writes next to nothing in place of a SavedModel, where only the publishing is looked at."""

    def write(serving, config, directory):
        del serving, config
        directory.mkdir(parents=True)
        (directory / "saved_model.pb").write_text("a model")

    monkeypatch.setattr("trainer.export.bundle._write_model", write)


def test_what_lies_in_a_bundle(workdir, run):
    bundle = workdir / "bundle"
    assert sorted(path.name for path in bundle.iterdir()) == [*SIDES[:2], "metrics.json", "models", SIDES[3]]
    assert [path.name for path in (bundle / "models" / "recommender").iterdir()] == ["1"]
    assert json.loads((bundle / "metrics.json").read_text()) == json.loads(
        (workdir / "metrics.json").read_text()
    )
    vocabularies = json.loads((bundle / "vocabularies.json").read_text())
    assert vocabularies["users"] == list(run.prepared.users.values)
    assert vocabularies["items"] == list(run.prepared.items.values)
    assert vocabularies["titles"] == list(run.prepared.titles[1:])
    told = manifest(bundle)
    assert told["data_fingerprint"] == run.fingerprint
    assert (told["format"], told["version"], told["items"]) == (1, 1, len(run.prepared.items) - 1)
    assert told["left_out"] == {}
    figures = json.loads((workdir / "metrics.json").read_text())["cascade"]
    assert set(figures) == {"weights", "milliseconds", "cases", "retrieval_alone", "cascade", "stages"}
    assert told["cascade"] == told["cascade"] | figures
    inside = bundle / "models" / "recommender" / "1" / "assets.extra" / "manifest.json"
    assert json.loads(inside.read_text()) == told


def test_the_settings_in_the_bundle_are_those_of_the_run(workdir, tiny_config):
    from trainer.config import load

    assert (
        load(None, workdir / "bundle" / "config.toml") == load(None, workdir / "config.toml") == tiny_config
    )


def test_nothing_is_saved_that_does_not_answer(workdir, run):
    """No optimizer slot, no step counter; and every variable as often as it is needed."""
    import tensorflow as tf

    path = workdir / "bundle" / "models" / "recommender" / "1" / "variables" / "variables"
    shapes = dict(tf.train.list_variables(str(path)))
    names = " ".join(shapes).lower()
    for word in ("optimizer", "accumulator", "slot", "adagrad", "step", "sampler"):
        assert word not in names
    numbers = sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.startswith("_"))
    retriever = run.retrieval.retriever
    index = len(run.prepared.items) * (manifest(workdir / "bundle")["dimension"] + 1)  # and their lengths
    towers = sum(int(np.prod(v.shape)) for v in retriever.query_tower.variables)
    blocks = sum(int(np.prod(v.shape)) for block in retriever.blocks for v in block.variables)
    ranker = sum(int(np.prod(v.shape)) for v in run.ranking.network.variables)
    labels = sum(int(np.prod(shape)) for name, shape in shapes.items() if "categories" in name)
    users = (run.prepared.users.trained + 1) * manifest(workdir / "bundle")["dimension"]  # similar_users
    assert numbers == index + towers + blocks + ranker + labels + users


@pytest.fixture(scope="module")
def second(workdir, tmp_path_factory) -> Path:
    """A run with a second version: of all of the history, and with the towers left out of the blend."""
    home = Path(shutil.copytree(workdir, tmp_path_factory.mktemp("second") / "run"))
    blend = json.loads((home / "blend.json").read_text())
    (home / "blend.json").write_text(json.dumps(blend | {"towers": 0.0}))
    assert main(["export", "--workdir", str(home), "--allow-below-baseline", "export.history=all"]) == 0
    return home


@pytest.mark.slow
def test_a_second_export_is_a_second_version(second, workdir, asking_of, run):
    """Towers that are left out of the blend are not saved. What is served has learned from the test's events: popularity counts them."""
    import tensorflow as tf

    home = second / "bundle" / "models" / "recommender"
    assert sorted(path.name for path in home.iterdir()) == ["1", "2"]
    assert files(home / "1") == files(workdir / "bundle" / "models" / "recommender" / "1")
    assert manifest(second / "bundle")["version"] == 2
    assert "history" in (second / "bundle" / "config.toml").read_text()
    variables = " ".join(
        name for name, _ in tf.train.list_variables(str(home / "2" / "variables" / "variables"))
    )
    assert "tower" not in variables
    first, newest = (asking_of(tf.saved_model.load(str(home / version))) for version in "12")
    cases, served = run.prepared.test, run.prepared.with_test()
    everything = served.before_test.known()
    had = everything.by_user(len(served.users))
    users = served.users.decode(cases.user)
    last = had.items[had.offsets[cases.user + 1] - 1]  # of new items too, which no case can name
    assert ((cases.positives.items == last) | (cases.positives.items == 0)).all()
    positives = served.items.decode(last)
    latest = newest("history", user_id=users, k=[1] * len(users))["item_id"][:, 0]
    assert latest.tolist() == positives
    degree = np.log1p(np.bincount(everything.item, minlength=len(served.items)))
    popular = newest("embed_items", item_id=list(served.items.values))["embedding"][:, -1]
    np.testing.assert_allclose(popular, degree[1:] / degree.std(), rtol=1e-4)
    count = [1000] * len(users)
    for user, positive in zip(first("history", user_id=users, k=count)["item_id"], positives, strict=True):
        assert positive not in user
    asked = {"user_id": users[:2], "k": [5] * 2, "exclude": [[""]] * 2}
    inside = newest("recommend_in_context", **asked, device=["phone"] * 2, hour=[7.0] * 2)
    assert inside["item_id"].tolist() == newest("recommend", **asked)["item_id"].tolist()


@pytest.mark.slow
def test_a_history_with_the_answers_in_it_raises_the_alarm(second):
    """A bundle exported for use after the test knows the test's events, and recommends none of them; its stages were measured before."""
    from trainer import experiment
    from trainer.evaluation.retrieval import evaluate_retrieval
    from trainer.retrieval.inference import scorer

    opened = experiment.reopen(second, [])
    retriever, prepared = opened.retrieval.retriever, opened.prepared
    before = evaluate_retrieval(scorer(retriever, prepared), prepared.test, prepared, opened.config.evaluate)
    alone = manifest(second / "bundle")["cascade"]["retrieval_alone"]
    assert 0 < alone["recall@10"] == pytest.approx(before.values["recall@10"])
    assert alone["ndcg@10"] == pytest.approx(before.values["ndcg@10"])
    version = second / "bundle" / "models" / "recommender" / "2"
    assert main(["evaluate", "--workdir", str(second), "--bundle", str(version)]) == 0
    found = json.loads((second / "metrics-bundle.json").read_text())["retrieval"]["test"]
    assert found["recall@10"] == 0
    assert any("export.history=evaluated" in line for line in found["alarms"])


def test_versions_count_on_and_old_ones_go(publish, quick, tmp_path):
    bundle = tmp_path / "bundle"
    home = bundle / "models" / "recommender"
    for _ in range(4):
        last = publish(bundle, keep_versions=2)
    assert sorted(path.name for path in home.iterdir()) == ["3", "4"]
    assert last == home / "4"
    (home / "10").mkdir()
    (home / "notes").mkdir()
    publish(bundle, keep_versions=2)
    assert sorted(path.name for path in home.iterdir()) == ["10", "11", "notes"]
    assert manifest(bundle)["version"] == 11


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), "tensorflow"])
def test_a_failed_export_leaves_everything_as_it_was(publish, quick, monkeypatch, tmp_path, error):
    import tensorflow as tf

    if error == "tensorflow":
        error = tf.errors.ResourceExhaustedError(None, None, "variables.data; No space left on device")
    bundle = tmp_path / "bundle"
    publish(bundle)
    before = files(bundle)

    def fail(serving, config, directory):
        directory.mkdir(parents=True)
        (directory / "saved_model.pb").write_text("hal")
        raise error

    monkeypatch.setattr("trainer.export.bundle._write_model", fail)
    with pytest.raises(UserError, match=r"could not write the bundle.*No space left on device"):
        publish(bundle)
    assert files(bundle) == before
    assert [path.name for path in bundle.glob(".*")] == []


def test_a_disk_that_fills_up_for_real(publish, monkeypatch, tmp_path):
    """The limit on file sizes makes TensorFlow's own writes fail, as a full disk does."""
    import tensorflow as tf

    def write(serving, config, directory):
        module = tf.Module()
        module.table = tf.Variable(tf.zeros([100_000]))
        tf.saved_model.save(module, str(directory))

    monkeypatch.setattr("trainer.export.bundle._write_model", write)
    bundle = tmp_path / "bundle"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(UserError, match="could not write the bundle"):
            publish(bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(bundle) == {}


def test_what_is_left_out_is_told_and_what_the_stages_cost_is_kept(run, quick, monkeypatch, tmp_path):
    """On the terminal and in the manifest; the stages' figures in `metrics.json`, where a later `evaluate` leaves them."""
    from trainer import experiment, measurement
    from trainer.ranking.cascade import Weights

    stages = {
        "stages": {"retrieve": {"passes": 500, "recall": 0.75, "lost": 0.25}},
    }
    milliseconds = {"milliseconds": {"retrieve": 1.5}}
    monkeypatch.setattr("trainer.export.neighbours.MOST_NUMBERS", 100)
    monkeypatch.setattr("trainer.export.serving_model.MOST_NUMBERS", 100)
    monkeypatch.setattr("trainer.export.serving_model.ServingModel.signatures", {})
    monkeypatch.setattr("trainer.export.cascade_choice.choose", lambda *_: Weights())
    monkeypatch.setattr("trainer.export.cascade_choice.recalls", lambda *_: stages)
    monkeypatch.setattr("trainer.export.cascade_choice.latencies", lambda *_: milliseconds["milliseconds"])
    reporter = Reporter(Console(file=io.StringIO(), width=1000))
    here = dataclasses.replace(run, workdir=tmp_path, reporter=reporter)
    rated, every = run.prepared.rated_test, run.config.evaluate
    ranking = {
        name: evaluate_ranking(predicted, rated, run.prepared, every)
        for name, predicted in (("model", 0 * rated.rating), ("global_mean", rated.rating + 0.1))
    }
    reports = measurement.Reports({"model": None}, ranking, {}, {})
    metrics = experiment.publish(here, reports, {"seconds": {}}, allow_below_baseline=False)
    assert metrics == {"seconds": {}, "cascade": stages | milliseconds}
    assert (
        "no baseline was measured in ndcg@10: the model is exported uncompared"
        in reporter.console.file.getvalue()
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert json.loads((tmp_path / "bundle" / "metrics.json").read_text()) == metrics
    told = manifest(tmp_path / "bundle")
    assert told["cascade"]["milliseconds"] == {"retrieve": 1.5}
    numbers = run.prepared.users.trained * told["dimension"]
    line = told["left_out"]["similar_users"]
    assert (
        f"{run.prepared.users.trained} users are {numbers:,} numbers, and a bundle carries up to 100" in line
    )
    assert "export.similar_users=false" in line and line in reporter.console.file.getvalue()
    monkeypatch.setattr("trainer.evaluation.leaderboard.write", lambda *_: None)
    said = reporter.console.file.getvalue()
    assert "ranking: test rmse" in said and "baseline global_mean" in said
    nothing = dataclasses.replace(here, retrieval=None, ranking=None)
    assert measurement.write_metrics(nothing, measurement.Reports({}, {}, {}, {}))["cascade"] == stages


@pytest.mark.slow
def test_a_broken_export_keeps_the_old_version_over_the_command_line(copy, monkeypatch, capsys, run):
    import tensorflow as tf

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    before = files(copy / "bundle")
    monkeypatch.setattr(tf.saved_model, "save", fail)
    monkeypatch.setattr("trainer.experiment.reopen", lambda *_: dataclasses.replace(run, workdir=copy))
    assert main(["export", "--workdir", str(copy), "--allow-below-baseline"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "No space left on device" in lines[0]
    assert files(copy / "bundle") == before


def test_exporting_what_was_killed_before_it_was_measured_writes_its_figures(copy, monkeypatch):
    monkeypatch.setattr("trainer.experiment.publish", lambda run, reports, metrics, allow: metrics)
    before = json.loads((copy / "metrics.json").read_text())["retrieval"]["test"]
    (copy / "metrics.json").unlink()
    assert main(["export", "--workdir", str(copy), "--allow-below-baseline"]) == 0
    assert json.loads((copy / "metrics.json").read_text())["retrieval"]["test"].keys() == before.keys()


def test_a_second_export_waits_for_the_first(publish, quick, monkeypatch, tmp_path):
    bundle, inside, going = tmp_path / "bundle", threading.Event(), threading.Event()
    write = export_module._write_model

    def slow(*arguments):
        write(*arguments)
        inside.set()
        going.wait(30)

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("trainer.export.bundle._write_model", slow)
        first = pool.submit(publish, bundle)
        assert inside.wait(30)
        patch.setattr("trainer.export.bundle._write_model", write)
        second = pool.submit(publish, bundle)
        assert not wait([second], timeout=0.2).done
        going.set()
        assert [first.result().name, second.result().name] == ["1", "2"]


def test_a_bundle_that_cannot_be_written_is_told(publish, quick, tmp_path):
    (tmp_path / "bundle").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not write the bundle"):
        publish(tmp_path / "bundle")
    assert (tmp_path / "bundle").read_text() == "a file where the folder should be"


ALONE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("trainer", "serving", "tensorflow_recommenders"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
import tensorflow as tf

directory, users = sys.argv[1], json.loads(sys.argv[2])
k, exclude = [10] * len(users), [[""]] * len(users)
loaded = tf.saved_model.load(directory).signatures["recommend"]
answer = loaded(user_id=tf.constant(users), k=tf.constant(k), exclude=tf.constant(exclude))
print(json.dumps([[item.decode() for item in row] for row in answer["item_id"].numpy().tolist()]))
"""


@pytest.mark.slow
def test_opens_where_trainer_cannot_be_imported(workdir, offline, tmp_path):
    """Into a session, as TensorFlow Serving opens it, the embedded server opens it in every other test."""
    wanted = offline(context=False)
    directory = workdir / "bundle" / "models" / "recommender" / "1"
    command = [sys.executable, "-c", ALONE, str(directory), json.dumps(wanted.users[:25])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted.ids[:25]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("scann") is None, reason="scann is not installed")
def test_a_scann_bundle_recommends_as_brute_force_does(copy, asking_of, offline):
    """All leaves are searched and all candidates scored again, so that the approximation is exact."""
    import tensorflow as tf

    settings = ["leaves=4", "leaves_to_search=4", "reorder=300", "name=scann"]
    overrides = [f"export.index.{setting}" for setting in settings]
    assert main(["export", "--workdir", str(copy), "--allow-below-baseline", *overrides]) == 0
    chosen = {"leaves": 4, "leaves_to_search": 4, "reorder": 300}
    assert manifest(copy / "bundle")["index"] == {"name": "scann", **chosen, "recall@10": 1.0}
    ask = asking_of(tf.saved_model.load(str(copy / "bundle" / "models" / "recommender" / "2")))
    wanted = offline(context=False)
    count = len(wanted.users)
    found = ask("recommend", user_id=wanted.users, k=[10] * count, exclude=[[""]] * count)
    assert found["item_id"].tolist() == wanted.ids
    np.testing.assert_allclose(found["score"], wanted.scores, rtol=1e-4, atol=1e-4)
    best = wanted.ids[0][:3]
    without = ask("recommend", user_id=wanted.users[:1], k=[5], exclude=[best])["item_id"][0].tolist()
    assert without == wanted.ids[0][3:8]
    assert ask("recommend", user_id=wanted.users[:1], k=[400], exclude=[[""]])["item_id"].shape[1] <= 301
    assert ask("recommend", user_id=None, k=None, exclude=None)["item_id"].size == 0
    assert best[0] not in ask("similar_items", item_id=best[:1], k=[10])["item_id"]
