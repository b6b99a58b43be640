"""Approximate search with ScaNN, as wide as its recall of sample queries asks."""

import importlib.util
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.data.examples import Floats
from trainer.errors import UserError
from trainer.index.top import LOWEST, Top, Vectors, apart, best, blanked, exactly, merged
from trainer.registry import register

RECALL_AT = 10  # the depth at which an approximate index is compared with the exact one
SAMPLE = 1_024  # queries of that comparison
SURE = 1.645  # standard errors below the mean: what 19 of 20 samples stay above
NO_SCANN = (
    "export.index.name=scann needs the scann package, which is not installed or does not fit this TensorFlow; "
    "install it with `make install EXTRAS=scann` (Linux), or set export.index.name=brute_force"
)
# How many times as many items as are fetched: the leaves that are searched hold, and are scored again.
ROOM = 4
BLOCK = 32  # queries whose exact scores are held at a time


@register("index", "scann")
class Scann:
    """Approximate search with ScaNN (Guo et al. 2020), through `tfrs.layers.factorized_top_k.ScaNN`. Linux only.

    `leaves`: partitions of the corpus, the square root of its size when None. `leaves_to_search`: how many a query visits, and
    `reorder`: candidates that are scored exactly again; each, when None, is widened until the top 10 of sample queries surely
    hold `recall_target` of the exact top 10: the one-sided 95 % bound of their mean recall, so that other queries find as much.
    """

    def __init__(
        self,
        leaves: int | None = None,
        leaves_to_search: int | None = None,
        reorder: int | None = None,
        recall_target: float = 0.95,
    ) -> None:
        if not 0 < recall_target <= 1:
            raise UserError(
                f"export.index.recall_target={recall_target}: must be above 0 and at most 1, such as 0.95"
            )
        if importlib.util.find_spec("scann") is None:
            raise UserError(NO_SCANN)
        self.leaves = leaves
        self.leaves_to_search = leaves_to_search
        self.reorder = reorder
        self.recall_target = recall_target

    def build_index(self, candidates: tf.Tensor, queries: Floats | None = None) -> "ScannIndex":
        """Returns the index over candidate vectors `[items, dimension]`; the row is the identifier, row 0 no item.

        Its width is chosen on `queries` `[n, dimension]`, or on some of the candidates where there are none.
        """
        try:
            import scann  # noqa: F401
        except (ImportError, tf.errors.NotFoundError) as error:
            raise UserError(NO_SCANN) from error
        items = int(candidates.shape[0])
        leaves = self.leaves or max(int(items**0.5), 1)
        layer = tfrs.layers.factorized_top_k.ScaNN(
            k=RECALL_AT,
            num_leaves=leaves,
            num_leaves_to_search=leaves,
            num_reordering_candidates=min(100, items),
            training_iterations=12,
        )
        layer.index(candidates)
        index = ScannIndex(layer, candidates, leaves)
        chosen = np.random.default_rng(0).permutation(np.arange(1, items))[:SAMPLE]
        sample = tf.gather(candidates, chosen) if queries is None or not len(queries) else queries[:SAMPLE]
        self._widen(index, tf.constant(sample))
        return index

    def _widen(self, index: "ScannIndex", sample: tf.Tensor) -> None:
        """Sets how far the index searches: at first little, then more of what helps more, up to the target."""
        wanted = exact_rows(index.vectors, sample)
        most = (index.leaves, index.items)
        start = (
            self.leaves_to_search or max(index.leaves // 50, 1),
            min(self.reorder or 10 * RECALL_AT, index.items),
        )
        free = (self.leaves_to_search is None, self.reorder is None)

        def recall(width: tuple[int, int]) -> tuple[float, float]:
            index.leaves_to_search, index.reorder = width
            shares = recalls(index, sample, wanted)
            return surely(shares), float(shares.mean())

        width, reached = start, recall(start)
        while reached[0] < self.recall_target:
            wider = [
                tuple(
                    min(size + size // 4 + 1, end) if place == side else size
                    for place, (size, end) in enumerate(zip(width, most, strict=True))
                )
                for side in (0, 1)
                if free[side] and width[side] < most[side]
            ]
            if not wider:
                break
            reached, width = max((recall((one[0], one[1])), (one[0], one[1])) for one in wider)
        index.leaves_to_search, index.reorder = width
        index.recall = reached[1]


class ScannIndex(tf.Module):
    """A built ScaNN index; it fetches as many more as are excluded and drops those.

    Its lists are as long as exact ones: more leaves are searched where more is fetched, and where they hold too few even so, the
    batch is answered exactly. `leaves_to_search` and `reorder` may be set until the index is traced.
    """

    def __init__(self, layer: Any, candidates: tf.Tensor, leaves: int) -> None:
        super().__init__()
        self.layer = layer
        self.items = int(candidates.shape[0])
        self.leaves = self.leaves_to_search = leaves
        self.reorder = self.items
        self.recall = 1.0
        self.vectors = Vectors(candidates)

    def top(self, queries: tf.Tensor, excluded: tf.RaggedTensor, k: tf.Tensor) -> Top:
        """Returns rows and scores `[batch, k]` without the `excluded` rows; row 0 fills what is left over."""
        barred = tf.sort(tf.pad(excluded.to_tensor(0), [[0, 0], [1, 0]]), axis=1)
        left = self.items - 1 - tf.reduce_sum(tf.cast(barred[:, 1:] != barred[:, :-1], tf.int32), axis=1)
        near = self.near(queries, barred, k)
        there = tf.reduce_sum(tf.cast(near[1] > LOWEST, tf.int32), axis=1)

        @apart
        def exact() -> Top:
            return exactly(self.vectors, queries, excluded, k)

        found: Top = tf.cond(tf.reduce_all(there >= tf.minimum(k, left)), lambda: near, exact)
        return found

    def near(self, queries: tf.Tensor, barred: tf.Tensor, k: tf.Tensor) -> Top:
        """Returns what `top` does of what the leaves hold alone: fewer rows than `k` where those searched hold no more.

        `barred` `[batch, n]` are the excluded rows in order, row 0 always among them.
        """
        fetch = tf.minimum(k + tf.shape(barred)[1], self.items)
        if queries.shape.rank == 3:
            interests, dimension = queries.shape[1:]
            rows, scores = self._nearest(tf.reshape(queries, [-1, dimension]), fetch)
            rows, scores = merged(*(tf.reshape(one, [-1, interests * fetch]) for one in (rows, scores)))
        else:
            rows, scores = self._nearest(queries, fetch)
        nearest = tf.minimum(tf.searchsorted(barred, rows), tf.shape(barred)[1] - 1)
        hit = tf.gather(barred, nearest, batch_dims=1) == rows
        scores = tf.where(hit, LOWEST, scores)
        found, places = tf.math.top_k(scores, k=tf.minimum(k, fetch))
        return blanked(tf.gather(rows, places, batch_dims=1), found)

    def _nearest(self, queries: tf.Tensor, fetch: tf.Tensor) -> Top:
        """Returns rows and scores `[n, fetch]`; where the leaves hold no more, ScaNN gives NaN, or fewer columns."""
        from scann.scann_ops.py import scann_ops

        share = tf.cast(fetch, tf.float32) * (ROOM / self.items)  # of all items, what the leaves are to hold
        enough = tf.cast(tf.math.ceil(share * self.leaves), tf.int32)
        found = scann_ops.searcher_from_module(self.layer._serialized_searcher).search_batched_parallel(
            queries,
            final_num_neighbors=fetch,
            pre_reorder_num_neighbors=tf.minimum(tf.maximum(ROOM * fetch, self.reorder), self.items),
            leaves_to_search=tf.clip_by_value(enough, self.leaves_to_search, self.leaves),
        )
        rows, scores = (tf.ensure_shape(one, [None, None]) for one in (found.indices, found.distances))
        lacking = [[0, 0], [0, fetch - tf.shape(rows)[1]]]
        scores = tf.pad(scores, lacking, constant_values=np.nan)
        return tf.pad(tf.cast(rows, tf.int32), lacking), tf.where(tf.math.is_nan(scores), LOWEST, scores)

    def describe(self) -> dict[str, Any]:
        """Returns what was chosen while building, for the manifest."""
        chosen = {"leaves": self.leaves, "leaves_to_search": self.leaves_to_search, "reorder": self.reorder}
        return {**chosen, f"recall@{RECALL_AT}": round(self.recall, 4)}


def exact_rows(vectors: Vectors, queries: tf.Tensor) -> list[set[int]]:
    """Returns the rows of each query's exact top 10, row 0 left out."""
    found = []
    for first in range(0, len(queries), BLOCK):
        scores = vectors.scores(queries[first : first + BLOCK])
        nothing = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), [0] * len(scores))
        found += [set(rows) for rows in best(scores, nothing, RECALL_AT)[0].numpy().tolist()]
    return found


def recalls(index: ScannIndex, queries: tf.Tensor, wanted: list[set[int]]) -> Floats:
    """Returns the share `[n]` of each query's `wanted` rows that the leaves give; without queries, one that misses nothing."""
    rows = (
        index.near(queries, tf.zeros([len(queries), 1], tf.int32), tf.constant(RECALL_AT))[0].numpy().tolist()
    )
    hits = [len({*some} & their) / len(their) for some, their in zip(rows, wanted, strict=True)]
    return np.asarray(hits or [1.0], np.float32)


def surely(shares: Floats) -> float:
    """Returns the one-sided 95 % lower bound of the mean of `shares` `[n]`."""
    return float(shares.mean() - SURE * shares.std() / len(shares) ** 0.5)
