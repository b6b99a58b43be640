"""Losses of retrieval as functions `(labels, scores) -> [batch]`, wrapped once for `tfrs.tasks.Retrieval`.

`scores` are `[batch, candidates]` logits, `labels` the same shape with 1 at the positive. The positive of row `i` stands in column `i`:
that is how the task lays candidates out, and the functions use it instead of multiplying by the dense labels.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.registry import check_settings, get, register

LossFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@register("loss", "softmax")
def softmax(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns the softmax cross-entropy over the candidates (InfoNCE, van den Oord et al. 2018)."""
    del labels
    positives = tf.range(tf.shape(scores)[0])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(positives, scores)


def without_repeats(cross_entropy: tf.Tensor, repeats: tf.Tensor) -> tf.Tensor:
    """Returns the softmax cross-entropy `[batch]` as if each positive's `repeats` among the negatives were not there.

    A repeat has the positive's own score, so its part of the sum is known: with p = exp(-cross-entropy), the sum without n repeats
    is (1 - n p) times the whole. That is exact, gradient included, and spares three passes over the score matrix.
    """
    rest = 1.0 - tf.cast(repeats, cross_entropy.dtype) * tf.exp(-cross_entropy)
    return cross_entropy + tf.math.log(tf.maximum(rest, 1e-6))


def wrap(name: str, settings: dict[str, Any]) -> tf.keras.losses.Loss:
    """Returns a registered loss as the Keras loss that `tfrs.tasks.Retrieval` takes, one value an example `[batch]`."""
    function = get("loss", name)
    checked = check_settings(function, settings, "retrieval.loss", hidden=("labels", "scores"))

    class Loss(tf.keras.losses.Loss):
        def __init__(self) -> None:
            super().__init__(reduction=tf.keras.losses.Reduction.NONE, name=name)

        def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
            return function(y_true, y_pred, **checked)

    return Loss()
