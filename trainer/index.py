"""Top-k over all candidates through the TFRS layers, with what may not be returned masked before the top-k.

Queries are `[batch, D]`, or `[batch, interests, D]`: then an item's score is its best interest's, and it is returned once.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.data.examples import Floats
from trainer.errors import UserError
from trainer.registry import register

Top = tuple[tf.Tensor, tf.Tensor]
Part = Callable[[Any], Any]  # gives of a tensor, or a ragged one, some of its rows
LOWEST = tf.float32.min  # the score of a place that holds no item
RECALL_AT = 10  # the depth at which an approximate index is compared with the exact one
SAMPLE = 1_024  # queries of that comparison
SURE = 1.645  # standard errors below the mean: what 19 of 20 samples stay above
RUN = 64  # neighbouring rows whose best score is looked at first
NO_SCANN = (
    "export.index.name=scann needs the scann package, which is not installed or does not fit this TensorFlow; "
    "install it with `make install EXTRAS=scann` (Linux), or set export.index.name=brute_force"
)
# How many times as many items as are fetched: the leaves that are searched hold, and are scored again.
ROOM = 4
BLOCK = 32  # queries whose exact scores are held at a time
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


@register("index", "brute_force")
class BruteForce(tfrs.layers.factorized_top_k.TopK):
    """Exact search: every candidate is scored."""

    def __init__(self, k: int = 10) -> None:
        super().__init__(k=k)

    def build_index(self, candidates: tf.Tensor, queries: Floats | None = None) -> "BruteForce":
        """Returns the index over candidate vectors `[items, dimension]`; the row is the identifier, row 0 no item.

        An exact index has no use for sample `queries`.
        """
        del queries
        self.index(candidates)
        self(tf.zeros([1, candidates.shape[1]]), k=1)  # an index must have been called before it is saved
        return self

    def index(self, candidates: tf.Tensor, identifiers: tf.Tensor | None = None) -> "BruteForce":
        """Takes the candidate vectors `[items, dimension]`; raises ValueError for identifiers other than the rows."""
        if identifiers is not None:
            raise ValueError("the row is the identifier; identifiers cannot be given")
        self.vectors = Vectors(candidates)
        return self

    def call(self, queries: tf.Tensor, k: int | None = None) -> Top:
        """Returns, as TFRS has it, scores and rows `[batch, k]`, nothing excluded."""
        depth = min(self._k if k is None else k, self.vectors.items)
        found: Top = tf.math.top_k(self.vectors.scores(queries), k=depth)
        return found

    def is_exact(self) -> bool:
        """Returns that nothing is missed."""
        return True

    def top(self, queries: tf.Tensor, excluded: tf.RaggedTensor, k: tf.Tensor) -> Top:
        """Returns rows and scores `[batch, k]` without the `excluded` rows; row 0 fills what is left over."""
        return exactly(self.vectors, queries, excluded, k)

    def describe(self) -> dict[str, Any]:
        """Returns what was chosen while building, for the manifest: nothing."""
        return {}


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
        return _blank(tf.gather(rows, places, batch_dims=1), found)

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
    return _blank(tf.gather(rows, places, batch_dims=1), found)


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


def _blank(rows: tf.Tensor, scores: tf.Tensor) -> Top:
    return tf.where(scores > LOWEST, rows, 0), scores
