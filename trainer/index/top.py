"""Top-k over all candidates, with what may not be returned masked before the top-k.

Queries are `[batch, D]`, or `[batch, interests, D]`: then an item's score is its best interest's, and it is returned once.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Top = tuple[tf.Tensor, tf.Tensor]
Part = Callable[[Any], Any]  # gives of a tensor, or a ragged one, some of its rows
LOWEST = tf.float32.min  # the score of a place that holds no item
RUN = 64  # neighbouring rows whose best score is looked at first
MOST_SCORES = 1 << 24  # that an answer holds at a time, 64 MB: wider batches are answered in turn

# A branch that is seldom taken stays a call: in the graph itself, even its untaken operations would cost each query some time.
apart = functools.partial(tf.function, autograph=False, experimental_attributes={"_noinline": True})


class Vectors(tf.Module):
    """Candidate vectors, kept by column: a product streams through them, 2 to 5 times as fast for one query as by row."""

    def __init__(self, vectors: tf.Tensor) -> None:
        super().__init__()
        self.items, self.dimension = (int(size) for size in vectors.shape)
        self.columns = tf.Variable(tf.transpose(vectors), trainable=False, name="columns")  # [D, items]

    def of(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the vectors `[..., D]` of item rows `[...]`."""
        found = tf.gather(self.columns, rows, axis=1)
        return tf.transpose(found, [*range(1, found.shape.rank), 0])

    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        """Returns the scores `[batch, items]` of all items for queries `[batch, D]` or, the best interest's, `[batch, interests, D]`."""
        scores = tf.matmul(tf.reshape(queries, [-1, self.dimension]), self.columns)
        if queries.shape.rank == 2:
            return scores
        return tf.reduce_max(tf.reshape(scores, [-1, queries.shape[1], self.items]), axis=1)


def score_some(queries: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    """Returns the scores `[batch, n]` of each query's own candidate vectors `[batch, n, D]`."""
    if queries.shape.rank == 2:
        return tf.einsum("bd,bnd->bn", queries, vectors)
    return tf.reduce_max(tf.einsum("bhd,bnd->bhn", queries, vectors), axis=1)


def best(scores: tf.Tensor, excluded: tf.RaggedTensor, k: tf.Tensor) -> Top:
    """Returns rows and scores `[batch, k]` of the highest scores `[batch, items]`, without row 0 and the `excluded` rows.

    Only the `k` runs of neighbouring rows with the highest maxima are sorted: they hold the `k` best, equal scores included.
    """
    batch, items = tf.unstack(tf.shape(scores))
    owner = tf.concat([tf.cast(excluded.value_rowids(), tf.int32), tf.range(batch)], axis=0)
    column = tf.concat([excluded.flat_values, tf.zeros([batch], tf.int32)], axis=0)
    lowest = tf.fill([tf.size(owner)], LOWEST)
    scores = tf.tensor_scatter_nd_update(scores, tf.stack([owner, column], axis=1), lowest)
    runs = tf.pad(scores, [[0, 0], [0, -items % RUN]], constant_values=LOWEST)
    runs = tf.reshape(runs, [batch, -(-items // RUN), RUN])
    chosen = tf.math.top_k(tf.reduce_max(runs, axis=2), k=tf.minimum(k, tf.shape(runs)[1])).indices
    chosen = tf.sort(chosen, axis=1)  # of equal scores, the lowest row comes first
    rows = tf.reshape(chosen[:, :, None] * RUN + tf.range(RUN), [batch, RUN * tf.shape(chosen)[1]])
    found, places = tf.math.top_k(
        tf.reshape(tf.gather(runs, chosen, batch_dims=1), tf.shape(rows)), k=tf.minimum(k, items)
    )
    return blanked(tf.gather(rows, places, batch_dims=1), found)


def exactly(vectors: Vectors, queries: tf.Tensor, excluded: tf.RaggedTensor, k: tf.Tensor) -> Top:
    """Returns rows and scores `[batch, k]` of the items that score highest for queries, without row 0 and the `excluded` rows."""

    def some(part: Part) -> Top:
        return best(vectors.scores(part(queries)), part(excluded), k)

    return in_turn(some, tf.shape(queries)[0], vectors.items)


def in_turn(answer: Callable[[Part], Top], batch: tf.Tensor, items: int) -> Top:
    """Returns what `answer` gives for a batch: for all of it, or for as many rows at a time as have `MOST_SCORES` scores of `items`."""
    rows = max(MOST_SCORES // items, 1)

    @apart
    def one_by_one() -> Top:
        blocks = -(-batch // rows)

        def step(block: tf.Tensor, *lists: tf.TensorArray) -> tuple[Any, ...]:
            first = block * rows
            found = answer(lambda column: column[first : first + rows])
            return (block + 1, *(array.write(block, one) for array, one in zip(lists, found, strict=True)))

        start = tuple(tf.TensorArray(kind, blocks, infer_shape=False) for kind in (tf.int32, tf.float32))
        lists = tf.while_loop(lambda block, *_: block < blocks, step, (0, *start), parallel_iterations=1)[1:]
        return tuple(tf.ensure_shape(array.concat(), [None, None]) for array in lists)

    found: Top = tf.cond(batch <= rows, lambda: answer(lambda column: column), one_by_one)
    return found


def merged(rows: tf.Tensor, scores: tf.Tensor) -> Top:
    """Returns rows and scores `[batch, n]`, best first, in which a row that is there again has the lowest score."""
    scores, places = tf.math.top_k(scores, k=tf.shape(scores)[1])
    rows = tf.gather(rows, places, batch_dims=1)
    order = tf.argsort(rows, axis=1, stable=True)  # equal rows side by side, the best of them first
    sorted_rows = tf.gather(rows, order, batch_dims=1)
    again = tf.pad(sorted_rows[:, 1:] == sorted_rows[:, :-1], [[0, 0], [1, 0]])[:, : tf.shape(rows)[1]]
    again = tf.gather(again, tf.argsort(order, axis=1), batch_dims=1)
    return rows, tf.where(again, LOWEST, scores)


def blanked(rows: tf.Tensor, scores: tf.Tensor) -> Top:
    """Returns rows and scores `[batch, k]`, with row 0 where a score is none."""
    return tf.where(scores > LOWEST, rows, 0), scores
