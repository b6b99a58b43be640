"""The history pooled by learned weights."""

import tensorflow as tf

from trainer.encoders.sequence import ages, attended, count_setting
from trainer.registry import register


@register("encoder", "attention")
class Attention(tf.keras.layers.Layer):
    """Pooling of the history (Covington et al. 2016) with learned weights: a softmax over a small network's score of each event.

    An event's age counts too, by a learned power: a score of `-recency * log(1 + age)`. An empty history gives zeros.
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = count_setting("hidden", hidden)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        self.inner = tf.keras.layers.Dense(self.hidden, activation="tanh")
        self.inner.build(input_shape)
        self.score = self.add_weight(name="score", shape=(self.hidden, 1))
        self.recency = self.add_weight(name="recency", shape=(), initializer="zeros")
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, and its mask."""
        age = tf.math.log1p(tf.cast(ages(mask), history.dtype))
        score = tf.squeeze(tf.matmul(self.inner(history), self.score), -1) - self.recency * age
        return tf.einsum("bl,bld->bd", attended(score, mask), history)
