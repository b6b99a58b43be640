"""What comes next, in two ways that see different things.

* `basis`: the ridge regression of the decayed future on the decayed past, in the basis of the leading left singular vectors of the damped
  transition counts (of the kind of Rendle et al., "Factorizing personalized Markov chains", 2010). It smooths: what follows items alike.
* `following` and `sketch`: the counts themselves by random projection (Achlioptas, "Database-friendly random projections", 2003). Where
  each of thousands of items has successors of its own, the counts are of full rank, and the leading directions hold other things; random
  ones keep every inner product but for noise of rank ** -0.5 of its row's length, and what clearly follows stands out of that.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from trainer.blocks.svd import truncated_svd
from trainer.data.examples import Floats, Lists

PAST, FUTURE = 10, 3  # events that a transition looks back, and forward
PAST_HALF_LIFE, FUTURE_HALF_LIFE = 2.0, 1.0  # in events
MOST_EVENTS = 4_000_000  # behind the counts: of more, those of a sample of the lists
GRAM_EVENTS = 400_000  # behind the Gram matrix, which is rank x rank and needs no more
GRAM_BLOCK = 20_000
ITERATIONS = 1  # of the basis: more of them fit it to the counts' noise
MOST_COUNTS = 4_000_000  # transition counts that the basis is read from: of more, the largest
SOON_HALF_LIFE = 2.0  # in events, of what follows an item among its `FUTURE` next


@dataclass(frozen=True)
class Basis:
    """The past's directions, the past's Gram matrix in them (by its eigenvalues and vectors), and what followed them."""

    directions: Floats  # [items, r]
    values: npt.NDArray[np.float64]  # [r]
    vectors: npt.NDArray[np.float64]  # [r, r]
    following: Floats  # [items, r]

    def history(self, l2: float) -> Floats:
        """Returns the history table `[items, r]` of the ridge regression under a penalty."""
        inverse = (self.vectors / (self.values + l2)) @ self.vectors.T
        return np.ascontiguousarray(self.directions @ inverse, dtype=np.float32)


def basis(lists: Lists, damp: Floats, rank: int, symmetric: bool) -> Basis:
    """Returns the basis of rank <= `rank`; `damp` `[items]` weighs every item, `symmetric` counts both directions."""
    lists, items = _sampled(lists), len(damp)
    past = lagged(lists, items, range(0, PAST), PAST_HALF_LIFE)
    future = lagged(lists, items, range(-1, -1 - FUTURE, -1), FUTURE_HALF_LIFE, lists.weights)
    counts = (past.T @ future).tocsr()  # [j, i]: how often i came soon after j, decayed both ways
    if symmetric:
        counts = (counts + counts.T).tocsr()
    scale = sparse.diags(damp)
    damped = _largest((scale @ counts @ scale).T.tocsr(), MOST_COUNTS)
    _, left = truncated_svd(damped, rank, iterations=ITERATIONS)
    directions = np.ascontiguousarray(damp[:, None] * left, dtype=np.float32)
    values, vectors = np.linalg.eigh(_gram(past, directions))
    return Basis(directions, np.maximum(values, 0.0), vectors, np.asarray(counts.T @ directions))


def following(lists: Lists, items: int) -> sparse.csr_matrix:
    """Returns how often each item (column) came soon after each other (row) `[items, items]`."""
    lists = _sampled(lists)
    now = lagged(lists, items, range(0, 1), SOON_HALF_LIFE)
    soon = lagged(lists, items, range(-1, -1 - FUTURE, -1), SOON_HALF_LIFE, lists.weights)
    return _largest((now.T @ soon).tocsr(), MOST_COUNTS)


def sketch(items: int, rank: int) -> Floats:
    """Returns random directions of length 1 `[items, rank]`, nearly orthogonal to each other; none for the unknown."""
    drawn = np.random.default_rng(0).standard_normal((items, rank), dtype=np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    drawn[0] = 0
    return drawn


def lagged(
    lists: Lists, items: int, lags: range, half_life: float, worth: Floats | None = None
) -> sparse.csr_matrix:
    """Returns what stands around each event `[events, items]`: `lags` events before it (negative: after it).

    The first of the lags weighs 1, and each further one less by the half-life, times the `worth` `[events]`.
    """
    lengths = lists.lengths
    place = np.arange(len(lists.items)) - np.repeat(lists.offsets[:-1], lengths)
    left = np.repeat(lengths, lengths) - 1 - place
    rows, columns, weights = [], [], []
    for step, lag in enumerate(lags):
        events = np.flatnonzero((place >= lag) & (left >= -lag))
        rows.append(events)
        columns.append(lists.items[events - lag])
        weight = np.full(len(events), 0.5 ** (step / half_life), np.float32)
        weights.append(weight if worth is None else weight * worth[events - lag])
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(len(lists.items), items))


def _sampled(lists: Lists) -> Lists:
    """Returns the lists, or as many of them, drawn at random, as hold `MOST_EVENTS`."""
    if len(lists.items) <= MOST_EVENTS:
        return lists
    drawn = np.random.default_rng(0).permutation(len(lists))
    within = np.cumsum(lists.lengths[drawn]) <= MOST_EVENTS
    return lists.take(np.sort(drawn[within]))


def _largest(matrix: sparse.csr_matrix, most: int) -> sparse.csr_matrix:
    """Returns the matrix with its `most` largest entries."""
    if matrix.nnz > most:
        matrix.data[matrix.data < np.partition(matrix.data, -most)[-most]] = 0
        matrix.eliminate_zeros()
    return matrix


def _gram(past: sparse.csr_matrix, directions: Floats) -> npt.NDArray[np.float64]:
    """Returns (past directions)'(past directions) `[r, r]`, from a sample of the events where there are very many."""
    events = past.shape[0]
    sample = np.arange(events)
    if events > GRAM_EVENTS:
        sample = np.sort(np.random.default_rng(0).choice(events, GRAM_EVENTS, replace=False))
    gram: npt.NDArray[np.float64] = np.zeros((directions.shape[1],) * 2)
    for start in range(0, len(sample), GRAM_BLOCK):
        part = past[sample[start : start + GRAM_BLOCK]] @ directions
        gram += np.asarray(part.T @ part, np.float64)
    gram *= events / max(len(sample), 1)
    return gram
