"""What a user does just now, and what the user likes in the long run."""

import tensorflow as tf

from trainer.encoders.sequence import (
    after_first,
    attended,
    count,
    count_setting,
    distances,
    dropped,
    place,
    ready,
    share_setting,
)
from trainer.errors import UserError
from trainer.registry import register


@register("encoder", "session")
class Session(tf.keras.layers.Layer):
    """A short-term and a long-term vector, weighed by a gate that reads both.

    Short term: the last event's attention over the session, which is the last `session_length` events, with a learned bias for each age
    (STAMP, Liu et al. 2018, in place of the recurrence of Hidasi et al. 2016: it needs no loop). With `session_gap`, in minutes, a session
    begins anew after a longer pause, and that of the last event is read; an event whose time is not known begins none. Long term: the mean
    of all events, an event `half_life` events older weighing half (0: a plain mean). An empty history gives the gate's answer to zeros.
    """

    def __init__(
        self,
        session_length: int = 8,
        session_gap: float = 0.0,
        half_life: float = 20.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if session_gap < 0:
            raise UserError(f"retrieval.encoder.session_gap is {session_gap} minutes; it must not be below 0")
        self.session_gap = session_gap
        self.reads_times = session_gap > 0
        self.session_length = count_setting("session_length", session_length)
        if half_life < 0:
            raise UserError(f"retrieval.encoder.half_life is {half_life} events; it must not be below 0")
        self.half_life = half_life
        self.dropout = share_setting("dropout", dropout)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights for histories `[batch, length, dimension]`."""
        dimension = input_shape[-1]
        self.query = tf.keras.layers.Dense(dimension)
        self.short = tf.keras.layers.Dense(dimension)
        self.gate = tf.keras.layers.Dense(dimension, activation="sigmoid")
        self.query.build([None, dimension])
        self.short.build([None, 2 * dimension])
        self.gate.build([None, 2 * dimension])
        self.bias = self.add_weight(name="bias", shape=(self.session_length,), initializer="zeros")
        self.built = True

    def call(self, history: tf.Tensor, mask: tf.Tensor, times: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, dimension]` from `[batch, length, dimension]`, oldest event first, its mask and, in seconds, its times."""
        one_more = [(0, 0), (0, 1)]
        times = None if times is None else tf.pad(times, one_more)
        return place(self._rows(tf.pad(history, [*one_more, (0, 0)]), times), count(mask))

    def predict_each(
        self, vectors: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, times: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a prediction of every event from those before it `[batch, length, dimension]`, and which have any."""
        ready(self, vectors)
        return self._rows(dropped(vectors, self.dropout, seed), times), after_first(mask)

    def _rows(self, events: tf.Tensor, times: tf.Tensor | None) -> tf.Tensor:
        """Returns for each row a vector of the events before it `[batch, length, dimension]`."""
        length, dimension = tf.shape(events)[1], events.shape[-1]
        age = distances(length) - 1  # of a key at an asking row: 0 for the event just before
        last = tf.pad(events[:, :-1], [(0, 0), (1, 0), (0, 0)])
        logits = tf.matmul(self.query(last), events, transpose_b=True) * dimension**-0.5
        logits += tf.gather(self.bias, tf.clip_by_value(age, 0, self.session_length - 1))
        readable = (age >= 0) & (age < self.session_length)
        if times is not None:
            session = self._sessions(times)
            readable &= tf.roll(session, 1, axis=1)[:, :, None] == session[:, None, :]
        recent = attended(logits, readable)
        short = self.short(tf.concat([tf.matmul(recent, events), last], axis=-1))
        long = tf.matmul(self._decayed(age), events)
        gate = self.gate(tf.concat([short, long], axis=-1))
        return gate * short + (1 - gate) * long

    def _sessions(self, times: tf.Tensor) -> tf.Tensor:
        """Returns the number of each event's session, from times int64 `[batch, length]`, 0 where not known."""
        known = (times[:, :-1] > 0) & (times[:, 1:] > 0)
        paused = known & (tf.cast(times[:, 1:] - times[:, :-1], tf.float32) > 60 * self.session_gap)
        return tf.cumsum(tf.pad(tf.cast(paused, tf.int32), [(0, 0), (1, 0)]), axis=1)

    def _decayed(self, age: tf.Tensor) -> tf.Tensor:
        """Returns the weight of each key at each asking row, by its age: rows add up to 1, or to 0 where nothing came before."""
        exponent = (
            tf.cast(age, tf.float32) / self.half_life if self.half_life else tf.zeros_like(age, tf.float32)
        )
        weight = tf.where(age >= 0, tf.pow(0.5, tf.maximum(exponent, 0.0)), 0.0)
        return weight / tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1e-9)
