"""What the encoders share that are a weighted sum of the history."""

import tensorflow as tf

from trainer.encoders.sparse import product


class Pooling(tf.keras.layers.Layer):
    """An encoder whose answer is a weighted sum of the history's vectors; the subclass says the weights."""

    def weights_of(self, mask: tf.Tensor, times: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the weights float32 `[batch, length]` of events, from the mask of real ones; 0 where there is none.

        `times`: when they were, in seconds, for an encoder that says `reads_times`.
        """
        raise NotImplementedError

    def call(self, history: tf.Tensor, mask: tf.Tensor, times: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, and the mask of real events."""
        return tf.einsum("bl,bld->bd", self.weights_of(mask, times), history)

    def pool(
        self, vectors: tf.Tensor, places: tf.Tensor, mask: tf.Tensor, times: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the same of histories that are `places` `[batch, length]` in `vectors` `[n, dimension]`.

        One sparse product, there and back: the events' vectors, most of a training step's memory, are never made.
        """
        where = tf.where(mask)
        columns = tf.cast(tf.gather_nd(places, where), tf.int64)
        matrix = tf.SparseTensor(
            tf.stack([where[:, 0], columns], axis=1),
            tf.gather_nd(self.weights_of(mask, times), where),
            [tf.shape(mask, tf.int64)[0], tf.shape(vectors, tf.int64)[0]],
        )
        return product(matrix, vectors)
