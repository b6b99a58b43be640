"""Several interests of one user, found by dynamic routing of the events to capsules."""

import math

import tensorflow as tf

from trainer.encoders.sequence import NEVER, ages, count, count_setting
from trainer.errors import UserError
from trainer.registry import register


@register("encoder", "mind")
class Mind(tf.keras.layers.Layer):
    """Multi-interest network with dynamic routing (MIND, Li et al. 2019) over events in one shared bilinear map.

    The paper draws the first routing logits at random; here events go to the capsules in turn, counted from the newest, so a history has
    the same interests at every call and capsules begin alike: near the mean, as long as items say nothing. Squashed capsules of small
    vectors agree with everything alike, so events are read at length 1 and a learned number, `sharpness` at first, multiplies the
    agreement. The map begins as the identity, and the layers above add little at first: capsules begin in the space of the items.
    A history of fewer events than `interests` has as many as it has events, and the others repeat the first, which changes no maximum
    over them. An empty history gives the answer to a capsule of zeros.
    """

    def __init__(
        self, interests: int = 4, iterations: int = 3, power: float = 10.0, sharpness: float = 4.0
    ) -> None:
        super().__init__()
        self.interests = count_setting("interests", interests)
        self.iterations = count_setting("iterations", iterations)
        if power < 0:
            raise UserError(f"retrieval.encoder.power is {power}; it must not be below 0")
        if sharpness <= 0:
            raise UserError(f"retrieval.encoder.sharpness is {sharpness}; it must be above 0")
        self.power = power
        self.sharpness = sharpness

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        dimension = input_shape[-1]
        self.bilinear = self.add_weight(name="bilinear", shape=(dimension, dimension), initializer="identity")
        self.log_sharpness = self.add_weight(
            name="log_sharpness",
            shape=(),
            initializer=tf.keras.initializers.Constant(math.log(self.sharpness)),
        )
        self.inner = tf.keras.layers.Dense(2 * dimension, activation="relu")
        self.inner.build([None, dimension])
        self.outer = tf.keras.layers.Dense(dimension, kernel_initializer="random_normal")
        self.outer.build([None, 2 * dimension])
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, interests, dimension]` from `[batch, length, dimension]`, oldest event first, and its mask."""
        events = tf.tensordot(tf.math.l2_normalize(history, axis=-1), self.bilinear, 1)
        active = tf.sequence_mask(tf.maximum(count(mask), 1), self.interests)
        capsules = self._routed(events, mask, active)
        capsules = tf.where(active[..., None], capsules, capsules[:, :1])
        return capsules + self.outer(self.inner(capsules))

    def _routed(self, events: tf.Tensor, mask: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        """Returns capsules `[batch, interests, dimension]`; only the last round passes gradients to the events, as in the paper."""
        fixed = tf.stop_gradient(events)
        real = tf.cast(mask, events.dtype)[:, None]
        turn = tf.one_hot(ages(mask) % self.interests, self.interests, axis=1)
        logits = tf.where(active[..., None], turn, NEVER)
        for _ in range(self.iterations - 1):
            capsules = squashed(tf.matmul(tf.nn.softmax(logits, axis=1) * real, fixed))
            logits += tf.exp(self.log_sharpness) * tf.matmul(capsules, fixed, transpose_b=True)
        return squashed(tf.matmul(tf.nn.softmax(logits, axis=1) * real, events))

    def choose(self, interests: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, D]`: the interests `[batch, interests, D]` weighed by their attention to the positive `[batch, D]`.

        Label-aware attention. `power` times the product stands for the paper's power of it: 0 weighs all alike, a large one chooses the
        nearest, and products below zero keep their order.
        """
        weight = tf.nn.softmax(self.power * tf.einsum("bhd,bd->bh", interests, positive))
        return tf.einsum("bh,bhd->bd", weight, interests)


def squashed(capsules: tf.Tensor) -> tf.Tensor:
    """Returns the capsules in their direction, of length n^2 / (1 + n^2) for one of length n (Sabour et al. 2017)."""
    squared = tf.reduce_sum(tf.square(capsules), axis=-1, keepdims=True)
    return capsules * squared / (1 + squared) * tf.math.rsqrt(squared + 1e-9)
