"""Several interests of one user, each its own attention over the history."""

import tensorflow as tf

from trainer.encoders.sequence import ages, attended, count_setting
from trainer.registry import register


@register("encoder", "comirec")
class ComiRec(tf.keras.layers.Layer):
    """Controllable multi-interest by self-attention (ComiRec-SA, Cen et al. 2020): `interests` poolings of the history side by side.

    Where the paper adds a position's vector, an event's age counts by a learned power for each interest, so any length will do. More
    interests than events are alike or nearly so: the weights are a softmax over the events there are. An empty history gives zeros.
    """

    def __init__(self, interests: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.interests = count_setting("interests", interests)
        self.hidden = count_setting("hidden", hidden)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        self.inner = tf.keras.layers.Dense(self.hidden, activation="tanh", use_bias=False)
        self.inner.build(input_shape)
        self.score = tf.keras.layers.Dense(self.interests, use_bias=False)
        self.score.build([None, self.hidden])
        self.recency = self.add_weight(name="recency", shape=(self.interests, 1), initializer="zeros")
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, interests, dimension]` from `[batch, length, dimension]`, oldest event first, and its mask."""
        age = tf.math.log1p(tf.cast(ages(mask), history.dtype))
        score = tf.linalg.matrix_transpose(self.score(self.inner(history))) - self.recency * age[:, None]
        return tf.matmul(attended(score, mask[:, None]), history)
