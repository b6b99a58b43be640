"""Self-attention over events: the layers of the transformers, written for few cores."""

from collections.abc import Callable

import tensorflow as tf

from trainer.encoders.sequence import count, count_setting, dropped, share_setting
from trainer.errors import UserError

Predicted = tuple[tf.Tensor, tf.Tensor]  # predictions [batch, length, dimension], asked bool [batch, length]


class Blocks(tf.keras.layers.Layer):
    """Layers of attention and a feed-forward network (Vaswani et al. 2017), each on normalised inputs, and a last normalisation.

    `inner`: units of the feed-forward network's hidden layer, 0 for four times the dimension.
    All but the attention itself runs on `[batch * length, dimension]`, the three projections as one product: on few cores the passes over
    memory cost as much as the products.
    """

    def __init__(self, layers: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.depth = count_setting("layers", layers)
        self.heads = count_setting("heads", heads)
        self.inner = count_setting("inner", inner, least=0)
        self.dropout = share_setting("dropout", dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for vectors `[batch, length, dimension]`."""
        dimension = input_shape[-1]
        inner = self.inner or 4 * dimension
        if dimension % self.heads:
            raise UserError(
                f"retrieval.encoder.heads is {self.heads}; it must divide the dimension {dimension}"
            )
        self.projections = [_dense(dimension, 3 * dimension) for _ in range(self.depth)]
        self.mixes = [_dense(dimension, dimension) for _ in range(self.depth)]
        self.inners = [_dense(dimension, inner, "relu") for _ in range(self.depth)]
        self.outers = [_dense(inner, dimension) for _ in range(self.depth)]
        self.norms = [_norm(dimension) for _ in range(2 * self.depth + 1)]
        self.built = True

    def call(self, vectors: tf.Tensor, bias: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, length, dimension]`; `bias` is added to the logits `[batch, heads, asking, read]`, `seed` drops out."""
        shape = tf.shape(vectors)
        flat = dropped(tf.reshape(vectors, [-1, vectors.shape[-1]]), self.dropout, seed)
        for layer in range(self.depth):
            seeds = [None, None] if seed is None else [seed + 2 * layer + 1, seed + 2 * layer + 2]
            read = self._read(layer, self.norms[2 * layer](flat), shape, bias)
            flat += dropped(read, self.dropout, seeds[0])
            inner = self.inners[layer](self.norms[2 * layer + 1](flat))
            flat += dropped(self.outers[layer](inner), self.dropout, seeds[1])
        return tf.reshape(self.norms[-1](flat), [shape[0], shape[1], vectors.shape[-1]])

    def _read(self, layer: int, flat: tf.Tensor, shape: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Returns what each row reads of the others, `[batch * length, dimension]`."""
        each = flat.shape[-1] // self.heads
        parts = tf.reshape(self.projections[layer](flat), [shape[0], shape[1], 3, self.heads, each])
        queries, keys, values = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        logits = tf.matmul(queries * each**-0.5, keys, transpose_b=True) + bias
        read = tf.transpose(tf.matmul(tf.nn.softmax(logits), values), [0, 2, 1, 3])
        return self.mixes[layer](tf.reshape(read, [-1, flat.shape[-1]]))


def _dense(width: int, units: int, activation: str | None = None) -> tf.keras.layers.Layer:
    layer = tf.keras.layers.Dense(units, activation=activation)
    layer.build([None, width])
    return layer


def _norm(width: int) -> tf.keras.layers.Layer:
    layer = tf.keras.layers.LayerNormalization(epsilon=1e-5)
    layer.build([None, width])
    return layer


def sinusoids(number: int, dimension: int) -> tf.Tensor:
    """Returns the positions `[number, dimension]` of Vaswani et al. 2017: sines and cosines of wavelengths up to 10,000 times 2 pi."""
    rates = 1e4 ** (-tf.range(0, dimension, 2, tf.float32) / dimension)
    angles = tf.range(number, dtype=tf.float32)[:, None] * rates
    return tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)[:, :dimension]


def latest(events: tf.Tensor, mask: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the last `length` real events of each sequence and their mask; as they are where all fit."""
    first = tf.maximum(count(mask) - length, 0)[:, None]
    return _if_wider(events, length, lambda: _taken(events, mask, first, length), lambda: (events, mask))


def of_latest(
    predict: Callable[[tf.Tensor, tf.Tensor], Predicted], events: tf.Tensor, mask: tf.Tensor, length: int
) -> Predicted:
    """Returns what `predict` makes of the last `length` real events, at their places; events before them are zeros and not asked."""

    def cut() -> Predicted:
        first = tf.maximum(count(mask) - length, 0)[:, None]
        predictions, asked = predict(*_taken(events, mask, first, length))
        within = tf.range(tf.shape(mask)[1]) - first
        inside = mask & (within >= 0)
        at = tf.clip_by_value(within, 0, length - 1)
        rows = tf.where(inside[..., None], tf.gather(predictions, at, batch_dims=1), 0.0)
        return rows, inside & tf.gather(asked, at, batch_dims=1)

    return _if_wider(events, length, cut, lambda: predict(events, mask))


def _taken(events: tf.Tensor, mask: tf.Tensor, first: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    at = first + tf.range(length)
    return tf.gather(events, at, batch_dims=1), tf.gather(mask, at, batch_dims=1)


def _if_wider(
    events: tf.Tensor, length: int, cut: Callable[[], Predicted], whole: Callable[[], Predicted]
) -> Predicted:
    """Returns `cut()` for sequences wider than `length`, else `whole()`: decided while tracing where the width is known then."""
    if events.shape[1] is not None:
        return cut() if events.shape[1] > length else whole()
    predicted: Predicted = tf.cond(tf.shape(events)[1] > length, cut, whole)
    return predicted
