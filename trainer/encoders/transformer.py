"""Causal self-attention: every event of a history predicted from those before it, in one pass."""

from typing import Literal

import tensorflow as tf

from trainer.encoders.self_attention import Blocks, Predicted, latest, of_latest, sinusoids
from trainer.encoders.sequence import (
    NEVER,
    after_first,
    count,
    count_setting,
    distances,
    place,
    ready,
    started,
)
from trainer.registry import register


@register("encoder", "transformer")
class Transformer(tf.keras.layers.Layer):
    """Self-attentive sequential recommendation (SASRec, Kang & McAuley 2018): causal, a learned vector before the first event.

    It reads at most the last `length` events. Positions: `recency`, a learned logit for each head and distance between the asking and
    the read event: counted from the newest, so short and long histories share it; `learned`, the paper's vectors, and `sinusoidal`
    (Vaswani et al. 2017), both counted from the oldest event read, for a place in the middle of a sequence must not know its end.
    """

    def __init__(
        self,
        layers: int = 2,
        heads: int = 2,
        inner: int = 0,
        dropout: float = 0.2,
        positions: Literal["recency", "learned", "sinusoidal"] = "recency",
        length: int = 50,
    ) -> None:
        super().__init__()
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
        self.blocks.build([None, None, dimension])
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, and its mask."""
        history, mask = latest(history, mask, self.length)
        return place(self._states(started(self.start, history)), count(mask))

    def predict_each(self, vectors: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> Predicted:
        """Returns a prediction of every event from those before it `[batch, length, dimension]`, and which have any."""
        ready(self, vectors)

        def predict(events: tf.Tensor, real: tf.Tensor) -> Predicted:
            return self._states(started(self.start, events[:, :-1]), seed), after_first(real)

        return of_latest(predict, vectors, mask, self.length + 1)

    def _states(self, events: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the state at each place `[batch, length, dimension]`, made of the vectors up to it."""
        length = tf.shape(events)[1]
        distance = distances(length, length)
        bias = tf.where(distance < 0, NEVER, 0.0)
        events = self.norm(events)
        if self.positions == "recency":
            bias += tf.gather(self.bias, tf.maximum(distance, 0), axis=1)
        elif self.positions == "learned":
            events += self.table[:length]
        else:
            events += sinusoids(self.length + 1, events.shape[-1])[:length]
        return self.blocks(events, bias, seed)
