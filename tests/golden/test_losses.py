"""Losses against their formulas in NumPy, alone and with all that the retrieval model lays around them."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from trainer import losses, registry
from trainer.config import with_settings
from trainer.errors import UserError
from trainer.input_pipeline import context_key
from trainer.models import RetrievalModel

BATCH, CANDIDATES = 5, 8


def softmax(scores):
    return logsumexp(scores, axis=1) - scores[np.arange(len(scores)), np.arange(len(scores))]


FORMULAS = {"softmax": softmax}


@pytest.fixture
def scores():
    return np.random.default_rng(7).normal(0, 3, (BATCH, CANDIDATES)).astype(np.float32)


def test_every_loss_has_a_formula_here():
    assert set(registry.names("loss")) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_its_formula(name, scores):
    labels = np.eye(BATCH, CANDIDATES, dtype=np.float32)
    found = registry.get("loss", name)(tf.constant(labels), tf.constant(scores))
    assert found.shape == [BATCH]
    np.testing.assert_allclose(found, FORMULAS[name](scores.astype(np.float64)), rtol=1e-5)


def test_scores_of_any_size_stay_finite():
    huge = tf.constant([[1e4, -1e4, 0.0], [1e4, -1e4, 1e4]])
    assert np.isfinite(losses.softmax(tf.eye(2, 3), huge)).all()


@pytest.mark.parametrize("negatives", [{"name": "in_batch"}, {"name": "mixed", "extra": 37}])
@pytest.mark.parametrize("normalise", [True, False])
def test_what_training_minimises_written_out(tiny_config, tiny_prepared, negatives, normalise):
    """Scores / temperature - log(probability), the positive's repeats among the negatives taken out, weighted mean."""
    chosen = {
        "retrieval.negatives": negatives,
        "retrieval.normalise": normalise,
        "retrieval.temperature": 0.3,
    }
    model = RetrievalModel(with_settings(tiny_config, chosen).retrieval, tiny_prepared, seed=5)
    events = tiny_prepared.train
    rows = np.concatenate([np.arange(0, 300, 10), [0, 0, 10]])  # some events twice: accidental hits
    raw = {name: tf.constant(column[rows]) for name, column in events.context.items()}
    weight = np.random.default_rng(0).uniform(0, 2, len(rows)).astype(np.float32)
    inputs = {
        "user": tf.constant(events.user[rows]),
        "item": tf.constant(events.item[rows]),
        "history": tf.constant(events.item[rows - 1][:, None]),
        "weight": tf.constant(weight),
    } | {context_key(name): column for name, column in model.retriever.encode_context(raw).items()}
    found = float(model.compute_loss(inputs))

    drawn = model.sampler.draw(tf.constant([5, 0])).numpy()  # the seed, and step 0
    ids = np.concatenate([events.item[rows], drawn])
    queries = np.asarray(model.query_tower(inputs), np.float64)
    logits = queries @ np.asarray(model.candidate_tower(tf.constant(ids)), np.float64).T / 0.3
    counts = np.bincount(events.item, minlength=len(tiny_prepared.items))
    share, batch, extra = counts / counts.sum(), len(rows), len(drawn)
    logits -= np.log((batch * share[ids] + extra / tiny_prepared.items.trained) / (batch + extra))
    logits[(ids[:batch, None] == ids) & ~np.eye(batch, len(ids), dtype=bool)] = -np.inf
    assert found == pytest.approx((weight * softmax(logits)).mean(), rel=1e-4)


def test_an_unknown_setting_is_named():
    with pytest.raises(UserError, match=r"unknown setting retrieval\.loss\.margin"):
        losses.wrap("softmax", {"margin": 1.0})
