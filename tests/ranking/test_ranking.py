import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ranking_world import make_world, quick, with_events

from trainer.config import Config, load, with_settings
from trainer.data.examples import Prepared
from trainer.data.interactions import Schema
from trainer.errors import UserError
from trainer.progress import Advance, Reporter
from trainer.ranking.model import RankingModel
from trainer.ranking.targets import labels
from trainer.ranking.train import build_ranking, predict, train_ranking
from trainer.settings import Target

SEVERAL = [
    {"name": "rating"},
    {"name": "liked", "kind": "binary", "threshold": 4.0, "weight": 2.0, "score_weight": 3.0},
    {"name": "hour", "column": "hour", "weight": 0.01, "score_weight": -0.1},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, world: Prepared) -> tuple[RankingModel, Path]:
    """The world's ranking model of three targets, and where it was trained."""
    workdir = tmp_path_factory.mktemp("trained")
    return train_ranking(quick(targets=SEVERAL), world, workdir, Reporter()), workdir


class Killed(Exception):
    pass


class Dying(Reporter):
    """Kills the fit in the middle of its second epoch of three."""

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        def advance(done: int, note: str = "") -> None:
            if name == "train ranking" and done > (total or 0) / 2:
                raise Killed

        yield advance


def history(workdir: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads(
        (workdir / "ranking" / "checkpoint" / "epochs.json").read_text()
    )
    return found


def weights(model: tf.keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def test_starts_exactly_at_the_prior(world: Prepared, reporter: Reporter) -> None:
    ready = build_ranking(quick(), world, reporter)
    prior, test = ready.model.network.prior, world.rated_test
    expected = prior([tf.constant(test.user), tf.constant(test.item)]).numpy()
    least, most = world.rated_train.rating.min(), world.rated_train.rating.max()
    np.testing.assert_allclose(predict(ready.model, test)[:, 0], np.clip(expected, least, most), rtol=1e-6)


def test_without_a_prior_starts_at_the_mean(world: Prepared, reporter: Reporter) -> None:
    ready = build_ranking(quick(prior="none"), world, reporter)
    assert predict(ready.model, world.rated_test)[:, 0] == pytest.approx(world.rated_train.rating.mean())


def test_never_ends_below_its_start(devices: Prepared, reporter: Reporter, tmp_path: Path) -> None:
    wild = with_settings(quick(learning_rate=30.0, epochs=2), {"train.patience": 5})
    model = train_ranking(wild, devices, tmp_path, reporter)
    found = [entry["val_loss"] for entry in history(tmp_path)]
    assert max(found[1:]) > found[0]  # these settings do harm
    rating = devices.rated_validation.rating
    error = np.mean((predict(model, devices.rated_validation)[:, 0] - rating) ** 2)
    kept = float(error) / model.network.starts[0].scale ** 2
    assert kept <= found[0] + 1e-6  # less where clipping helps


def test_learns_what_the_prior_cannot_know(devices: Prepared, reporter: Reporter, tmp_path: Path) -> None:
    model = train_ranking(quick(epochs=6, batch_size=32, dropout=0), devices, tmp_path, reporter)
    found = [entry["val_loss"] for entry in history(tmp_path)]
    assert min(found) < 0.9 * found[0]
    events = devices.rated_test
    both = [
        predict(model, dataclasses.replace(events, context={"device": np.full(len(events), device)}))
        for device in ("phone", "desk")
    ]
    assert abs(float(np.mean(both[1] - both[0]))) > 0.2


def test_several_targets_in_their_own_units(world: Prepared, trained: tuple[RankingModel, Path]) -> None:
    model, _ = trained
    events = world.rated_test
    found = predict(model, events)
    assert found.shape == (len(events), 3)
    liked = events.rating >= 4
    assert found[liked, 1].mean() > found[~liked, 1].mean() + 0.2
    assert (found[:, 1] > 0).all() and (found[:, 1] < 1).all()
    assert found[:, 2].mean() == pytest.approx(11.5, abs=2)
    rating = world.rated_train.rating
    assert found[:, 0].min() >= rating.min() and found[:, 0].max() <= rating.max()
    columns = {"user": tf.constant(events.user), "item": tf.constant(events.item)}
    columns |= model.network.encode_context({name: tf.constant(c) for name, c in events.context.items()})
    np.testing.assert_allclose(model.network.score(columns), found @ [1.0, 3.0, -0.1], rtol=1e-4)


def test_binary_target_starts_calibrated(world: Prepared, reporter: Reporter) -> None:
    ready = build_ranking(quick(targets=[SEVERAL[1]]), world, reporter)
    chance = predict(ready.model, world.rated_test)[:, 0]
    liked = world.rated_test.rating >= 4
    assert chance.mean() == pytest.approx(liked.mean(), abs=0.05)
    assert np.corrcoef(chance, liked)[0, 1] > 0.5


def test_binary_target_of_one_class(world: Prepared, reporter: Reporter) -> None:
    always = [{"name": "seen", "kind": "binary", "column": "weight"}]
    chance = predict(build_ranking(quick(targets=always), world, reporter).model, world.rated_test)
    assert (chance > 0.99).all() and np.isfinite(chance).all()


def test_events_without_a_label_have_no_part(world: Prepared, reporter: Reporter) -> None:
    ready = build_ranking(quick(dropout=0, id_dropout=0), world, reporter)
    batch = next(iter(ready.batches(0, 1)))
    half = tf.range(len(batch["user"])) % 2 == 0
    missing = batch | {"label_rating": tf.where(half, batch["label_rating"], np.nan)}
    unweighted = batch | {"weight": tf.cast(half, tf.float32)}
    found = float(ready.model.compute_loss(missing))
    assert np.isfinite(found) and found == pytest.approx(float(ready.model.compute_loss(unweighted)))


@pytest.mark.parametrize("prior", ["auto", "none"])
def test_bare_events_some_unrated_none_to_validate(prior: str, reporter: Reporter, tmp_path: Path) -> None:
    bare = make_world(schema=Schema(), unrated=0.4)
    nothing = bare.rated_validation.take(np.zeros(0, np.int64))
    silent = dataclasses.replace(bare, rated_validation=nothing)
    model = train_ranking(quick(layers=[], prior=prior, epochs=1), silent, tmp_path, reporter)
    strangers = dataclasses.replace(bare.rated_test, user=np.zeros_like(bare.rated_test.user))
    assert np.isfinite(predict(model, strangers)).all()
    assert predict(model, nothing).shape == (0, 1)


def test_killed_and_resumed_equals_unbroken(devices: Prepared, reporter: Reporter, tmp_path: Path) -> None:
    config = with_settings(quick(epochs=3), {"train.patience": 9})
    unbroken = train_ranking(config, devices, tmp_path / "unbroken", reporter)

    with pytest.raises(Killed):
        train_ranking(config, devices, tmp_path / "broken", Dying(reporter.console))
    assert len(history(tmp_path / "broken")) == 2
    resumed = train_ranking(config, devices, tmp_path / "broken", reporter)
    assert history(tmp_path / "broken") == history(tmp_path / "unbroken")
    for one, other in zip(weights(resumed), weights(unbroken), strict=True):
        np.testing.assert_array_equal(one, other)


def test_exported_network_serves_the_same(
    world: Prepared, trained: tuple[RankingModel, Path], tmp_path: Path
) -> None:
    network = trained[0].network
    rows = [tf.TensorSpec([None], tf.int32, name=name) for name in ("user", "item")]
    serve = tf.function(network.serve).get_concrete_function(*rows)
    tf.saved_model.save(network, str(tmp_path / "saved"), signatures={"serve": serve})
    user, item = (tf.constant(column) for column in (world.rated_test.user, world.rated_test.item))
    expected = network.serve(user, item).numpy()
    loaded = tf.saved_model.load(str(tmp_path / "saved")).signatures["serve"]
    found = loaded(user=user, item=item)
    np.testing.assert_allclose(next(iter(found.values())), expected, rtol=1e-5)
    # A request without context is the one whose context is missing, label by label.
    silent = {"device": np.full(len(user), "", object), "hour": np.full(len(user), np.nan)}
    told = predict(trained[0], dataclasses.replace(world.rated_test, context=silent))
    np.testing.assert_allclose(told @ [1.0, 3.0, -0.1], expected, rtol=1e-4)
    assert not any("adagrad" in variable.name.lower() for variable in network.variables)


def test_labels(world: Prepared) -> None:
    events = with_events(world, rating=np.where(np.arange(len(world.rated_train)) % 2, 4, np.nan)).rated_train
    binary = labels(Target(kind="binary", threshold=4), events)
    np.testing.assert_array_equal(binary[:4], [np.nan, 1, np.nan, 1])
    with pytest.raises(UserError, match="'device', which holds no numbers"):
        labels(Target(column="device"), events)
    with pytest.raises(UserError, match="reads column 'ratin'; did you mean 'rating'"):
        labels(Target(column="ratin"), events)


def test_no_labels_at_all(world: Prepared, reporter: Reporter) -> None:
    nothing = with_events(world, rating=np.full(len(world.rated_train), np.nan, np.float32))
    with pytest.raises(UserError, match=r"no training event carries the label of ranking target 'rating'"):
        build_ranking(quick(), nothing, reporter)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ranking.prior=always", r"setting ranking.prior='always': .*'auto' or 'none'"),
        ("ranking.prior_rank=0", r"setting ranking.prior_rank=0: .*greater than or equal to 1"),
        ("ranking.prior_swep=3", r"unknown setting ranking.prior_swep; did you mean 'prior_sweeps'"),
        ("ranking.id_dropout=1", r"setting ranking.id_dropout=1: .*less than 1"),
    ],
)
def test_bad_settings(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(None, None, [setting])


@pytest.mark.parametrize("name", ["movielens-latest-small-ratings", "table-ratings"])
def test_presets_rank_only(name: str) -> None:
    config: Config = load(name, None, ["data.source.path=somewhere"])
    assert config.ranking.enabled and not config.retrieval.enabled
