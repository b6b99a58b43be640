"""Exact search, behind the interface of TFRS's top-k layers."""

from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.data.examples import Floats
from trainer.index.top import Top, Vectors, exactly
from trainer.registry import register


@register("index", "brute_force")
class BruteForce(tfrs.layers.factorized_top_k.TopK):
    """Exact search: every candidate is scored."""

    def __init__(self) -> None:
        super().__init__(k=10)  # what `call` gives where it is not told; `top` always is

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
