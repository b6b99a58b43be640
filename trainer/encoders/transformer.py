"""Causal self-attention: every event of a history predicted from those before it, in one pass."""

from typing import Literal

import tensorflow as tf

from trainer.encoders.self_attention import Blocks, Predicted, latest, of_latest, sinusoids
from trainer.encoders.sequence import (
    NEVER,
    after_first,
    chance,
    count,
    count_setting,
    distances,
    place,
    ready,
    started,
)
from trainer.registry import register

GAPS = 32  # powers of two of seconds between two events; the last is 68 years and more


@register("encoder", "transformer")
class Transformer(tf.keras.layers.Layer):
    """Self-attentive sequential recommendation (SASRec, Kang & McAuley 2018): causal, a learned vector before the first event.

    It reads at most the last `length` events. Positions: `recency`, a learned logit for each head and distance between the asking and
    the read event: counted from the newest, so short and long histories share it; `learned`, the paper's vectors, and `sinusoidal`
    (Vaswani et al. 2017), both counted from the oldest event read, for a place in the middle of a sequence must not know its end.
    `gaps` adds a learned logit for each head and time between the two events (TiSASRec, Li et al. 2020; there a vector), in powers of
    two of seconds. An event whose time is not known adds none, and in training a share `dropout` of the sequences is read so.
    """

    def __init__(
        self,
        layers: int = 2,
        heads: int = 2,
        inner: int = 0,
        dropout: float = 0.2,
        positions: Literal["recency", "learned", "sinusoidal"] = "recency",
        length: int = 50,
        gaps: bool = False,
    ) -> None:
        super().__init__()
        self.reads_times = gaps
        self.length = count_setting("length", length)
        self.positions = positions
        self.blocks = Blocks(layers, heads, inner, dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        dimension, rows = input_shape[-1], self.length + 1
        self.start = self.add_weight(name="start", shape=(dimension,), initializer="random_normal")
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-5)
        self.norm.build([None, None, dimension])
        if self.positions == "recency":
            self.bias = self.add_weight(name="bias", shape=(self.blocks.heads, rows), initializer="zeros")
        elif self.positions == "learned":
            self.table = self.add_weight(name="table", shape=(rows, dimension), initializer="random_normal")
        if self.reads_times:
            self.gap = self.add_weight(name="gap", shape=(GAPS, self.blocks.heads), initializer="zeros")
        self.blocks.build([None, None, dimension])
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor, times: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, its mask and its times in seconds."""
        if times is not None:
            times, _ = latest(times, mask, self.length)
        history, mask = latest(history, mask, self.length)
        return place(self._states(started(self.start, history), times), count(mask))

    def predict_each(
        self, vectors: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, times: tf.Tensor | None = None
    ) -> Predicted:
        """Returns a prediction of every event from those before it `[batch, length, dimension]`, and which have any."""
        ready(self, vectors)
        if times is not None:
            times = latest(times, mask, self.length + 1)[0][:, :-1]
            hidden = chance(self.blocks.dropout, [tf.shape(mask)[0], 1], seed - 1)
            times = tf.where(hidden, tf.zeros_like(times), times)

        def predict(events: tf.Tensor, real: tf.Tensor) -> Predicted:
            return self._states(started(self.start, events[:, :-1]), times, seed), after_first(real)

        return of_latest(predict, vectors, mask, self.length + 1)

    def _states(self, events: tf.Tensor, times: tf.Tensor | None, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the state at each place `[batch, length, dimension]`, made of the vectors up to it."""
        length = tf.shape(events)[1]
        distance = distances(length)
        bias = tf.where(distance < 0, NEVER, 0.0)
        events = self.norm(events)
        if times is not None:
            gap = tf.gather(tf.pad(self.gap, [(1, 0), (0, 0)]), gaps(tf.pad(times, [(0, 0), (1, 0)])))
            bias += tf.transpose(gap, [0, 3, 1, 2])
        if self.positions == "recency":
            bias += tf.gather(self.bias, tf.maximum(distance, 0), axis=1)
        elif self.positions == "learned":
            events += self.table[:length]
        else:
            events += sinusoids(self.length + 1, events.shape[-1])[:length]
        return self.blocks(events, bias, seed)


def gaps(times: tf.Tensor) -> tf.Tensor:
    """Returns how long before each event the others were, int32 `[batch, asking, read]`, from times in seconds `[batch, length]`.

    1 for no second, 2 for one, 3 for 2 to 3, 4 for 4 to 7, and so on; 0 where either time is 0, that is not known.
    """
    asking, read = times[:, :, None], times[:, None, :]
    power = tf.raw_ops.Bucketize(input=asking - read, boundaries=[2.0**power for power in range(GAPS - 1)])
    return tf.where((asking > 0) & (read > 0), 1 + power, 0)
