"""The ranking model's histories: which events they hold, that the candidate's attention to them is needed, and that a
server is answered as the evaluator was.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click_world import RECENT, TARGETS, make_clicks
from ranking_world import make_world, quick
from sklearn.metrics import roc_auc_score

from trainer import registry
from trainer.config import Config, from_values, with_settings
from trainer.data.examples import Prepared
from trainer.data.interactions import Schema
from trainer.progress import Reporter
from trainer.ranking.model import RankingModel, RankingNetwork
from trainer.ranking.past import Past
from trainer.ranking.targets import labels
from trainer.ranking.train import build_ranking, predict, train_ranking

ATTENTION = {"history.name": "attention", "history.units": [8], "history.interests": 2}


@pytest.fixture(scope="module")
def clicks() -> Prepared:
    return make_clicks()


@pytest.fixture(scope="module")
def attentive(clicks: Prepared, tmp_path_factory: pytest.TempPathFactory) -> RankingModel:
    """The world of clicks, learned by attention and a mixture of experts."""
    heads = {"name": "mixture_of_experts"}
    config = clicking(history={"name": "attention"}, heads=heads, targets=TARGETS)
    return train_ranking(config, clicks, tmp_path_factory.mktemp("clicks"), Reporter())


def clicking(**ranking: object) -> Config:
    settings = {
        "layers": [32],
        "embedding_dimension": 16,
        "epochs": 24,
        "batch_size": 128,
        "learning_rate": 0.3,
    }
    rest = {"dropout": 0.0, "id_dropout": 0.0, "targets": TARGETS[:1]}
    return from_values(
        {
            "data": {"history_length": RECENT},
            "ranking": settings | rest | ranking,
            "train": {"patience": 6},
        }
    )


def reading(length: int = 50, **settings: object) -> Config:
    """Returns short settings with attention to histories."""
    named = {f"ranking.{name}": value for name, value in (ATTENTION | settings).items()}
    return with_settings(quick(), named | {"data.history_length": length})


def stirred(config: Config, world: Prepared, reporter: Reporter) -> RankingNetwork:
    """Returns an untrained network whose heads say something: trained ones start at 0, and may stay there."""
    ready = build_ranking(config, world, reporter)
    ready.model.compute_loss(next(iter(ready.batches(0, 1))))  # builds the variables
    rng = np.random.default_rng(0)
    for tower in ready.model.network.heads.towers:
        tower.last.kernel.assign(rng.normal(0, 0.1, tower.last.kernel.shape))
    return ready.model.network


def click_auc(model: RankingModel, prepared: Prepared) -> float:
    actual = labels(model.settings.targets[0], prepared.rated_test)
    return float(roc_auc_score(actual, predict(model, prepared.rated_test)[:, 0]))


def test_attention_and_experts_learn_both_targets(clicks: Prepared, attentive: RankingModel) -> None:
    assert click_auc(attentive, clicks) > 0.9  # measured: .99
    minutes = labels(attentive.settings.targets[1], clicks.rated_test)
    error = float(np.sqrt(np.mean((predict(attentive, clicks.rated_test)[:, 1] - minutes) ** 2)))
    assert error < 0.4 * minutes.std()  # measured: .26; the noise alone is .21


@pytest.mark.parametrize("history", ["none", pytest.param("mean", marks=pytest.mark.slow)])
def test_without_the_candidates_attention_little_is_learned(
    history: str, clicks: Prepared, reporter: Reporter, tmp_path: Path
) -> None:
    model = train_ranking(clicking(history={"name": history}), clicks, tmp_path, reporter)
    assert click_auc(model, clicks) < 0.75  # measured: .51 without a history, .68 with its mean


def test_training_reads_the_events_before(make_prepared: Callable[..., Prepared]) -> None:
    prepared = make_prepared([[1, 2, 3, 4, 5, 6], [7, 8, 9, 2]])  # the last two: validation, test
    past = Past(prepared, 2)
    users = tf.constant(prepared.rated_train.user)
    found = past.training(past.place, users).numpy()
    np.testing.assert_array_equal(found, [[0, 0], [1, 0], [1, 2], [2, 3], [0, 0], [7, 0]])
    asked = tf.constant([1, 2, 0])
    np.testing.assert_array_equal(past.before_validation(asked), [[3, 4], [7, 8], [0, 0]])
    np.testing.assert_array_equal(past.before_test(asked), [[4, 5], [8, 9], [0, 0]])


def test_all_that_is_known_is_read(make_prepared: Callable[..., Prepared]) -> None:
    past = Past(make_prepared([[1, 2, 3, 4], [5, 6, 7, 8]]), 50)
    np.testing.assert_array_equal(past.before_validation(tf.constant([1, 2])), [[1, 2], [5, 6]])


def test_histories_hold_what_was_liked(make_prepared: Callable[..., Prepared]) -> None:
    prepared = make_prepared([[1, 2, 3, 4, 5, 6], [7, 8, 9, 2]])  # ratings: 1 + item % 5
    rated = prepared.rated_train
    liked = rated.rating >= 3
    past = Past(dataclasses.replace(prepared, train=rated.take(liked), liked=liked), 50)
    found = past.training(past.place, tf.constant(rated.user)).numpy()
    np.testing.assert_array_equal(
        found, [[0, 0], [0, 0], [2, 0], [2, 3], [0, 0], [7, 0]]
    )  # liked: 2, 3, 4; 7, 8
    np.testing.assert_array_equal(past.before_validation(tf.constant([1, 2])), [[2, 3, 4], [7, 8, 0]])


def test_without_order_the_others_are_read(make_prepared: Callable[..., Prepared]) -> None:
    prepared = make_prepared([[1, 2, 3, 8, 9], [4, 5, 8, 9]], ordered=False)
    past = Past(prepared, 50)
    found = past.training(past.place, tf.constant(prepared.rated_train.user)).numpy()
    np.testing.assert_array_equal(np.sort(found)[:, -2:], [[2, 3], [1, 3], [1, 2], [0, 5], [0, 4]])


def test_what_comes_later_is_not_read(clicks: Prepared, reporter: Reporter) -> None:
    """Another item in the validation event changes what the test is told, not what training is, nor validation."""
    config = clicking(history={"name": "attention"})
    before = clicks.before_test
    last = np.flatnonzero(np.append(before.user[1:] != before.user[:-1], True))
    swapped = before.item.copy()
    swapped[last] = 1 + swapped[last] % len(clicks.items.values)
    other = dataclasses.replace(clicks, before_test=dataclasses.replace(before, item=swapped))
    one, two = (build_ranking(config, prepared, reporter) for prepared in (clicks, other))
    for mine, yours in zip(one.batches(0, 3), two.batches(0, 3), strict=True):
        for name in mine:
            np.testing.assert_array_equal(mine[name], yours[name])
    everyone = tf.range(len(clicks.users))
    np.testing.assert_array_equal(
        one.model.past.before_validation(everyone), two.model.past.before_validation(everyone)
    )
    assert (one.model.past.before_test(everyone) != two.model.past.before_test(everyone)).numpy().any()


def test_a_batch_holds_no_event_of_its_own_or_later(clicks: Prepared, reporter: Reporter) -> None:
    ready = build_ranking(clicking(history={"name": "attention"}), clicks, reporter)
    events = clicks.rated_train
    held = 0
    for step, batch in enumerate(ready.batches(0, 5)):
        rows = ready.rows(step).numpy()
        for row, history in zip(rows, batch["history"].numpy(), strict=True):
            past = events.item[(events.user == events.user[row]) & (np.arange(len(events)) < row)]
            np.testing.assert_array_equal(history[history > 0], past[-RECENT:] if len(past) else [])
            held += len(past) > 0
    assert held > 500


def test_the_candidate_is_passed_over_in_the_history(clicks: Prepared, attentive: RankingModel) -> None:
    kinds = list(clicks.item_features["kind"])
    candidate, alike = [row for row, kind in enumerate(kinds) if kind == kinds[1]][:2]
    other = next(row for row, kind in enumerate(kinds) if row and kind != kinds[1])
    histories = tf.constant([[0, other], [candidate, other], [alike, other]])
    scores = attentive.network.serve(tf.ones(3, tf.int32), tf.fill([3], candidate), histories)
    none, itself, told = scores.numpy().tolist()
    assert itself == pytest.approx(none, rel=1e-6)  # as if it were not there
    assert told > none + 0.2


def test_the_server_is_answered_as_the_evaluator(clicks: Prepared, attentive: RankingModel) -> None:
    network, events = attentive.network, clicks.rated_test
    expected = predict(attentive, events) @ [1.0, 0.0]
    known = clicks.before_test.by_user(len(clicks.users)).take(events.user)
    ragged = tf.RaggedTensor.from_row_splits(tf.constant(known.items), tf.constant(known.offsets))
    user, item = tf.constant(events.user), tf.constant(events.item)
    np.testing.assert_allclose(network.serve(user, item, ragged), expected, rtol=1e-4)
    np.testing.assert_allclose(network.serve(user, item, ragged.to_tensor(0)), expected, rtol=1e-4)
    scattered = np.insert(ragged.to_tensor(0).numpy(), [0, 3], 0, axis=1)  # unknown items say nothing
    np.testing.assert_allclose(network.serve(user, item, tf.constant(scattered)), expected, rtol=1e-4)
    silent = network.serve(user, item)
    np.testing.assert_array_equal(silent, network.serve(user, item, tf.zeros([len(user), 4], tf.int32)))
    assert np.abs(silent - expected).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("ranking_network"))
def test_every_network_exports(name: str, world: Prepared, reporter: Reporter, tmp_path: Path) -> None:
    network = stirred(reading(network={"name": name}, heads={"name": "mixture_of_experts"}), world, reporter)
    rows = [tf.TensorSpec([None], tf.int32, name=name) for name in ("user", "item")]
    lists = tf.TensorSpec([None, None], tf.int32, name="history")
    serve = tf.function(network.serve).get_concrete_function(*rows, lists)
    tf.saved_model.save(network, str(tmp_path / "saved"), signatures={"serve": serve})
    user, item = (tf.constant(column) for column in (world.rated_test.user, world.rated_test.item))
    history = tf.repeat(tf.constant([[3, 4, 9, 0]]), len(user), axis=0)
    loaded = tf.saved_model.load(str(tmp_path / "saved")).signatures["serve"]
    found = next(iter(loaded(user=user, item=item, history=history).values()))
    expected = network.serve(user, item, history)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isfinite(expected).all()
    assert np.abs(expected - network.serve(user, item)).max() > 0  # it reads the history


def test_only_the_last_events_are_read(world: Prepared, reporter: Reporter) -> None:
    network = stirred(reading(length=3), world, reporter)
    assert network.history_length == 3
    user, item = tf.constant([1]), tf.constant([2])
    found = network.serve(user, item, tf.constant([[9, 8, 7, 6, 5]]))
    np.testing.assert_array_equal(found, network.serve(user, item, tf.constant([[7, 6, 5]])))
    assert float(found[0]) != float(network.serve(user, item, tf.constant([[9, 8, 7]]))[0])


def test_context_is_served_where_it_is_known(devices: Prepared, reporter: Reporter, tmp_path: Path) -> None:
    model = train_ranking(quick(epochs=2, batch_size=64), devices, tmp_path, reporter)
    events = devices.rated_test
    user, item = tf.constant(events.user), tf.constant(events.item)
    device = tf.constant(list(events.context["device"]))
    found = model.network.serve(user, item, context={"device": device})
    np.testing.assert_allclose(found, predict(model, events)[:, 0], rtol=1e-5)
    assert np.abs(found - model.network.serve(user, item)).max() > 0


def test_a_world_without_features(reporter: Reporter, tmp_path: Path) -> None:
    bare = make_world(schema=Schema())
    model = train_ranking(reading(epochs=1), bare, tmp_path, reporter)
    strangers = dataclasses.replace(bare.rated_test, user=np.zeros_like(bare.rated_test.user))
    assert np.isfinite(predict(model, strangers)).all()
