"""How likely a candidate is, by hand and by drawing: what the retrieval task corrects the logits by."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry
from trainer.errors import UserError
from trainer.retrieval.negatives import Sampler

COUNTS = np.array([0, 6, 3, 1, 0])  # row 0 is the unknown; row 4 was never seen in training
NOBODY = tf.zeros([0], tf.int32)


def test_probability_by_hand():
    found = Sampler(COUNTS, 4, in_batch=True).probability(tf.constant([1, 2, 3, 4]), tf.constant(6))
    share = np.array([0.6, 0.3, 0.1, 0.0])
    np.testing.assert_allclose(found, (6 * share + 4 / 3) / 10, rtol=1e-6)


def test_in_batch_probability_is_popularity():
    sampler = registry.build("negatives", "in_batch", {}, counts=COUNTS)
    found = sampler.probability(tf.constant([1, 2, 3]), tf.constant(8))
    np.testing.assert_allclose(found, [0.6, 0.3, 0.1], rtol=1e-6)
    assert sampler.draw(tf.constant([1, 2]), NOBODY).shape == [0]


def test_probabilities_of_the_trained_items_sum_to_one():
    sampler = Sampler(COUNTS, 5, in_batch=True)
    assert float(tf.reduce_sum(sampler.probability(tf.range(1, 4), tf.constant(16)))) == pytest.approx(1)


def test_draws_are_uniform_over_the_trained_items_and_repeat_by_seed():
    sampler = Sampler(COUNTS, 30_000, in_batch=True)
    rows = sampler.draw(tf.constant([7, 1]), NOBODY).numpy()
    assert set(rows) == {1, 2, 3}
    np.testing.assert_allclose(np.bincount(rows)[1:] / len(rows), 1 / 3, atol=0.015)
    np.testing.assert_array_equal(rows, sampler.draw(tf.constant([7, 1]), NOBODY))
    assert (rows != sampler.draw(tf.constant([7, 2]), NOBODY).numpy()).any()


def test_probability_is_how_often_a_place_holds_the_item():
    """Batches of positives by popularity, with uniform extras: counted shares are the formula's."""
    sampler, rng = Sampler(COUNTS, 4, in_batch=True), np.random.default_rng(0)
    drawn = []
    for step in range(800):
        positives = rng.choice(4, 6, p=COUNTS[:4] / COUNTS.sum())
        drawn += [positives, sampler.draw(tf.constant([0, step]), NOBODY).numpy()]
    shares = np.bincount(np.concatenate(drawn), minlength=4)[1:] / (800 * 10)
    np.testing.assert_allclose(shares, sampler.probability(tf.range(1, 4), tf.constant(6)), atol=0.02)


def test_mixed_negatives_need_an_extra():
    with pytest.raises((UserError, ValueError), match="extra"):
        registry.build("negatives", "mixed", {"extra": 0}, counts=COUNTS)
