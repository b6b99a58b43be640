"""EASE: the linear item-to-item model of least squared error with a zero diagonal, in closed form."""

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from trainer.baselines.fitting import LEAVE_OUT, choose, given, histories, interactions
from trainer.data.examples import Cases, Floats, Prepared
from trainer.errors import UserError
from trainer.memory import require
from trainer.registry import register

LIMIT = 20_000  # rows of the largest matrix inverted: 1.6 GB of single precision, about a minute on 2 cores
_LAMBDAS = (100.0, 50.0, 300.0, 1000.0)
_HALF_LIVES = (5.0, 2.0, 10.0, 25.0, 100.0)


@register("baseline", "ease")
class Ease:
    """EASE with L2 `regularisation`; with `decayed`, histories are read by recency, of a `half_life` in events.

    None: chosen on validation. Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
    """

    def __init__(
        self, regularisation: float | None = None, half_life: float | None = None, decayed: bool = False
    ) -> None:
        self.regularisation, self.half_life, self.decayed = regularisation, half_life, decayed
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> "EaseScorer":
        """Returns the fitted scorer; raises `UserError` where the matrix to invert would be too large."""
        known = interactions(prepared)
        fitted: EaseScorer | None = None
        lives = given(self.half_life, _HALF_LIVES) if self.decayed or self.half_life else (None,)

        def make(pair: tuple[float, float | None]) -> EaseScorer:
            nonlocal fitted
            weight, half_life = pair
            if fitted is None or fitted.regularisation != weight:
                fitted = solve(known, weight)
            return fitted.with_half_life(half_life)

        pairs = [(weight, life) for weight in given(self.regularisation, _LAMBDAS) for life in lives]
        (weight, half_life), scorer = choose(pairs, make, prepared)
        self.chosen = {"regularisation": weight} | ({"half_life": half_life} if half_life else {})
        return scorer


@register("baseline", "ease_decayed")
def decayed(regularisation: float | None = None, half_life: float | None = None) -> Ease:
    """Returns EASE over histories weighted by recency."""
    return Ease(regularisation, half_life, decayed=True)


class EaseScorer:
    """Weighted histories times I - P / diag(P), where P inverts X'X + regularisation.

    P is `inverse` itself `[items, items]`, or, with `known` `[users, items]`, given by the smaller `inverse`
    `[users, users]` of XX' + regularisation through Woodbury's identity.
    """

    def __init__(
        self,
        regularisation: float,
        diagonal: Floats,
        inverse: Floats,
        known: scipy.sparse.csr_matrix | None,
        half_life: float | None = None,
    ) -> None:
        self.regularisation, self.half_life = regularisation, half_life
        self._diagonal, self._inverse, self._known = diagonal, inverse, known

    def with_half_life(self, half_life: float | None) -> "EaseScorer":
        """Returns the same model reading histories by another recency."""
        return EaseScorer(self.regularisation, self._diagonal, self._inverse, self._known, half_life)

    def scores(self, cases: Cases) -> Floats:
        """Returns scores `[cases, rows]`."""
        asked = histories(cases.history, len(self._diagonal), self.half_life)
        found = self._times_inverse(asked)
        found /= -self._diagonal
        found[np.repeat(np.arange(len(cases)), np.diff(asked.indptr)), asked.indices] += asked.data
        return found

    def _times_inverse(self, asked: scipy.sparse.csr_matrix) -> Floats:
        if self._known is None:
            return np.asarray(asked @ self._inverse, np.float32)
        shared = (asked @ self._known.T).toarray() @ self._inverse
        found = np.array(-(self._known.T @ shared.T).T, np.float32, order="C")
        found[np.repeat(np.arange(len(found)), np.diff(asked.indptr)), asked.indices] += asked.data
        found /= self.regularisation
        return found


def solve(known: scipy.sparse.csr_matrix, regularisation: float) -> EaseScorer:
    """Returns EASE of `known` `[users, items]`; raises `UserError` where both sides are larger than `LIMIT`."""
    users, items = known.shape
    if min(users, items) > LIMIT:
        size = min(users, items)
        raise UserError(
            f"ease would invert a dense {size:,} x {size:,} matrix: {8 * size**2 / 1e9:.0f} GB and about "
            f"{size**3 / 8e12:.0f} minutes; it stops at {LIMIT:,}: {LEAVE_OUT}"
        )
    size = min(users, items)
    # with its sparse form beside
    require(12.0 * size**2, f"ease's dense {size:,} x {size:,} matrix", LEAVE_OUT)
    if users < items:
        inverse = _inverse((known @ known.T).toarray(), regularisation)
        half = np.asarray(scipy.sparse.csr_matrix(known.T) @ inverse)
        folded = np.asarray(known.T.multiply(half).sum(axis=1)).ravel()
        return EaseScorer(regularisation, ((1 - folded) / regularisation).astype(np.float32), inverse, known)
    inverse = _inverse((known.T @ known).toarray(), regularisation)
    return EaseScorer(regularisation, np.diagonal(inverse).copy(), inverse, None)


def _inverse(gram: npt.NDArray[np.float32], regularisation: float) -> Floats:
    """Returns the inverse of a symmetric matrix plus `regularisation` on its diagonal, by Cholesky, in place."""
    gram[np.diag_indices_from(gram)] += regularisation
    factor, failed = scipy.linalg.lapack.spotrf(gram.T, overwrite_a=True, clean=False)
    inverse, wrong = scipy.linalg.lapack.spotri(factor, overwrite_c=True)
    if failed or wrong:
        raise UserError(f"ease cannot be solved with regularisation {regularisation}; take a larger one")
    for start in range(0, len(inverse), 1024):  # LAPACK fills the upper triangle only
        end = start + 1024
        corner = np.triu(inverse[start:end, start:end])
        inverse[start:end, start:end] = corner + np.triu(corner, 1).T
        inverse[end:, start:end] = inverse[start:end, end:].T
    return np.ascontiguousarray(inverse.T)
