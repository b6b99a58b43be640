"""The history as the candidate sees it: target-aware attention; and, to compare with, as it is without."""

from typing import Annotated

import tensorflow as tf
from pydantic import Field, PositiveInt

from trainer.rankers.dense import Deep
from trainer.registry import register

Units = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


@register("ranking_history", "none")
def none() -> None:
    """Returns no layer: the ranking model reads no history."""


@register("ranking_history", "mean")
class Mean(tf.keras.layers.Layer):
    """The mean of the history's vectors, the same for every candidate."""

    def __init__(self) -> None:
        super().__init__()

    def call(self, history: tf.Tensor, mask: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]`."""
        del candidate
        there = tf.cast(mask, history.dtype)[..., None]
        total = tf.reduce_sum(tf.where(mask[..., None], history, 0.0), axis=1)
        return total / tf.maximum(tf.reduce_sum(there, axis=1), 1.0)


@register("ranking_history", "attention")
class TargetAttention(tf.keras.layers.Layer):
    """Attention of the candidate over the history (Zhou et al., "Deep interest network", 2018).

    An activation unit, dense layers of widths `units` over event, candidate and their product, weighs each event for
    this candidate. As in the paper the weights are not made to sum to 1: how much of the history speaks for the
    candidate is told too; `normalise` makes them (softmax). With several `interests` as many weightings are learned,
    and their vectors stand side by side.
    """

    def __init__(self, units: Units = (32,), interests: PositiveInt = 1, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = normalise
        # The first layer in two, for what it makes of the candidate is the same for every event.
        self.of_events = tf.keras.layers.Dense(units[0])
        self.of_candidate = tf.keras.layers.Dense(units[0], use_bias=False)
        self.deep = Deep(units[1:])
        self.weigh = tf.keras.layers.Dense(interests)

    def call(self, history: tf.Tensor, mask: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, interests * dimension]`."""
        history = tf.where(mask[..., None], history, 0.0)
        events = self.of_events(tf.concat([history, history * candidate[:, None, :]], axis=2))
        first = tf.nn.relu(events + self.of_candidate(candidate)[:, None, :])
        weights = self.weigh(self.deep(first))  # [batch, length, interests]
        if self.normalise:
            weights = tf.nn.softmax(tf.where(mask[..., None], weights, weights.dtype.min), axis=1)
        weights = tf.where(mask[..., None], weights, 0.0)
        vectors = tf.matmul(weights, history, transpose_a=True)
        return tf.reshape(vectors, [-1, weights.shape[-1] * history.shape[-1]])
