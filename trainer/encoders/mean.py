"""The plain average of the history."""

import tensorflow as tf

from trainer.registry import register


@register("encoder", "mean")
class Mean(tf.keras.layers.Layer):
    """Mean pooling over the events of the history (Covington et al. 2016); an empty history gives zeros."""

    def __init__(self) -> None:
        super().__init__()

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]` and the mask of real events."""
        weight = tf.cast(mask, history.dtype)
        weight /= tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1.0)
        return tf.einsum("bl,bld->bd", weight, history)
