"""Item vectors straight from the interactions, in closed form: no training, seconds where the towers take minutes.

Four families, each a history table and a candidate table `[items, rank]` for a `Block`. With the SVD X = U S V' of the interactions:

* `ease`: the ridge regression of every item on all others (Steck, "Embarrassingly shallow autoencoders", 2019), which is of low rank but
  for its diagonal: off the diagonal B = V f V' D with f = s^2 / (s^2 + l2) and D_jj = 1 / (1 - sum_k V_jk^2 f_k). The diagonal only
  speaks for items of the history, and those are masked.
* `spectral`: a filter on the interactions damped by degree on both sides, d_j^-b V f V' d_i^b. Without a penalty an ideal low pass,
  with a large one the linear filter of graph convolution (Levy and Jurafsky; Shen et al., "How powerful is graph convolution for
  recommendation?", 2021).
* `transitions`: what comes next, by ridge regression of low rank (`trainer/blocks/transitions.py`).
* `successors`: what comes next, the counts themselves by random projection (same file).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from trainer.blocks import transitions
from trainer.blocks.svd import truncated_svd
from trainer.data.examples import Floats, Lists, offsets_of

Tables = tuple[Floats, Floats]
USUAL_RANK = 512  # of what is tried first; beyond it the ridge gains little, and transitions begin to overfit
MOST_NUMBERS = 2**27  # in one table, half a GiB: of a corpus of millions, the rank is what gives way
KEPT = 6  # decompositions at a time


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
    """`rank` leading directions; `damping`, `user_power`: exponents of the items' and the users' degree.

    `penalty`: the filter's, as a share of the median of the squared singular values. `popularity`: candidates are damped by it.
    """

    family: ClassVar[str] = "spectral"
    rank: int = 512
    damping: float = 0.3
    user_power: float = 0.5
    penalty: float = 0.0
    popularity: float = 0.0
    half_life: float = float("inf")  # events
    scale: float = 0.0


@dataclass(frozen=True)
class Successors:
    """`damping`: frequent items count less by the sum of what follows them ** -damping; `popularity`: what follows is damped by it."""

    family: ClassVar[str] = "successors"
    damping: float = 0.5
    popularity: float = 0.0
    half_life: float = 1.0  # events
    scale: float = 0.0


BlockSettings = Ease | Transitions | Spectral | Successors


class Factorisation:
    """The families' tables over one set of training lists; what settings share is computed once.

    `weighted`: events count what their weights are `worth`, otherwise all alike.
    """

    def __init__(self, lists: Lists, items: int, rank: int, weighted: bool = True) -> None:
        self.items = items
        self.weighted = weighted
        self.rank = max(min(rank, MOST_NUMBERS // items), 1)
        kept = lists.items > 0
        owner = lists.owners[kept]
        lengths = np.bincount(owner, minlength=len(lists))
        lists = lists.cut(offsets_of(lengths), kept)
        heeded = lists.weights if weighted else None
        self.lists = replace(lists, weights=None if heeded is None else worth(heeded))
        pairs = self.interactions
        self.lengths = np.maximum(np.diff(pairs.indptr), 1).astype(np.float64)
        self.degree = np.bincount(pairs.indices, minlength=items) + 1.0
        self._cache: dict[tuple[Any, ...], Any] = {}

    def tables(self, settings: BlockSettings) -> Tables:
        """Returns the history table and the candidate table `[items, r]` of a family under its settings."""
        made: Tables = getattr(self, f"_{settings.family}")(settings)
        return made

    @cached_property
    def interactions(self) -> sparse.csr_matrix:
        """Returns which user had which item `[users, items]`, ones; where weights differ, what the pair's heaviest event counts."""
        matrix = self.lists.matrix(self.items)
        matrix.data[:] = 1.0
        if self.lists.weights is not None:
            owner = self.lists.owners
            _, pair = np.unique(owner * self.items + self.lists.items, return_inverse=True)
            matrix.data[:] = 0.0
            np.maximum.at(matrix.data, pair, self.lists.weights)
        return matrix

    def _ease(self, settings: Ease) -> Tables:
        values, vectors = self._svd(settings.user_power, 0.0, min(self.rank, USUAL_RANK))
        history = vectors * np.sqrt(values**2 / (values**2 + settings.l2)).astype(np.float32)
        own = np.maximum(1.0 - np.einsum("ij,ij->i", history, history), 1e-3)
        return history, history * (self._popularity(settings.popularity) / own[:, None])

    def _spectral(self, settings: Spectral) -> Tables:
        rank = min(self.rank, max(settings.rank, USUAL_RANK))
        values, vectors = self._svd(settings.user_power, settings.damping, rank)
        penalty = settings.penalty * float(np.median(values**2)) if len(values) else 0.0
        values, vectors = values[: settings.rank], vectors[:, : settings.rank]
        passed = (values**2 / (values**2 + penalty)).astype(np.float32)
        history = vectors * self._popularity(settings.damping)
        return history, vectors * passed * self._popularity(settings.popularity - settings.damping)

    def _transitions(self, settings: Transitions) -> Tables:
        damping, symmetric = settings.damping, settings.symmetric
        rank = min(self.rank, USUAL_RANK)
        basis: transitions.Basis = self._once(
            ("transitions", damping, symmetric),
            lambda: transitions.basis(self.lists, self.degree**-damping, rank, symmetric),
        )
        return basis.history(settings.l2), basis.following * self._popularity(settings.popularity)

    def _successors(self, settings: Successors) -> Tables:
        counts = self._once(("following",), lambda: transitions.following(self.lists, self.items))
        sums = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0) ** -settings.damping
        candidates = transitions.sketch(self.items, min(self.rank, USUAL_RANK))
        weighed = sparse.diags(sums) @ counts @ sparse.diags(self.degree**-settings.popularity)
        return np.asarray(weighed.astype(np.float32) @ candidates), candidates

    def _svd(self, user_power: float, damping: float, rank: int) -> tuple[npt.NDArray[np.float64], Floats]:
        """Returns singular values and right vectors of the interactions, damped by the degrees of users and items."""

        def find() -> tuple[npt.NDArray[np.float64], Floats]:
            user = sparse.diags((self.lengths / self.lengths.mean()) ** -user_power)
            item = sparse.diags(self.degree**-damping)
            return truncated_svd(user @ self.interactions @ item, rank)

        found: tuple[npt.NDArray[np.float64], Floats] = self._once(("svd", user_power, damping, rank), find)
        return found

    def _popularity(self, power: float) -> Floats:
        return np.asarray(self.degree[:, None] ** -power, dtype=np.float32)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._cache:
            if len(self._cache) >= KEPT:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = make()
        return self._cache[key]


def worth(weights: Floats) -> Floats:
    """Returns what events of such weights count: 1 at their mean, and by the logarithm, for a thousand plays are no thousand tastes."""
    return np.asarray(np.log2(1.0 + weights / (weights.mean(dtype=np.float64) or 1.0)), np.float32)
