"""The average of the history with the recent events weighing more."""

import tensorflow as tf

from trainer.registry import register


@register("encoder", "decay")
class Decay(tf.keras.layers.Layer):
    """Mean pooling with exponential decay: an event `half_life` events older weighs half; an empty history gives zeros."""

    def __init__(self, half_life: float = 5.0) -> None:
        super().__init__()
        if half_life <= 0:
            raise ValueError(f"half_life is {half_life} events; it must be above 0")
        self.half_life = half_life

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, and its mask."""
        real = tf.cast(mask, history.dtype)
        age = tf.reduce_sum(real, axis=1, keepdims=True) - tf.cumsum(real, axis=1)
        weight = real * tf.pow(0.5, age / self.half_life)
        weight /= tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1e-9)
        return tf.einsum("bl,bld->bd", weight, history)
