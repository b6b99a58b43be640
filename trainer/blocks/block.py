"""Blocks: fixed vectors of items that stand beside the towers' learned ones in the same inner product.

The user's side of a block is a weighted sum of the history's vectors, so a new user, and a longer history, need no training.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.examples import Floats, Lists


@dataclass(frozen=True)
class Block:
    """What a factorisation gives: the score of item i is `scale * <sum_j w_j history[j], candidates[i]>`.

    `w_j = 0.5 ** (age_j / half_life)`, the age in events since. A `constant` block has one column, and its query is 1 whatever the
    history: a prior over items.
    """

    name: str
    history: Floats  # [items, rank]; row 0, the unknown, counts for nothing
    candidates: Floats  # [items, rank]
    half_life: float = float("inf")
    scale: float = 1.0
    constant: bool = False

    def queries(self, histories: Lists) -> Floats:
        """Returns scaled query vectors float32 `[lists, rank]`."""
        if self.constant:
            return np.full((len(histories), 1), self.scale, np.float32)
        pooled = histories.matrix_of(self._weights(histories.lengths), len(self.history)) @ self.history
        return np.asarray(pooled) * np.float32(self.scale)

    def _weights(self, lengths: npt.NDArray[np.integer]) -> Floats:
        age = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(int(lengths.sum()))
        weights: Floats = np.power(np.float32(0.5), age.astype(np.float32) / np.float32(self.half_life))
        return weights


class BlockLayer(tf.Module):
    """The query side of a block in the graph; the candidate side is only ever a table, and stays in NumPy."""

    def __init__(self, block: Block) -> None:
        super().__init__(name=f"block_{block.name}")
        self.block = block
        if not block.constant:
            self.history_table = tf.Variable(block.history, trainable=False, dtype=tf.float32)
            # [items], whether an event of the item tells it something
            self.known = tf.constant(block.history.any(axis=1))

    def queries(self, history: tf.RaggedTensor) -> tf.Tensor:
        """Returns scaled query vectors `[batch, rank]` of ragged item rows, oldest first."""
        block = self.block
        if block.constant:
            return tf.fill([history.nrows(), 1], block.scale)
        indices = tf.stack([history.value_rowids(), tf.cast(history.flat_values, tf.int64)], axis=1)
        shape = tf.stack([history.nrows(), tf.constant(len(block.history), tf.int64)])
        weights = tf.SparseTensor(indices, self._weights(history), shape)
        return tf.sparse.sparse_dense_matmul(weights, self.history_table) * block.scale

    def contributions(self, history: tf.RaggedTensor, candidates: tf.Tensor) -> tf.RaggedTensor:
        """Returns what each event adds to the score of its row's candidate `[batch, rank]`, ragged as the history."""
        block = self.block
        if block.constant:
            return history.with_flat_values(tf.zeros([tf.size(history.flat_values)]))
        own = tf.gather(candidates, history.value_rowids()) * tf.gather(
            self.history_table, history.flat_values
        )
        return history.with_flat_values(
            tf.reduce_sum(own, axis=1) * self._weights(history) * tf.constant(block.scale, tf.float32)
        )

    def _weights(self, history: tf.RaggedTensor) -> tf.Tensor:
        ends = tf.gather(history.row_splits, history.value_rowids() + 1)
        age = ends - 1 - tf.range(tf.size(history.flat_values, tf.int64))
        return tf.pow(0.5, tf.cast(age, tf.float32) / self.block.half_life)

    def candidates(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[n, rank]` of item rows `[n]`, outside any graph."""
        return tf.constant(self.block.candidates[np.asarray(rows)])
