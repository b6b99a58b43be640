"""What the encoders share: reading right-padded events `[batch, length, dimension]`, and randomness that belongs to a step.

Positions are ages: events are counted back from the newest real one (or from the place that asks), so the last event of a short
history and of a long one is the same position, and the padding to its right never moves it.
"""

import tensorflow as tf

from trainer.errors import UserError

NEVER = -1e9  # the logit of what must not be read: a softmax makes it exactly 0


def ready(layer: tf.keras.layers.Layer, vectors: tf.Tensor) -> None:
    """Builds the layer where a training step meets it by another method than `call`."""
    if not layer.built:
        with tf.init_scope():
            layer.build(vectors.shape)


def count(mask: tf.Tensor) -> tf.Tensor:
    """Returns how many events are real, int32 `[batch]`."""
    return tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)


def ages(mask: tf.Tensor) -> tf.Tensor:
    """Returns how many real events are newer than each place, int32 `[batch, length]`: 0 for the newest and for padding."""
    return tf.maximum(count(mask)[:, None] - 1 - tf.range(tf.shape(mask)[1]), 0)


def after_first(mask: tf.Tensor) -> tf.Tensor:
    """Returns which real events have an earlier one to be predicted from, bool `[batch, length]`."""
    return mask & (tf.range(tf.shape(mask)[1]) > 0)


def place(rows: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns row `number` int32 `[batch]` of each sequence `[batch, length, ...]`."""
    return tf.gather(rows, number, batch_dims=1)


def started(start: tf.Tensor, events: tf.Tensor) -> tf.Tensor:
    """Returns the sequences with the vector `start` `[dimension]` set before the first event."""
    first = tf.broadcast_to(start, [tf.shape(events)[0], 1, events.shape[-1]])
    return tf.concat([first, events], axis=1)


def distances(length: int | tf.Tensor) -> tf.Tensor:
    """Returns how far before each asking row a read row stands, int32 `[asking, read]`: negative where it comes later."""
    return tf.range(length)[:, None] - tf.range(length)


def attended(logits: tf.Tensor, readable: tf.Tensor) -> tf.Tensor:
    """Returns the softmax over the last axis of what is `readable`; all zeros where nothing is."""
    weight = tf.nn.softmax(tf.where(readable, logits, NEVER))
    return tf.where(readable, weight, 0.0)


def chance(share: float, shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns bool of `shape`, each true by the chance `share` to the next 1/256: four draws from each random number."""
    size = tf.reduce_prod(shape)
    drawn = tf.random.stateless_uniform([(size + 3) // 4], seed, minval=None, maxval=None, dtype=tf.int32)
    bits = tf.reshape(tf.bitcast(drawn, tf.uint8), [-1])[:size]
    return tf.reshape(bits < tf.constant(round(share * 256), tf.uint8), shape)


def dropped(vectors: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Returns the vectors with a share `rate` of their numbers set to 0 and the rest scaled up; as they are without a seed."""
    if seed is None or rate == 0:
        return vectors
    scale = 256 / (256 - round(rate * 256))
    return tf.where(chance(rate, tf.shape(vectors), seed), 0.0, vectors * scale)


def share_setting(name: str, value: float) -> float:
    """Returns a setting that is a share; raises `UserError` outside [0, .99]."""
    if not 0 <= value <= 0.99:
        raise UserError(f"retrieval.encoder.{name} is {value}; it must be from 0 to 0.99")
    return value


def count_setting(name: str, value: int, least: int = 1) -> int:
    """Returns a setting that counts something; raises `UserError` below `least`."""
    if value < least:
        raise UserError(f"retrieval.encoder.{name} is {value}; it must be at least {least}")
    return value
