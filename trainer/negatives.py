"""Where negatives come from: extra candidates beside the batch's own, and how likely each candidate was to appear.

A sampler gives `extra` item rows drawn for a step and, for any rows, the probability that one place among the candidates holds them.
The retrieval task subtracts its logarithm from the logits, which undoes the punishment of popular items (Yi et al. 2019).
"""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.registry import register


class Sampler(tf.Module):
    """The batch's own positives, and `extra` rows drawn uniformly from the trained items (Yang et al. 2020)."""

    def __init__(self, counts: npt.NDArray[np.integer], extra: int) -> None:
        super().__init__()
        self.trained = int(np.flatnonzero(counts).max(initial=1))
        self.extra = extra
        self.popularity = tf.constant(counts / max(counts.sum(), 1), tf.float32)

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns `extra` item rows int32, the same for the same `seed` int32 `[2]`."""
        return tf.random.stateless_uniform([self.extra], seed, 1, self.trained + 1, dtype=tf.int32)

    def probability(self, rows: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """Returns how likely one of the `batch` + `extra` candidates is each of `rows` `[n]`."""
        batch = tf.cast(batch, tf.float32)
        expected = batch * tf.gather(self.popularity, rows) + self.extra / self.trained
        return expected / (batch + self.extra)


@register("negatives", "in_batch")
def in_batch(counts: npt.NDArray[np.integer]) -> Sampler:
    """Returns no extra negatives: the batch's other positives serve, corrected for their popularity."""
    return Sampler(counts, 0)


@register("negatives", "mixed")
def mixed(counts: npt.NDArray[np.integer], extra: int = 1024) -> Sampler:
    """Returns in-batch negatives and `extra` uniform ones that the whole batch shares."""
    if extra < 1:
        raise ValueError(f"negatives.extra={extra}; mixed negatives take at least 1, or use in_batch")
    return Sampler(counts, extra)
