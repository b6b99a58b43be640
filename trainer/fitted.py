"""What the models that are fitted share: they count their steps, and report the loss of the epoch so far."""

from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs


class FittedModel(tfrs.Model):
    """A model whose steps are counted, and whose reported loss is the mean of the epoch so far."""

    def __init__(self) -> None:
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False, name="bad_step")
        self.mean_loss = tf.keras.metrics.Mean(name="loss")

    def train_step(self, inputs: Any) -> dict[str, tf.Tensor]:
        """Returns what TFRS reports of a step, with the mean loss in the place of the step's own."""
        reported: dict[str, tf.Tensor] = super().train_step(inputs)
        self.mean_loss.update_state(reported["loss"])
        return reported | {"loss": self.mean_loss.result()}

    def note(self, loss: tf.Tensor) -> None:
        """Counts a step, and keeps the number of the first whose loss was not finite."""
        bad = ~tf.math.is_finite(loss) & (self.bad_step < 0)
        self.bad_step.assign(tf.where(bad, self.step, self.bad_step))
        self.step.assign_add(1)
