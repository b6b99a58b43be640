"""Integer examples to batches: histories are cut from the events as they are asked for, so memory does not grow with their length."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.examples import Events

Batch = dict[str, tf.Tensor]


class Windows:
    """Cuts the history of an event out of the user's events.

    `ordered`: the events before it. Otherwise the user's other events, starting after it and going round, for data whose
    order means nothing. At most `length`, the latest kept, padded right with row 0. An event that is asked for is one of
    them, and in no history of its own; `whole`: none is, and all may be in a history.
    """

    def __init__(self, events: Events, users: int, length: int, ordered: bool, whole: bool = False) -> None:
        offsets = events.by_user(users).offsets
        longest = int(np.diff(offsets).max(initial=1)) - (0 if whole else 1)
        self.length = max(min(length, longest), 1)
        self.ordered = ordered
        self.items, self.timestamps = tensor(events.item), tensor(events.timestamp)
        self.start = tf.constant(offsets[:-1])
        self.end = tf.constant(offsets[1:])

    def __call__(self, event: tf.Tensor, user: tf.Tensor) -> tf.Tensor:
        """Returns histories int32 `[batch, length]` of events int64 `[batch]`."""
        return self.cut(event, user)[0]

    def cut(self, event: tf.Tensor, user: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns histories int32 and when their events were, int64, both `[batch, length]`, of events int64 `[batch]`."""
        start, end = tf.gather(self.start, user)[:, None], tf.gather(self.end, user)[:, None]
        event, column = event[:, None], tf.range(self.length, dtype=tf.int64)
        if self.ordered:
            size = tf.minimum(event - start, self.length)
            place = event - size + column
        else:
            number = tf.maximum(end - start, 1)  # who has no event has no history
            size = tf.minimum(number - 1, self.length)
            place = start + tf.math.floormod(event - start + 1 + column, number)
        inside = column < size
        place = tf.where(inside, place, 0)
        items, timestamps = tf.gather(self.items, place), tf.gather(self.timestamps, place)
        return tf.where(inside, items, 0), tf.where(inside, timestamps, 0)


def steps_per_epoch(events: int, batch_size: int) -> int:
    """Returns the number of full batches in an epoch, at least 1."""
    return max(events // batch_size, 1)


def batch_rows(step: Any, events: int, batch_size: int, seed: int) -> tf.Tensor:
    """Returns the events int64 `[batch]` of a training step: each epoch is a shuffle of all events by its own seed.

    The shuffle is computed, not stored (`index_shuffle`), so any epoch of any size starts at once, and a resumed run
    sees the batches of an unbroken one.
    """
    step = tf.cast(step, tf.int64)
    steps = steps_per_epoch(events, batch_size)
    place = tf.math.floormod(step, steps) * batch_size + tf.range(min(batch_size, events), dtype=tf.int64)
    epoch_seed = tf.stack([tf.constant(seed, tf.int64), step // steps])
    return tf.random.experimental.index_shuffle(place, epoch_seed, max_index=events - 1)


def training_batches(
    events: Events,
    windows: Windows,
    context: Mapping[str, tf.Tensor],
    batch_size: int,
    seed: int,
    first_epoch: int,
    epochs: int,
) -> tf.data.Dataset:
    """Returns the batches of epochs `first_epoch` to `epochs`, one after the other.

    Each is a dict of `user`, `item` int32 `[batch]`, `history` int32 and its `times` int64 `[batch, length]`, `weight` float32
    `[batch]` and the encoded `context` columns `[batch, width]`.
    """
    steps = steps_per_epoch(len(events), batch_size)
    columns = {"user": events.user, "item": events.item, "weight": events.weight}
    tensors = {name: tensor(column) for name, column in columns.items()}
    tensors.update({context_key(name): column for name, column in context.items()})

    def cut(step: tf.Tensor) -> Batch:
        rows = batch_rows(step, len(events), batch_size, seed)
        batch = {name: tf.gather(column, rows) for name, column in tensors.items()}
        history, times = windows.cut(rows, batch["user"])
        return batch | {"history": history, "times": times}

    numbers = tf.data.Dataset.range(first_epoch * steps, epochs * steps)
    return mapped(numbers, cut)


def mapped(numbers: tf.data.Dataset, cut: Callable[[tf.Tensor], Batch]) -> tf.data.Dataset:
    """Returns the batches that `cut` makes of step numbers, in order, made while others train.

    Nothing here is left to tune or to rewrite: tf.data's tuner can hold up the end of a `fit` for seconds, and its rewrites copy all
    that `cut` reads.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return numbers.map(cut, num_parallel_calls=2, deterministic=True).prefetch(4).with_options(options)


def tensor(column: npt.NDArray[np.generic]) -> tf.Tensor:
    """Returns a column of events as a tensor, in memory once: the copy that TensorFlow makes on the way stays until its next operation."""
    return tf.identity(tf.constant(column))


def context_key(name: str) -> str:
    """Returns the input name of a context feature."""
    return f"context_{name}"
