"""Top-k over all candidates through the TFRS layers, with what may not be returned masked before the top-k."""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.errors import UserError
from trainer.registry import register

Top = tuple[tf.Tensor, tf.Tensor]
LOWEST = tf.float32.min  # the score of a place that holds no item


@register("index", "brute_force")
class BruteForce(tfrs.layers.factorized_top_k.BruteForce):
    """Exact search: every candidate is scored."""

    def build_index(self, candidates: tf.Tensor) -> "BruteForce":
        """Returns the index over candidate vectors `[items, dimension]`; the row is the identifier, row 0 no item."""
        self.index(candidates)
        self(tf.zeros([1, candidates.shape[1]]), k=1)  # an index must have been called before it is saved
        return self

    @property
    def vectors(self) -> tf.Tensor:
        """Returns the candidate vectors `[items, dimension]`."""
        return self._candidates

    def top(self, queries: tf.Tensor, excluded: tf.RaggedTensor, k: tf.Tensor) -> Top:
        """Returns rows and scores `[batch, k]` without the `excluded` rows; row 0 fills what is left over."""
        scores = self._compute_score(queries, self._candidates)
        batch = tf.shape(scores)[0]
        owner = tf.concat([tf.cast(excluded.value_rowids(), tf.int32), tf.range(batch)], axis=0)
        column = tf.concat([excluded.flat_values, tf.zeros([batch], tf.int32)], axis=0)
        lowest = tf.fill([tf.size(owner)], LOWEST)
        scores = tf.tensor_scatter_nd_update(scores, tf.stack([owner, column], axis=1), lowest)
        found, rows = tf.math.top_k(scores, k=tf.minimum(k, tf.shape(scores)[1]))
        return _blank(rows, found)


@register("index", "scann")
class Scann:
    """Approximate search with ScaNN (Guo et al. 2020), through `tfrs.layers.factorized_top_k.ScaNN`. Linux only.

    `leaves`: partitions of the corpus, the square root of its size when None; `leaves_to_search`: how many a query
    visits, a tenth when None; `reorder`: candidates that are scored exactly again.
    """

    def __init__(
        self, leaves: int | None = None, leaves_to_search: int | None = None, reorder: int = 500
    ) -> None:
        self.leaves = leaves
        self.leaves_to_search = leaves_to_search
        self.reorder = reorder

    def build_index(self, candidates: tf.Tensor) -> "ScannIndex":
        """Returns the index over candidate vectors `[items, dimension]`; the row is the identifier, row 0 no item."""
        try:
            import scann  # noqa: F401
        except (ImportError, tf.errors.NotFoundError) as error:
            raise UserError(
                "export.index.name=scann needs the scann package, which is not installed or does not fit this TensorFlow; "
                "install it with `make install EXTRAS=scann` (Linux), or set export.index.name=brute_force"
            ) from error
        items = int(candidates.shape[0])
        leaves = self.leaves or max(int(items**0.5), 1)
        layer = tfrs.layers.factorized_top_k.ScaNN(
            k=10,
            num_leaves=leaves,
            num_leaves_to_search=self.leaves_to_search or max(leaves // 10, 1),
            num_reordering_candidates=min(self.reorder, items),
            training_iterations=12,
        )
        layer.index(candidates)
        layer(tf.zeros([1, candidates.shape[1]]), k=1)
        return ScannIndex(layer, candidates)


class ScannIndex(tf.Module):
    """A built ScaNN index; it fetches as many more as are excluded and drops those."""

    def __init__(self, layer: Any, candidates: tf.Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.items = int(candidates.shape[0])
        self.vectors = tf.Variable(candidates, trainable=False)

    def top(self, queries: tf.Tensor, excluded: tf.RaggedTensor, k: tf.Tensor) -> Top:
        """Returns rows and scores `[batch, k]` without the `excluded` rows; row 0 fills what is left over."""
        most = tf.cast(tf.reduce_max(tf.concat([excluded.row_lengths(), [0]], axis=0)), tf.int32)
        fetch = tf.minimum(k + most + 1, self.items)
        scores, rows = (tf.ensure_shape(found, [None, None]) for found in self.layer(queries, k=fetch))
        # Where the leaves hold no more, ScaNN fills up with NaN, or gives fewer columns.
        lacking = [[0, 0], [0, fetch - tf.shape(rows)[1]]]
        scores = tf.pad(scores, lacking, constant_values=np.nan)
        rows = tf.pad(tf.cast(rows, tf.int32), lacking)
        barred = tf.sort(
            tf.concat([excluded.to_tensor(0), tf.zeros([tf.shape(rows)[0], 1], tf.int32)], axis=1)
        )
        nearest = tf.minimum(tf.searchsorted(barred, rows), tf.shape(barred)[1] - 1)
        hit = tf.gather(barred, nearest, batch_dims=1) == rows
        scores = tf.where(hit | tf.math.is_nan(scores), LOWEST, scores)
        found, places = tf.math.top_k(scores, k=tf.minimum(k, fetch))
        return _blank(tf.gather(rows, places, batch_dims=1), found)


def _blank(rows: tf.Tensor, scores: tf.Tensor) -> Top:
    return tf.where(scores > LOWEST, rows, 0), scores
