"""The plain average of the history."""

import tensorflow as tf

from trainer.encoders.pooling import Pooling
from trainer.registry import register


@register("encoder", "mean")
class Mean(Pooling):
    """Mean pooling over the events of the history (Covington et al. 2016); an empty history gives zeros."""

    def __init__(self) -> None:
        super().__init__()

    def weights_of(self, mask: tf.Tensor, times: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the same weight `[batch, length]` for each of a history's events."""
        del times
        real = tf.cast(mask, tf.float32)
        return real / tf.maximum(tf.reduce_sum(real, axis=1, keepdims=True), 1.0)
