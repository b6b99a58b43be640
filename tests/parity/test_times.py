"""When a history's events were: the same scores in training's evaluator, from the signatures, and in what explains them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import with_settings
from trainer.data.examples import Cases
from trainer.errors import UserError
from trainer.export.serving_model import ServingModel
from trainer.index.brute_force import BruteForce
from trainer.ranking.cascade import Cascade
from trainer.retrieval.inference import ragged, scorer, times_read
from trainer.retrieval.train import build_retrieval
from trainer.settings import CascadeSettings, ExportSettings


@pytest.fixture(scope="module")
def trained(tiny_config, tiny_prepared) -> Any:
    """A retriever that was not trained, and whose learned gaps say much."""
    settings = {
        "retrieval.encoder": {"name": "transformer", "gaps": True, "positions": "learned"},
        "retrieval.user_id": False,
        "retrieval.features": False,
        "retrieval.negatives.name": "uniform",
    }
    ready = build_retrieval(with_settings(tiny_config, settings), tiny_prepared)
    ready.model.compute_loss(next(iter(ready.batches(0))), training=True)
    encoder = ready.model.encoder
    encoder.gap.assign(tf.random.stateless_normal(encoder.gap.shape, [1, 2], stddev=3.0))
    return ready.model


@pytest.fixture(scope="module")
def known(tiny_prepared) -> Any:
    """The histories that known users have when served."""
    return tiny_prepared.before_test.by_user(len(tiny_prepared.users))


@pytest.fixture(scope="module")
def serving(trained, tiny_prepared, known) -> ServingModel:
    cascade = Cascade(None, CascadeSettings())
    return ServingModel(trained.retriever, tiny_prepared, known, BruteForce(), cascade, ExportSettings())


@pytest.fixture(scope="module")
def cases(tiny_prepared, known) -> Cases:
    users = np.arange(1, 21)
    lists = known.take(users)
    return Cases(users.astype(np.int32), lists, lists, np.zeros(20, np.int64))


def untimed(lists: Any) -> Any:
    return type(lists)(lists.offsets, lists.items, np.zeros_like(lists.timestamps))


def offline(trained: Any, cases: Cases, lists: Any) -> np.ndarray:
    """Returns the query vectors of the histories."""
    times = times_read(trained.retriever, lists)
    return np.asarray(trained.retriever.queries(tf.constant(cases.user), ragged(lists), {}, *times))


@pytest.mark.slow
def test_signatures_read_the_times_that_the_evaluator_reads(trained, serving, tiny_prepared, cases, tmp_path):
    wanted = offline(trained, cases, cases.history)
    assert np.abs(wanted - offline(trained, cases, untimed(cases.history))).max() > 1e-2
    tf.saved_model.save(serving, str(tmp_path / "saved"), serving.signatures)
    embed = tf.saved_model.load(str(tmp_path / "saved")).signatures["embed_users"]
    found = embed(user_id=tf.constant(tiny_prepared.users.decode(cases.user)))["embedding"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_data_without_times_is_refused(tiny_config, tiny_prepared):
    chosen = with_settings(tiny_config, {"retrieval.encoder": {"name": "transformer", "gaps": True}})
    with pytest.raises(UserError, match=r"gaps.*reads when events were, and the data has no times"):
        build_retrieval(chosen, dataclasses.replace(tiny_prepared, timed=False))


def test_the_evaluator_reads_times(trained, tiny_prepared):
    some: Cases = tiny_prepared.validation.take(np.arange(10))
    ask = scorer(trained.retriever, tiny_prepared)
    without = Cases(some.user, untimed(some.history), some.positives, some.timestamp, some.context)
    assert np.abs(ask.scores(some) - ask.scores(without)).max() > 1e-2


@pytest.mark.slow
def test_a_history_sent_along_has_no_times(trained, serving, tiny_prepared, cases):
    lists = cases.history.take(np.arange(1))
    history = [tiny_prepared.items.decode(lists.items)]
    found = serving.signatures["embed_histories"](history=tf.constant(history))["embedding"]
    one = Cases(np.zeros(1, np.int32), lists, lists, np.zeros(1, np.int64))
    np.testing.assert_allclose(found, offline(trained, one, untimed(lists)), atol=1e-5)
    assert np.abs(found - offline(trained, one, lists)).max() > 1e-2


@pytest.mark.slow
def test_what_is_explained_is_the_score_with_times(serving, tiny_prepared, cases):
    """In one batch a remembered history, whose times are known, and one sent along, whose are not."""
    users = tf.constant(tiny_prepared.users.decode(cases.user[:2]))
    items = tf.constant([tiny_prepared.items.values[3], tiny_prepared.items.values[5]])
    sent = tiny_prepared.items.decode(cases.history.take(np.arange(1, 2)).items)
    history = tf.constant([[""] * len(sent), sent])
    answer = serving.signatures["explain"](user_id=users, item_id=items, history=history)
    scores = serving.signatures["rank"](user_id=users[:1], item_id=items[:1, None])["score"]
    np.testing.assert_allclose(answer["score"][0], scores[0, 0], atol=1e-5)
    query = serving.signatures["embed_histories"](history=history[1:])["embedding"]
    vector = serving.signatures["embed_items"](item_id=items[1:])["embedding"]
    np.testing.assert_allclose(answer["score"][1], tf.reduce_sum(query * vector), atol=1e-5)
