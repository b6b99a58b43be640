"""Where negatives come from: candidates beside the batch's own, and how likely each candidate was to appear.

A sampler gives item rows for a step and, for any rows, the probability that one place among the candidates holds them. The retrieval task
subtracts its logarithm from the scores, which undoes the punishment of popular items (Yi et al. 2019).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.errors import UserError
from trainer.registry import register

Counts = npt.NDArray[np.integer]
Search = Callable[[int], tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]]


class Sampler(tf.Module):
    """Rows drawn from the trained items by `weights`, uniformly where there are none; `in_batch`: the batch's positives serve too."""

    def __init__(
        self, counts: Counts, extra: int, in_batch: bool, weights: npt.NDArray[np.floating] | None = None
    ) -> None:
        super().__init__()
        self.trained = int(np.flatnonzero(counts).max(initial=1))
        self.extra = extra
        self.in_batch = in_batch
        self.popularity = tf.constant(counts / max(counts.sum(), 1), tf.float32)
        self.share = tf.constant(1.0 / self.trained)
        self.upto: tf.Tensor | None = None
        if weights is not None:
            self.share = tf.constant(weights / weights.sum(), tf.float32)
            self.upto = tf.constant(np.cumsum(weights / weights.sum()))

    def draw(self, seed: tf.Tensor, user: tf.Tensor) -> tf.Tensor:
        """Returns `extra` item rows int32 for the batch's users, the same for the same `seed` int32 `[2]`."""
        del user
        if self.upto is None:
            return tf.random.stateless_uniform([self.extra], seed, 1, self.trained + 1, dtype=tf.int32)
        places = tf.random.stateless_uniform([self.extra], seed, dtype=tf.float64)
        return tf.clip_by_value(tf.searchsorted(self.upto, places, side="right"), 1, self.trained)

    def probability(self, rows: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """Returns how likely one of the candidates, `batch` positives among them, is each of `rows` `[n]`."""
        batch = tf.cast(batch if self.in_batch else 0, tf.float32)
        drawn = tf.gather(self.share, rows) if self.share.shape.rank else self.share
        expected = batch * tf.gather(self.popularity, rows) + self.extra * drawn
        return expected / (batch + self.extra)

    def after(self, positives: tf.Tensor) -> None:
        """Takes note of a step's positives int32 `[batch]`."""


class Memory(Sampler):
    """The positives of past steps, embedded afresh (the cross-batch memory of Wang et al. 2020, without its stale vectors)."""

    def __init__(self, counts: Counts, size: int) -> None:
        super().__init__(counts, size, in_batch=True)
        self.share = self.popularity
        rows = np.repeat(np.arange(len(counts)), counts)
        if size > len(rows):
            raise UserError(
                f"retrieval.negatives.size={size}; the data has {len(rows)} training events, and no more can be kept"
            )
        start = np.random.default_rng(0).permutation(rows)[:size]  # so that the first steps have a memory too
        self.rows = tf.Variable(start, dtype=tf.int32, trainable=False)

    def draw(self, seed: tf.Tensor, user: tf.Tensor) -> tf.Tensor:
        """Returns the rows kept, int32 `[size]`."""
        del seed, user
        return tf.identity(self.rows)

    def after(self, positives: tf.Tensor) -> None:
        """Keeps the positives instead of the oldest."""
        self.rows.assign(tf.concat([positives, self.rows], axis=0)[: self.extra])


class Hard(Sampler):
    """One item a user of the batch, out of the `depth` that the model itself ranked highest as the epoch began (Xiong et al. 2021).

    The whole batch shares them, beside its own positives and `extra` uniform rows: hard negatives alone collapse the towers.
    """

    def __init__(self, counts: Counts, depth: int, extra: int) -> None:
        super().__init__(counts, extra, in_batch=True)
        if depth >= self.trained:
            raise UserError(
                f"retrieval.negatives.depth={depth}; the data has {self.trained} trained items, and depth must be below"
            )
        self.depth = depth
        self.mined: tf.Variable | None = None

    def draw(self, seed: tf.Tensor, user: tf.Tensor) -> tf.Tensor:
        """Returns `[extra + batch]` item rows; uniform ones stand in until something was mined."""
        uniform = super().draw(seed, user)
        if self.mined is None:
            return uniform
        column = tf.random.stateless_uniform(tf.shape(user), seed, 0, self.depth, dtype=tf.int32)
        return tf.concat([uniform, tf.gather_nd(self.mined, tf.stack([user, column], axis=1))], axis=0)

    def prepare(self, users: int) -> None:
        """Makes room for what is mined for users `[0, users)`: uniform rows until then."""
        start = np.random.default_rng(0).integers(1, self.trained + 1, (users, self.depth))
        self.mined = tf.Variable(start, dtype=tf.int32, trainable=False)

    def mine(self, search: Search) -> None:
        """Asks `search(depth)` for user rows `[n]` and their best wrong items `[n, depth]`, and keeps them."""
        users, rows = search(self.depth)
        if self.mined is not None:
            self.mined.scatter_nd_update(users[:, None], rows.astype(np.int32))


class All(Sampler):
    """Every trained item, each once."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(counts, int(np.flatnonzero(counts).max(initial=1)), in_batch=False)

    def draw(self, seed: tf.Tensor, user: tf.Tensor) -> tf.Tensor:
        """Returns the rows of all trained items, int32 `[trained]`."""
        del seed, user
        return tf.range(1, self.trained + 1, dtype=tf.int32)


@register("negatives", "in_batch")
def in_batch(counts: Counts) -> Sampler:
    """Returns no extra negatives: the batch's other positives serve, corrected for their popularity."""
    return Sampler(counts, 0, in_batch=True)


@register("negatives", "uniform")
def uniform(counts: Counts, extra: int = 1024) -> Sampler:
    """Returns `extra` uniform negatives that the whole batch shares, and nothing else."""
    return Sampler(counts, _some(extra, "uniform"), in_batch=False)


@register("negatives", "all")
def every(counts: Counts) -> Sampler:
    """Returns all trained items: the whole softmax, exact, at the cost of a batch times the corpus."""
    return All(counts)


@register("negatives", "popularity")
def popularity(counts: Counts, extra: int = 1024, power: float = 0.75) -> Sampler:
    """Returns `extra` negatives drawn by count ** power (Mikolov et al. 2013), shared, and nothing else."""
    weights = np.where(counts > 0, np.maximum(counts, 1).astype(np.float64) ** power, 0.0)
    return Sampler(counts, _some(extra, "popularity"), in_batch=False, weights=weights)


@register("negatives", "mixed")
def mixed(counts: Counts, extra: int = 1024) -> Sampler:
    """Returns in-batch negatives and `extra` uniform ones that the whole batch shares (Yang et al. 2020)."""
    return Sampler(counts, _some(extra, "mixed"), in_batch=True)


@register("negatives", "memory")
def memory(counts: Counts, size: int = 4096) -> Sampler:
    """Returns in-batch negatives and the positives of past batches, `size` of them."""
    return Memory(counts, _some(size, "memory", "size"))


@register("negatives", "hard")
def hard(counts: Counts, depth: int = 20, extra: int = 1024) -> Sampler:
    """Returns in-batch negatives, `extra` uniform ones, and one of each user's `depth` best wrong items, mined every epoch."""
    return Hard(counts, _some(depth, "hard", "depth"), _some(extra, "hard"))


def _some(number: int, name: str, setting: str = "extra") -> int:
    if number < 1:
        raise UserError(
            f"retrieval.negatives.{setting}={number}; {name} negatives take at least 1, or use in_batch"
        )
    return number
