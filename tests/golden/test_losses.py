"""Losses against their formulas in NumPy, alone and through `tfrs.tasks.Retrieval`."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs
from scipy.special import logsumexp

from trainer import losses, registry
from trainer.errors import UserError

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


@pytest.mark.parametrize("name", FORMULAS)
def test_wrapped_is_the_weighted_mean_over_the_batch(name, scores):
    weight = np.array([1, 0, 2, 0.5, 1], np.float32)
    labels = np.eye(BATCH, CANDIDATES, dtype=np.float32)
    found = losses.wrap(name, {})(labels, scores, sample_weight=weight)
    np.testing.assert_allclose(found, (weight * FORMULAS[name](scores)).sum() / BATCH, rtol=1e-5)


def test_scores_of_any_size_stay_finite():
    huge = tf.constant([[1e4, -1e4, 0.0], [1e4, -1e4, 1e4]])
    assert np.isfinite(losses.softmax(tf.eye(2, 3), huge)).all()


def test_in_the_task_temperature_correction_and_accidental_hits_come_first():
    """The whole of what training minimises, written out: scores / t - log q, and same-id negatives taken out."""
    rng = np.random.default_rng(3)
    queries, candidates = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    ids, chance = np.array([11, 12, 11, 13, 12]), np.array([0.3, 0.1, 0.3, 0.2, 0.1])
    task = tfrs.tasks.Retrieval(
        loss=losses.wrap("softmax", {}), temperature=0.5, remove_accidental_hits=True, metrics=None
    )
    found = task(
        tf.constant(queries, tf.float32),
        tf.constant(candidates, tf.float32),
        candidate_sampling_probability=tf.constant(chance, tf.float32),
        candidate_ids=tf.constant(ids),
        compute_metrics=False,
    )
    logits = queries @ candidates.T / 0.5 - np.log(chance)
    own = np.eye(3, 5, dtype=bool)
    logits[(ids[:3, None] == ids) & ~own] = -np.inf
    np.testing.assert_allclose(found, softmax(logits).mean(), rtol=1e-5)


def test_an_unknown_setting_is_named():
    with pytest.raises(UserError, match=r"unknown setting retrieval\.loss\.margin"):
        losses.wrap("softmax", {"margin": 1.0})
