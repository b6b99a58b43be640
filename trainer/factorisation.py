"""Item vectors straight from the interactions, in closed form: no training, seconds where the towers take minutes.

Three families, each a history table and a candidate table `[items, rank]` for a `Block`:

* `ease`: the ridge regression of every item on all others (Steck, "Embarrassingly shallow autoencoders", 2019), which is of low rank but
  for its diagonal: with the SVD X = U S V', off the diagonal B = V f V' D with f = s^2 / (s^2 + l2) and D_jj = 1 / (1 - sum_k V_jk^2 f_k).
  The diagonal only speaks for items of the history, and those are masked.
* `transitions`: the ridge regression of what comes next on the decayed past, solved in the basis of the leading left singular vectors of
  the damped transition counts (of the kind of Rendle et al., "Factorizing personalized Markov chains", 2010).
* `spectral`: the leading singular vectors of the interactions damped by degree on both sides (Levy and Jurafsky; Shen et al., "How powerful
  is graph convolution for recommendation?", 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from trainer.data.examples import Floats, Lists

Tables = tuple[Floats, Floats]
OVERSAMPLING = 32  # columns beyond the rank that a randomised SVD carries (Halko et al. 2011)
POWER_ITERATIONS = 2
PAST, FUTURE = 10, 3  # events that a transition looks back, and forward
PAST_HALF_LIFE, FUTURE_HALF_LIFE = 2.0, 1.0  # in events
GRAM_EVENTS = (
    400_000  # events behind the transitions' Gram matrix at most: it is rank x rank and needs no more
)
GRAM_BLOCK = 20_000
MOST_COUNTS = 4_000_000  # transition counts that the basis is read from: of more, the largest


@dataclass(frozen=True)
class Ease:
    """`user_power`: heavy users weigh less by length ** -user_power; `popularity`: candidates are damped by it."""

    family: ClassVar[str] = "ease"
    user_power: float = 0.0
    l2: float = 200.0
    popularity: float = 0.0
    half_life: float = float("inf")  # events
    scale: float = 1.0


@dataclass(frozen=True)
class Transitions:
    """`symmetric`: what stands near, in either direction, instead of what follows."""

    family: ClassVar[str] = "transitions"
    symmetric: bool = False
    damping: float = 0.25
    l2: float = 5.0
    popularity: float = 0.0
    half_life: float = float("inf")  # events
    scale: float = 0.0


@dataclass(frozen=True)
class Spectral:
    """`rank` leading directions, `damping` the exponent of the degree."""

    family: ClassVar[str] = "spectral"
    rank: int = 32
    damping: float = 0.3
    half_life: float = float("inf")  # events
    scale: float = 0.0


BlockSettings = Ease | Transitions | Spectral


def truncated_svd(matrix: Any, rank: int) -> tuple[npt.NDArray[np.float64], Floats]:
    """Returns the leading singular values `[r]` and right singular vectors `[columns, r]` of a sparse matrix, r <= rank.

    Randomised subspace iteration (Halko et al. 2011); directions without weight are dropped.
    """
    matrix = sparse.csr_matrix(matrix, dtype=np.float32)
    transposed = matrix.T.tocsr()
    columns = min(rank + OVERSAMPLING, *matrix.shape)
    start = np.random.default_rng(0).standard_normal((matrix.shape[1], columns), dtype=np.float32)
    span = transposed @ (matrix @ start)
    for _ in range(POWER_ITERATIONS):
        span = transposed @ (matrix @ np.linalg.qr(span)[0])
    basis = np.linalg.qr(span)[0]
    image = matrix @ basis
    values, vectors = np.linalg.eigh((image.T @ image).astype(np.float64))
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    kept = values > 1e-6 * max(values[0], 1e-12)
    return np.sqrt(values[kept]), basis @ vectors[:, kept].astype(np.float32)


class Factorisation:
    """The families' tables over one set of training lists; what settings share is computed once."""

    def __init__(self, lists: Lists, items: int, rank: int) -> None:
        self.items = items
        self.rank = rank
        kept = lists.items > 0
        owner = np.repeat(np.arange(len(lists)), lists.lengths)[kept]
        lengths = np.bincount(owner, minlength=len(lists))
        self.lists = Lists(
            np.concatenate([[0], np.cumsum(lengths)]), lists.items[kept], lists.timestamps[kept]
        )
        self.lengths = np.maximum(lengths, 1).astype(np.float64)
        self.degree = np.bincount(self.lists.items, minlength=items) + 1.0
        self._cache: dict[tuple[Any, ...], Any] = {}

    def tables(self, settings: BlockSettings) -> Tables:
        """Returns the history table and the candidate table `[items, r]` of a family under its settings."""
        made: Tables = getattr(self, f"_{settings.family}")(settings)
        return made

    @cached_property
    def interactions(self) -> sparse.csr_matrix:
        """Returns which user had which item `[users, items]`, ones."""
        matrix = self.lists.matrix(self.items)
        matrix.data[:] = 1.0
        return matrix

    def _ease(self, settings: Ease) -> Tables:
        power = settings.user_power
        weights = (self.lengths / self.lengths.mean()) ** -power
        values, vectors = self._once(
            ("ease", power), lambda: truncated_svd(sparse.diags(weights) @ self.interactions, self.rank)
        )
        history = vectors * np.sqrt(values**2 / (values**2 + settings.l2)).astype(np.float32)
        own = np.maximum(1.0 - np.square(history, dtype=np.float64).sum(axis=1), 1e-3)
        return history, _float32(history / own[:, None] * self._popularity(settings.popularity))

    def _spectral(self, settings: Spectral) -> Tables:
        damping = settings.damping
        user, item = sparse.diags(self.lengths**-0.5), sparse.diags(self.degree**-damping)
        _, vectors = self._once(
            ("spectral", damping), lambda: truncated_svd(user @ self.interactions @ item, self.rank)
        )
        kept = vectors[:, : settings.rank]
        return _float32(kept * self._popularity(damping)), _float32(kept * self._popularity(-damping))

    def _transitions(self, settings: Transitions) -> Tables:
        basis, values, vectors, following = self._once(
            ("transitions", settings.damping, settings.symmetric),
            lambda: self._transition_basis(settings.damping, settings.symmetric),
        )
        inverse = (vectors / (values + settings.l2)) @ vectors.T
        return _float32(basis @ inverse), _float32(following * self._popularity(settings.popularity))

    def _transition_basis(self, damping: float, symmetric: bool) -> tuple[Any, ...]:
        past = lagged(self.lists, self.items, range(0, PAST), PAST_HALF_LIFE)
        future = lagged(self.lists, self.items, range(-1, -1 - FUTURE, -1), FUTURE_HALF_LIFE)
        counts = (past.T @ future).tocsr()  # [j, i]: how often i came soon after j, decayed both ways
        if symmetric:
            counts = (counts + counts.T).tocsr()
        damp = sparse.diags(self.degree**-damping)
        _, left = truncated_svd(_largest((damp @ counts @ damp).T.tocsr(), MOST_COUNTS), self.rank)
        basis = _float32(self.degree[:, None] ** -damping * left)
        values, vectors = np.linalg.eigh(_gram(past, basis))
        return basis, np.maximum(values, 0.0), vectors, np.asarray(counts.T @ basis)

    def _popularity(self, power: float) -> npt.NDArray[np.float64]:
        return np.asarray(self.degree[:, None] ** -power, dtype=np.float64)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def lagged(lists: Lists, items: int, lags: range, half_life: float) -> sparse.csr_matrix:
    """Returns what stands around each event `[events, items]`: `lags` events before it (negative: after it).

    The first of the lags weighs 1, and each further one less by the half-life.
    """
    lengths = lists.lengths
    place = np.arange(len(lists.items)) - np.repeat(lists.offsets[:-1], lengths)
    left = np.repeat(lengths, lengths) - 1 - place
    rows, columns, weights = [], [], []
    for step, lag in enumerate(lags):
        events = np.flatnonzero((place >= lag) & (left >= -lag))
        rows.append(events)
        columns.append(lists.items[events - lag])
        weights.append(np.full(len(events), 0.5 ** (step / half_life), np.float32))
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(len(lists.items), items))


def _largest(matrix: sparse.csr_matrix, most: int) -> sparse.csr_matrix:
    """Returns the matrix with its `most` largest entries."""
    if matrix.nnz > most:
        matrix.data[matrix.data < np.partition(matrix.data, -most)[-most]] = 0
        matrix.eliminate_zeros()
    return matrix


def _gram(past: sparse.csr_matrix, basis: Floats) -> npt.NDArray[np.float64]:
    """Returns (past basis)'(past basis) `[r, r]`, from a sample of the events where there are very many."""
    events = past.shape[0]
    sample = np.arange(events)
    if events > GRAM_EVENTS:
        sample = np.sort(np.random.default_rng(0).choice(events, GRAM_EVENTS, replace=False))
    gram: npt.NDArray[np.float64] = np.zeros((basis.shape[1],) * 2)
    for start in range(0, len(sample), GRAM_BLOCK):
        part = past[sample[start : start + GRAM_BLOCK]] @ basis
        gram += np.asarray(part.T @ part, np.float64)
    gram *= events / max(len(sample), 1)
    return gram


def _float32(values: npt.NDArray[np.generic]) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float32)
