"""What a bundle remembers of its users: what they had, when, and what they dislike; and how that becomes a request."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from trainer.data.examples import Lists
from trainer.ranking.cascade import Request

Telling = Callable[[tf.RaggedTensor], tf.RaggedTensor]  # of a history what a model can read


class Remembered(tf.Module):
    """Lists by user row, in the graph: histories oldest first, their times where a model reads them, and dislikes."""

    def __init__(self, histories: Lists, disliked: Lists, timed: bool) -> None:
        super().__init__()
        self.offsets = tf.constant(histories.offsets)
        self.items = tf.constant(histories.items)
        self.times = tf.constant(histories.timestamps) if timed else None
        self.disliked_offsets, self.disliked_items = (
            tf.constant(disliked.offsets),
            tf.constant(disliked.items),
        )

    def history(self, row: tf.Tensor) -> tf.RaggedTensor:
        """Returns the item rows of the users, oldest first."""
        return _of_users(self.offsets, self.items, row)

    def request(
        self,
        row: tf.Tensor,
        user: tf.Tensor,
        context: Mapping[str, tf.Tensor],
        given: tf.RaggedTensor | None = None,
        telling: Telling = lambda history: history,
    ) -> Request:
        """Returns what the users of rows `[batch]` ask, as the model knows them by `user` `[batch]`.

        Where a row's `given` history has items that are `telling`, these stand for the one remembered. No answer repeats either, nor
        what a user dislikes.
        """
        known, times, had = self.history(row), None, []
        if len(self.disliked_items):
            had.append(_of_users(self.disliked_offsets, self.disliked_items, row))
        if self.times is not None:
            times = _of_users(self.offsets, self.times, row)
        if given is not None:
            had += [known, given]
            given = telling(given)
            lacking = known.with_values(tf.gather(given.row_lengths() == 0, known.value_rowids()))
            known = tf.concat([given, tf.ragged.boolean_mask(known, lacking)], axis=1)
            if times is not None:
                untimed = given.with_values(tf.zeros_like(given.values, tf.int64))
                times = tf.concat([untimed, tf.ragged.boolean_mask(times, lacking)], axis=1)
        return Request(user, known, context, times, tf.concat(had, axis=1) if had else None)


def _of_users(offsets: tf.Tensor, values: tf.Tensor, user: tf.Tensor) -> tf.RaggedTensor:
    """Returns the lists of user rows `[batch]`, of lists end to end."""
    places = tf.ragged.range(
        tf.gather(offsets, user), tf.gather(offsets, user + 1), row_splits_dtype=tf.int64
    )
    return places.with_flat_values(tf.gather(values, places.flat_values))
