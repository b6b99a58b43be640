"""Neighbours: an item scores by its cosine to the history's items, where it is among their nearest."""

from itertools import pairwise

import numpy as np
import scipy.sparse

from trainer.baselines.fitting import MatrixScorer, choose, given, interactions
from trainer.data.examples import Floats, Ints, Prepared
from trainer.registry import register

_NEIGHBOURS = (20.0, 50.0, 100.0)
_SHRINKS = (10.0, 0.0)
_BLOCK = 512


@register("baseline", "item_knn")
class ItemKnn:
    """Cosine similarity of items, `shrink` added to its denominator, the `neighbours` nearest kept.

    None: chosen on validation. Sarwar et al., "Item-based collaborative filtering recommendation algorithms", 2001.
    """

    def __init__(self, neighbours: int | None = None, shrink: float | None = None) -> None:
        self.neighbours, self.shrink = neighbours, shrink
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> MatrixScorer:
        """Returns the fitted scorer."""
        known = interactions(prepared)
        most = len(prepared.items) - 1
        counts = sorted({min(int(count), most) for count in given(self.neighbours, _NEIGHBOURS)})
        tables = {shrink: nearest(known, max(counts), shrink) for shrink in given(self.shrink, _SHRINKS)}
        (shrink, count), scorer = choose(
            [(shrink, count) for shrink in tables for count in counts],
            lambda pair: _scorer(tables[pair[0]], pair[1]),
            prepared,
        )
        self.chosen = {"neighbours": count, "shrink": shrink}
        return scorer


def nearest(known: scipy.sparse.csr_matrix, count: int, shrink: float) -> tuple[Ints, Floats]:
    """Returns each item's nearest items and their similarity `[rows, count]`, best first, then 0 and 0.

    The products of `_BLOCK` items with all others are held at a time.
    """
    items = known.shape[1]
    by_item = scipy.sparse.csr_matrix(known.T)
    length = np.sqrt(np.diff(by_item.indptr).astype(np.float32))
    found, similar = np.zeros((items, count), np.int32), np.zeros((items, count), np.float32)
    for start in range(0, items, _BLOCK):
        shared = scipy.sparse.csr_matrix(by_item[start : start + _BLOCK] @ known)
        rows = start + np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        values = shared.data / (length[rows] * length[shared.indices] + shrink)
        values[shared.indices == rows] = 0  # nobody is a neighbour of their own
        for row, (first, end) in enumerate(pairwise(shared.indptr), start=start):
            own = values[first:end]
            least = np.partition(own, -count)[-count] if len(own) > count else 0.0
            best = np.flatnonzero(own >= least)
            best = best[np.argsort(-own[best], kind="stable")][:count]
            found[row, : len(best)] = shared.indices[first:end][best]
            similar[row, : len(best)] = own[best]
    return found, similar


def _scorer(near: tuple[Ints, Floats], count: int) -> MatrixScorer:
    """Returns the scorer of what each item's `count` nearest say of it."""
    found, similar = near[0][:, :count], near[1][:, :count]
    rows = np.repeat(np.arange(len(found)), count)
    table = scipy.sparse.csr_matrix((similar.ravel(), (rows, found.ravel())), (len(found), len(found)))
    table.eliminate_zeros()
    return MatrixScorer(table.T.tocsr())
