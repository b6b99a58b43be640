"""A recurrent network over the history."""

import tensorflow as tf

from trainer.encoders.sequence import (
    after_first,
    count,
    count_setting,
    dropped,
    place,
    ready,
    share_setting,
    started,
)
from trainer.registry import register


@register("encoder", "gru")
class Gru(tf.keras.layers.Layer):
    """A gated recurrent unit (GRU4Rec, Hidasi et al. 2016) of `width` states (0: the dimension), mapped back to the dimension.

    The padding stands on the right, so no state of a real event has seen it and the state at the last one is the answer. An empty
    history gives the answer to the learned first state.
    """

    def __init__(self, width: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        self.width = count_setting("width", width, least=0)
        self.dropout = share_setting("dropout", dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        dimension = input_shape[-1]
        width = self.width or dimension
        self.start = self.add_weight(name="start", shape=(width,), initializer="uniform")
        self.into = tf.keras.layers.Dense(3 * width)
        self.into.build([None, dimension])
        self.gates = self.add_weight(name="gates", shape=(width, 2 * width), initializer="orthogonal")
        self.candidate = self.add_weight(name="candidate", shape=(width, width), initializer="orthogonal")
        self.out = tf.keras.layers.Dense(dimension)
        self.out.build([None, width])
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, and its mask."""
        padded = tf.pad(history, [(0, 0), (0, 1), (0, 0)])
        return self.out(place(self._states_before(padded), count(mask)))

    def predict_each(
        self, vectors: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a prediction of every event from those before it `[batch, length, dimension]`, and which have any."""
        ready(self, vectors)
        return self.out(self._states_before(dropped(vectors, self.dropout, seed))), after_first(mask)

    def _states_before(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns the state before each event `[batch, length, width]`: the inputs' share of the gates is one product for all."""
        inputs = tf.transpose(self.into(vectors), [1, 0, 2])
        first = tf.broadcast_to(self.start, [tf.shape(vectors)[0], self.start.shape[0]])

        def step(state: tf.Tensor, given: tf.Tensor) -> tf.Tensor:
            width = state.shape[-1]
            gates = tf.sigmoid(given[:, : 2 * width] + tf.matmul(state, self.gates))
            update, reset = gates[:, :width], gates[:, width:]
            candidate = tf.tanh(given[:, 2 * width :] + tf.matmul(reset * state, self.candidate))
            return update * state + (1 - update) * candidate

        states = tf.transpose(tf.scan(step, inputs, first), [1, 0, 2])
        return started(self.start, states[:, :-1])
