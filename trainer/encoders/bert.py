"""Bidirectional self-attention that fills in masked events."""

import tensorflow as tf

from trainer.encoders.self_attention import Blocks, Predicted, latest, of_latest
from trainer.encoders.sequence import (
    NEVER,
    ages,
    chance,
    count,
    count_setting,
    place,
    ready,
    share_setting,
)
from trainer.registry import register


@register("encoder", "bert")
class Bert(tf.keras.layers.Layer):
    """Masked items (BERT4Rec, Sun et al. 2019): each place reads all others, and a learned vector stands for what is to be found.

    In training a share `masked` of the places is masked, in a share `last` of the sequences only the last one, as at the time of asking:
    `call` sets the mask after the newest event. It reads at most the last `length` events. Positions are learned and counted from the
    newest place.
    """

    def __init__(
        self,
        layers: int = 2,
        heads: int = 2,
        inner: int = 0,
        dropout: float = 0.2,
        masked: float = 0.3,
        last: float = 0.2,
        length: int = 50,
    ) -> None:
        super().__init__()
        self.masked = share_setting("masked", masked)
        self.last = share_setting("last", last)
        self.length = count_setting("length", length)
        self.blocks = Blocks(layers, heads, inner, dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        dimension = input_shape[-1]
        self.hidden = self.add_weight(name="hidden", shape=(dimension,), initializer="random_normal")
        self.table = self.add_weight(
            name="table", shape=(self.length + 1, dimension), initializer="random_normal"
        )
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-5)
        self.norm.build([None, None, dimension])
        self.blocks.build([None, None, dimension])
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, and its mask."""
        history, mask = latest(history, mask, self.length)
        asking = tf.range(tf.shape(mask)[1] + 1) == count(mask)[:, None]
        states = self._states(
            tf.pad(history, [(0, 0), (0, 1), (0, 0)]), tf.pad(mask, [(0, 0), (0, 1)]) | asking, asking
        )
        return place(states, count(mask))

    def predict_each(self, vectors: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> Predicted:
        """Returns predictions `[batch, length, dimension]` at the places that `seed` masks, and which these are."""
        ready(self, vectors)

        def predict(events: tf.Tensor, real: tf.Tensor) -> Predicted:
            asked = self._masked(real, seed)
            return self._states(events, real, asked, seed + 2), asked

        return of_latest(predict, vectors, mask, self.length + 1)

    def _masked(self, mask: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the places to be found, at least one in each sequence: the last where chance takes none."""
        chosen = mask & chance(self.masked, tf.shape(mask), seed)
        chosen &= ~chance(self.last, [tf.shape(mask)[0], 1], seed + 1)
        newest = mask & (ages(mask) == 0)
        return chosen | (newest & ~tf.reduce_any(chosen, axis=1, keepdims=True))

    def _states(
        self, events: tf.Tensor, mask: tf.Tensor, hidden: tf.Tensor, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the state at each place `[batch, length, dimension]`, the `hidden` ones read as the mask."""
        events = self.norm(tf.where(hidden[..., None], self.hidden, events)) + tf.gather(
            self.table, ages(mask)
        )
        bias = tf.where(mask, 0.0, NEVER)[:, None, None]
        return self.blocks(events, bias, seed)
