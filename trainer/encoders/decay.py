"""The average of the history with the recent events weighing more."""

import tensorflow as tf

from trainer.encoders.pooling import Pooling
from trainer.encoders.sequence import ages
from trainer.registry import register


@register("encoder", "decay")
class Decay(Pooling):
    """Mean pooling with exponential decay: an event `half_life` events older weighs half; an empty history gives zeros."""

    def __init__(self, half_life: float = 2.0) -> None:
        super().__init__()
        if half_life <= 0:
            raise ValueError(f"half_life is {half_life} events; it must be above 0")
        self.half_life = half_life

    def weights_of(self, mask: tf.Tensor) -> tf.Tensor:
        """Returns weights `[batch, length]` that halve with every `half_life` events."""
        weight = tf.where(mask, tf.pow(0.5, tf.cast(ages(mask), tf.float32) / self.half_life), 0.0)
        return weight / tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1e-9)
