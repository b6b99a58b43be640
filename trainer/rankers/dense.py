"""Dense layers that the parts of a ranking model are made of."""

import tensorflow as tf


def dropped(vectors: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Returns the vectors, in training (with a `seed`) a share `rate` of their numbers at 0 and the rest scaled up."""
    if seed is None or not rate:
        return vectors
    return tf.nn.experimental.stateless_dropout(vectors, rate, seed)


class Deep(tf.keras.layers.Layer):
    """Hidden layers of the given widths; none at all gives back what came in."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in widths]

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns `[..., last width]` of `[..., *]`."""
        for layer in self.hidden:
            vectors = layer(vectors)
        return vectors


class Tower(tf.keras.layers.Layer):
    """A target's own layers: hidden ones, then one number that is 0 before training."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.deep = Deep(widths)
        self.last = tf.keras.layers.Dense(1, kernel_initializer="zeros")

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, 1]` of `[batch, *]`."""
        return self.last(self.deep(vectors))
