"""Ratings with taste: biases plus a matrix factorisation of the residuals, by alternating least squares."""

import numpy as np
import numpy.typing as npt

from trainer.baselines.fitting import given
from trainer.baselines.rating_bias import Biases, fit_biases, rated_events, validation_error
from trainer.data.examples import Events, Floats, Prepared
from trainer.evaluation.ranking import Predictor
from trainer.registry import register

_GRID = (0.15, 0.1, 0.2, 0.5)
_BIAS = 5.0
_BLOCK_BYTES = 64 * 2**20
Rows = npt.NDArray[np.integer]


class Factorised:
    """Biases plus the inner product of user and item factors `[rows, factors]`, 0 for the unknown."""

    def __init__(self, biases: Biases, user: Floats, item: Floats) -> None:
        self.biases, self.user, self.item = biases, user, item

    def predict(self, events: Events) -> Floats:
        """Returns predicted ratings `[events]`."""
        taste = np.einsum("ef,ef->e", self.user[events.user], self.item[events.item])
        return np.asarray(self.biases.predict(events) + taste, np.float32)


@register("rating_baseline", "bias_mf")
class BiasFactorisation:
    """User and item biases, then factors of the residuals with L2 `regularisation` times each row's count.

    `regularisation` None: chosen on validation. Zhou et al., "Large-scale parallel collaborative filtering
    for the Netflix prize", 2008.
    """

    def __init__(
        self,
        factors: int = 32,
        regularisation: float | None = None,
        bias_regularisation: float = _BIAS,
        iterations: int = 8,
        seed: int = 42,
    ) -> None:
        self.factors, self.regularisation = factors, regularisation
        self.bias_regularisation, self.iterations, self.seed = bias_regularisation, iterations, seed
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> Predictor:
        """Returns the fitted model; raises `UserError` where no training event carries a rating."""
        rated = rated_events(prepared.rated_train)
        biases = fit_biases(rated, prepared, self.bias_regularisation)
        grid = given(self.regularisation, _GRID)
        fitted = {weight: self._train(rated, biases, weight) for weight in grid}
        best = min(grid, key=lambda weight: validation_error(fitted[weight], prepared))
        self.chosen = {"factors": self.factors, "regularisation": best}
        return fitted[best]

    def _train(self, rated: Events, biases: Biases, weight: float) -> Factorised:
        left = rated.rating - biases.predict(rated)
        random = np.random.default_rng(self.seed)
        item = random.normal(0, 0.1, (len(biases.item), self.factors)).astype(np.float32)
        user = np.zeros((len(biases.user), self.factors), np.float32)
        by_item = np.argsort(rated.item, kind="stable")
        for _ in range(self.iterations):
            user = _solve(rated.user, item[rated.item], left, len(user), weight)
            item = _solve(rated.item[by_item], user[rated.user[by_item]], left[by_item], len(item), weight)
        return Factorised(biases, user, item)


def _solve(rows: Rows, inputs: Floats, target: Floats, count: int, weight: float) -> Floats:
    """Returns each row's ridge regression of `target` on `inputs` `[count, factors]`; `rows` are sorted."""
    factors = inputs.shape[1]
    found = np.zeros((count, factors), np.float32)
    present, starts, counts = np.unique(rows, return_index=True, return_counts=True)
    ridge = weight * np.eye(factors, dtype=np.float32)
    step = max(1, _BLOCK_BYTES // (4 * factors**2))  # systems at a time
    for begin in range(0, len(present), step):
        some = slice(begin, begin + step)
        ends = starts[some] + counts[some]
        owns = [inputs[start:end] for start, end in zip(starts[some], ends, strict=True)]
        gram = np.stack([own.T @ own + len(own) * ridge for own in owns])
        right = np.add.reduceat(inputs * target[:, None], starts, axis=0)[some]
        found[present[some]] = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
    return found
