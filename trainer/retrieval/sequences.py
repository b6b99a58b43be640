"""Whole sequences to batches, for encoders that predict every position in one pass: short ones with short ones, to pad little."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from trainer.data.examples import Events
from trainer.errors import UserError
from trainer.input_pipeline import Batch, context_key, mapped, tensor

SHORTEST = 8  # events of the shortest bucket; each further one is twice as wide


class Sequences:
    """Each user's events in runs of at most `length`, counted from the newest; batches of about `batch_size` places.

    A batch holds sequences of one bucket of lengths; buckets and their sequences are shuffled anew each epoch, by computation, so any
    epoch starts at once and a resumed run sees the batches of an unbroken one.
    """

    def __init__(self, events: Events, users: int, length: int, batch_size: int, seed: int) -> None:
        starts, ends = runs(events.by_user(users).offsets, max(length, 2))
        size = ends - starts
        if not len(size):
            raise UserError(
                "no user has two events to learn a sequence from; take an encoder of single events, such as mean"
            )
        self.length = int(size.max(initial=2))
        widths = [min(SHORTEST, self.length)]
        while widths[-1] < self.length:
            widths.append(min(2 * widths[-1], self.length))
        bucket = np.searchsorted(widths, size)
        order = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=len(widths))
        rows = np.maximum(batch_size // np.array(widths), 1)
        batches = np.maximum(counts // rows, counts > 0)
        self.steps = int(batches.sum())
        self.seed = seed
        self.starts, self.ends = tf.constant(starts[order]), tf.constant(ends[order])
        self.widths = tf.constant(widths, tf.int64)
        self.counts = tf.constant(counts, tf.int64)
        self.rows = tf.constant(np.minimum(rows, np.maximum(counts, 1)), tf.int64)
        self.firsts = tf.constant(np.cumsum(counts) - counts, tf.int64)
        self.batch_bucket = tf.constant(np.repeat(np.arange(len(widths)), batches), tf.int64)
        self.batch_place = tf.constant(
            np.concatenate([np.arange(number) for number in batches]).astype(np.int64)
        )

    def places(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the events int64 `[sequences, width]` of a step, the oldest first, and which are real (the rest is padding)."""
        step = tf.cast(step, tf.int64)
        seed = tf.stack([tf.constant(self.seed, tf.int64), step // self.steps])
        number = tf.random.experimental.index_shuffle(step % self.steps, seed, max_index=self.steps - 1)
        bucket = tf.gather(self.batch_bucket, number)
        rows, count = tf.gather(self.rows, bucket), tf.gather(self.counts, bucket)
        within = tf.gather(self.batch_place, number) * rows + tf.range(rows)
        within = tf.random.experimental.index_shuffle(within, seed + bucket + 1, max_index=count - 1)
        chosen = tf.gather(self.firsts, bucket) + within
        start, end = tf.gather(self.starts, chosen)[:, None], tf.gather(self.ends, chosen)[:, None]
        place = start + tf.range(tf.gather(self.widths, bucket))
        inside = place < end
        return tf.where(inside, place, start), inside


def runs(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns first and last + 1 event of runs of at most `length` in each list, cut from the list's end; lists of one event give none."""
    size = np.diff(offsets)
    number = -(-size // length)
    owner = np.repeat(np.arange(len(size)), number)
    back = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    ends = offsets[1:][owner] - back * length
    starts = np.maximum(ends - length, offsets[:-1][owner])
    kept = ends - starts > 1
    return starts[kept], ends[kept]


def sequence_batches(
    events: Events, sequences: Sequences, context: Mapping[str, tf.Tensor], first_epoch: int, epochs: int
) -> tf.data.Dataset:
    """Returns the batches of epochs `first_epoch` to `epochs`, one after the other.

    Each is a dict of `user` int32 `[sequences]`, `sequence` int32 `[sequences, width]` (right-padded with 0), `times` int64, `weight`
    float32 and the encoded `context` columns of the same places.
    """
    columns = (events.user, events.item, events.timestamp, events.weight)
    user, item, timestamp, weight = (tensor(column) for column in columns)

    def cut(step: tf.Tensor) -> Batch:
        place, inside = sequences.places(step)
        batch = {
            "user": tf.gather(user, place[:, 0]),
            "sequence": tf.where(inside, tf.gather(item, place), 0),
            "times": tf.where(inside, tf.gather(timestamp, place), 0),
            "weight": tf.where(inside, tf.gather(weight, place), 0.0),
        }
        return batch | {context_key(name): tf.gather(column, place) for name, column in context.items()}

    numbers = tf.data.Dataset.range(first_epoch * sequences.steps, epochs * sequences.steps)
    return mapped(numbers, cut)
