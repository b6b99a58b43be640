"""The average of the history with the recent events weighing more."""

import tensorflow as tf

from trainer.encoders.pooling import Pooling
from trainer.encoders.sequence import ages
from trainer.errors import UserError
from trainer.registry import register

DAY = 86_400.0  # seconds


@register("encoder", "decay")
class Decay(Pooling):
    """Mean pooling with exponential decay: an event `half_life` events older weighs half; an empty history gives zeros.

    With `half_life_days` an event that many days older than the newest weighs half of that again (Koren, "Collaborative filtering with
    temporal dynamics", 2009, has this form); one whose time is not known counts as no older. `half_life=inf` leaves days alone to say.
    """

    def __init__(self, half_life: float = 2.0, half_life_days: float | None = None) -> None:
        super().__init__()
        for name, value in (("half_life", half_life), ("half_life_days", half_life_days)):
            if value is not None and not value > 0:
                raise UserError(f"retrieval.encoder.{name} is {value}; it must be above 0")
        self.half_life, self.half_life_days = half_life, half_life_days
        self.reads_times = half_life_days is not None

    def weights_of(self, mask: tf.Tensor, times: tf.Tensor | None = None) -> tf.Tensor:
        """Returns weights `[batch, length]` that halve with every `half_life` events, and with every `half_life_days`."""
        halvings = tf.cast(ages(mask), tf.float32) / self.half_life
        if times is not None and self.half_life_days is not None:
            older = tf.reduce_max(times, axis=1, keepdims=True) - times
            days = tf.where(times > 0, tf.cast(older, tf.float32) / DAY, 0.0)
            halvings += days / self.half_life_days
        weight = tf.where(mask, tf.pow(0.5, halvings), 0.0)
        return weight / tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1e-9)
