"""Blocks: fixed vectors of items that stand beside the towers' learned ones in the same inner product.

The user's side of a block is a weighted sum of the history's vectors, so a new user, and a longer history, need no training.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.data.examples import Floats, Lists


@dataclass(frozen=True)
class Block:
    """What a factorisation gives: score of item i = scale * <sum_j w_j history[j], candidates[i]>.

    `w_j = 0.5 ** (age_j / half_life)` with the age in events, divided by `(sum_j w_j) ** normalisation`; at most the
    last `last` events count.
    """

    name: str
    history: Floats  # [items, rank]; row 0 is zero
    candidates: Floats  # [items, rank]; row 0 is zero
    half_life: float = float("inf")
    last: int | None = None
    normalisation: float = 0.0
    scale: float = 1.0

    def weights(self, lengths: np.ndarray) -> Floats:
        """Returns the weights of lists end to end `[events]`, given their lengths."""
        ends = np.repeat(np.cumsum(lengths), lengths)
        age = (ends - 1 - np.arange(len(ends))).astype(np.float32)
        weights = np.power(np.float32(0.5), age / np.float32(self.half_life))
        if self.last is not None:
            weights[age >= self.last] = 0
        if self.normalisation:
            owner = np.repeat(np.arange(len(lengths)), lengths)
            totals = np.bincount(owner, weights, minlength=len(lengths)).astype(np.float32)
            weights /= np.maximum(totals, 1e-9)[owner] ** np.float32(self.normalisation)
        return weights

    def queries(self, histories: Lists) -> Floats:
        """Returns scaled query vectors `[lists, rank]`."""
        matrix = histories.matrix_of(self.weights(histories.lengths), len(self.history))
        return np.asarray(matrix @ self.history) * np.float32(self.scale)


class BlockLayer(tf.keras.layers.Layer):
    """A block in the graph."""

    def __init__(self, block: Block) -> None:
        super().__init__(name=f"block_{block.name}", trainable=False)
        self.block = block
        self.history_table = tf.constant(block.history, tf.float32)
        self.candidate_table = tf.constant(block.candidates, tf.float32)

    def queries(self, history: tf.RaggedTensor) -> tf.Tensor:
        """Returns scaled query vectors `[batch, rank]` of ragged item rows, oldest first."""
        block = self.block
        lengths = history.row_lengths()
        owner = tf.cast(history.value_rowids(), tf.int64)
        age = tf.gather(tf.cumsum(lengths), owner) - 1 - tf.range(tf.size(history.flat_values, tf.int64))
        weights = tf.pow(0.5, tf.cast(age, tf.float32) / block.half_life)
        if block.last is not None:
            weights = tf.where(age < block.last, weights, 0.0)
        indices = tf.stack([owner, tf.cast(history.flat_values, tf.int64)], axis=1)
        shape = tf.stack([history.nrows(), tf.constant(len(block.history), tf.int64)])
        pooled = tf.sparse.sparse_dense_matmul(tf.SparseTensor(indices, weights, shape), self.history_table)
        if block.normalisation:
            totals = tf.math.unsorted_segment_sum(weights, owner, history.nrows())
            pooled /= tf.pow(tf.maximum(totals, 1e-9), block.normalisation)[:, None]
        return pooled * block.scale

    def candidates(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[n, rank]` of item rows `[n]`."""
        return tf.gather(self.candidate_table, rows)
