"""The user as the reconstruction of the history: which items, not in which order."""

import tensorflow as tf

from trainer.encoders.sequence import chance, count_setting, ready, share_setting
from trainer.registry import register


@register("encoder", "autoencoder")
class Autoencoder(tf.keras.layers.Layer):
    """Denoising autoencoder of the multi-hot history (Mult-DAE, Liang et al. 2018), for a softmax loss over the items.

    The item vectors are the first layer and, through the inner product of the towers, the last; between them stand a hidden layer and
    a way around it. In training a share `dropout` of the events is dropped and every event is reconstructed from the others that are
    left, never from itself: items have the same vector on both sides, and each would only learn to point at itself.
    An empty history gives the answer to zeros.
    """

    def __init__(self, hidden: int = 200, dropout: float = 0.5) -> None:
        super().__init__()
        self.hidden = count_setting("hidden", hidden)
        self.dropout = share_setting("dropout", dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        self.inner = tf.keras.layers.Dense(self.hidden, activation="tanh")
        self.inner.build([None, input_shape[-1]])
        self.outer = tf.keras.layers.Dense(input_shape[-1])
        self.outer.build([None, self.hidden])
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]` and the mask of real events."""
        weight = tf.cast(mask, history.dtype)
        return self._decoded(tf.einsum("bl,bld->bd", weight, history), tf.reduce_sum(weight, axis=1)[:, None])

    def predict_each(
        self, vectors: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns for each event what the others that were not dropped make `[batch, length, dimension]`, and which are real."""
        ready(self, vectors)
        kept = tf.cast(mask & ~chance(self.dropout, tf.shape(mask), seed), vectors.dtype)[..., None]
        read = kept * vectors
        others = tf.reduce_sum(read, axis=1, keepdims=True) - read
        return self._decoded(others, tf.reduce_sum(kept, axis=1, keepdims=True) - kept), mask

    def _decoded(self, total: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Returns the user of a sum of item vectors: the multi-hot history is scaled to length 1, as in the paper."""
        pooled = total * tf.math.rsqrt(tf.maximum(number, 1.0))
        return pooled + self.outer(self.inner(pooled))
