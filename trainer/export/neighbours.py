"""Items that are alike, and users: the nearest vectors of the same side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.examples import Floats, Lists, Prepared
from trainer.index.top import LOWEST, Part, Top, Vectors, best, in_turn
from trainer.retrieval.inference import graph, in_blocks, ragged, times_read
from trainer.retrieval.retriever import Retriever
from trainer.towers.similarity import between_candidates, candidate_side

MOST_NUMBERS = 25_000_000  # of a table of users' vectors that a bundle carries: 100 MB
BLOCK = 1024  # users asked at a time


class SimilarItems(tf.Module):
    """The items nearest to an item, as `Retriever.similar` compares them: one product with the index's own table."""

    def __init__(self, retriever: Retriever, index: Any, vectors: Floats) -> None:
        """Takes the index and the candidate vectors `[items, D]` that it was built over."""
        super().__init__()
        self.index, self.as_queries, self.by_distance = index, retriever.similar, retriever.by_distance
        lengths = in_blocks(lambda rows: retriever.lengths(tf.constant(vectors[rows])), len(vectors))
        self.lengths = tf.Variable(lengths, trainable=False)

    def top(self, items: tf.Tensor, k: tf.Tensor) -> Top:
        """Returns rows and scores `[batch, k]` of item rows `[batch]`, without the item itself.

        Row 0 has none, nor has an item of which nothing is known: everything would be as much like it.
        """
        vectors: Vectors = self.index.vectors

        def scores(some: tf.Tensor) -> tf.Tensor:
            queries = self.as_queries(vectors.of(some))
            known = tf.reduce_any(queries != 0, axis=1, keepdims=True)
            return tf.where(known, vectors.scores(queries) / self.lengths, LOWEST)

        return _others(scores, items, k, vectors.items)

    def among(self, rows: tf.Tensor, there: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns a function of one place `[batch]` of each list of item rows: how similar its places `[batch, n]` are to it, -1 to 1.

        The cosine as `top` has it; where that has distances, 1 less twice the squared distance over the largest of the list, of the
        places that are `there`.
        """
        vectors, lengths = self.index.vectors.of(rows), tf.gather(self.lengths, rows)
        queries = tf.reshape(self.as_queries(tf.reshape(vectors, [-1, vectors.shape[2]])), tf.shape(vectors))
        scale = 1.0
        if self.by_distance:
            both = there[:, :, None] & there[:, None, :]
            nearness = tf.where(both, tf.matmul(queries, vectors, transpose_b=True), 0.0)
            scale = 2.0 / tf.maximum(-tf.reduce_min(nearness, axis=[1, 2]), 1e-12)[:, None]

        def similarity(place: tf.Tensor) -> tf.Tensor:
            products = tf.linalg.matvec(vectors, tf.gather(queries, place, batch_dims=1)) / lengths
            return 1.0 + scale * products if self.by_distance else products

        return similarity


@dataclass(frozen=True)
class Queries:
    """The query vectors of the users of the training part, by row less one; `fits`: whether a bundle can carry them."""

    rows: Floats  # [users, D] or [users, interests, D]; none where they do not fit
    fits: bool
    chosen: Floats  # those of some of them, whatever their number


class SimilarUsers(tf.Module):
    """The users nearest to a user by `Retriever.points` of their query vectors, of several interests of their mean.

    The cosine; where items are compared by their distance, the negated squared distance.
    """

    def __init__(self, retriever: Retriever, queries: Queries, prepared: Prepared) -> None:
        super().__init__()
        vectors = queries.rows if queries.rows.ndim == 2 else queries.rows.mean(axis=1)
        self.similarity = "euclidean" if retriever.by_distance else "cosine"
        found = candidate_side(retriever.points(tf.constant(vectors)), self.similarity)
        self.ids = tf.constant(["", *prepared.users.values[: len(vectors)]])
        self.table = Vectors(tf.pad(found, [[1, 0], [0, 0]]))

    def top(self, users: tf.Tensor, k: tf.Tensor) -> Top:
        """Returns rows and scores `[batch, k]` of user rows `[batch]`, without the user; row 0, and rows without a vector, have none."""
        users = tf.where(users < len(self.ids), users, 0)
        k = tf.clip_by_value(k, 0, len(self.ids) - 1)

        def scores(some: tf.Tensor) -> tf.Tensor:
            return self.table.scores(between_candidates(self.table.of(some), self.similarity))

        return _others(scores, users, k, self.table.items)


def query_table(retriever: Retriever, prepared: Prepared, histories: Lists) -> Queries:
    """Returns the query vectors of the users of the training part with the histories that they have when served."""
    ask = graph(retriever.queries)

    def vectors(users: Any) -> Floats:
        found = []
        for start in range(0, len(users), BLOCK):
            rows = users[start : start + BLOCK]
            context = {
                name: tf.repeat(column, len(rows), axis=0) for name, column in retriever.absent.items()
            }
            lists = histories.take(rows)
            asked = [tf.constant(rows), ragged(lists), context]
            found.append(np.asarray(ask(*asked, *times_read(retriever, lists))))
        return np.concatenate(found)

    users = np.arange(1, prepared.users.trained + 1, dtype=np.int32)
    chosen = vectors(np.random.default_rng(0).permutation(users)[:BLOCK])
    fits = len(users) * chosen[0].size <= MOST_NUMBERS
    return Queries(vectors(users) if fits else chosen[:0], fits, chosen)


def _others(scores: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor, k: tf.Tensor, number: int) -> Top:
    """Returns the best of the `number` rows by their `scores` with each row, without itself; row 0, the unknown, has none."""

    def some(part: Part) -> Top:
        own = part(rows)
        itself = tf.RaggedTensor.from_row_lengths(own, tf.ones_like(own), validate=False)
        known = tf.where((own == 0)[:, None], LOWEST, scores(own))
        return best(known, itself.with_row_splits_dtype(tf.int64), k)

    return in_turn(some, tf.shape(rows)[0], number)
