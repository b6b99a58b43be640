"""ALS matrix factorisation for implicit feedback, by the `implicit` library."""

from typing import Any

import numpy as np
import scipy.sparse

from trainer.baselines.fitting import LEAVE_OUT, choose, given, histories, interactions
from trainer.baselines.implicit_library import models, one_blas_thread
from trainer.data.examples import Cases, Floats, Prepared
from trainer.evaluation.scoring import FactorScorer
from trainer.memory import require
from trainer.registry import register

_REGULARISATIONS = (10.0, 1.0, 30.0)
_ALPHAS = (3.0, 1.0, 10.0)


@register("baseline", "als")
class Als:
    """Weighted matrix factorisation: confidence `alpha` for what was seen; histories are folded in.

    `regularisation` and `alpha` None: chosen on validation. Hu, Koren and Volinsky, "Collaborative
    filtering for implicit feedback datasets", ICDM 2008.
    """

    def __init__(
        self,
        factors: int = 64,
        regularisation: float | None = None,
        alpha: float | None = None,
        iterations: int = 15,
        seed: int = 42,
    ) -> None:
        self.factors, self.iterations, self.seed = factors, iterations, seed
        self.regularisation, self.alpha = regularisation, alpha
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> FactorScorer:
        """Returns the fitted scorer; raises `UserError` where `implicit` is not installed."""
        known = interactions(prepared)
        require(12.0 * sum(known.shape) * self.factors, f"als of {self.factors} factors", LEAVE_OUT)
        grid = [
            (weight, alpha)
            for weight in given(self.regularisation, _REGULARISATIONS)
            for alpha in given(self.alpha, _ALPHAS)
        ]
        (weight, alpha), scorer = choose(grid, lambda pair: self._train(known, *pair), prepared)
        self.chosen = {"factors": self.factors, "regularisation": weight, "alpha": alpha}
        return scorer

    def _train(self, known: scipy.sparse.csr_matrix, regularisation: float, alpha: float) -> FactorScorer:
        with one_blas_thread():
            model = models("als").AlternatingLeastSquares(
                factors=self.factors,
                regularization=regularisation,
                alpha=alpha,
                iterations=self.iterations,
                random_state=self.seed,
            )
            model.fit(known, show_progress=False)
        return FactorScorer(lambda cases: _fold_in(model, cases, known.shape[1]), model.item_factors)


def _fold_in(model: Any, cases: Cases, items: int) -> Floats:
    """Returns the factors of the cases' histories `[cases, factors]`, whoever the user is."""
    with one_blas_thread():
        asked = histories(cases.history, items)
        return np.asarray(model.recalculate_user(np.arange(len(cases)), asked), np.float32)
