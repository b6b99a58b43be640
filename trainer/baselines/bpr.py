"""BPR matrix factorisation, by the `implicit` library."""

from typing import Any

import numpy as np
import scipy.sparse

from trainer.baselines.fitting import LEAVE_OUT, choose, given, histories, interactions
from trainer.baselines.implicit_library import models, one_blas_thread
from trainer.data.examples import Cases, Floats, Prepared
from trainer.evaluation.scoring import FactorScorer
from trainer.memory import require
from trainer.registry import register

_REGULARISATIONS = (0.01, 0.05)
_RATES = (0.005, 0.02)


@register("baseline", "bpr")
class Bpr:
    """Factors that rank what a user had above what they had not; strangers are the mean of their history's items.

    `learning_rate` and `regularisation` None: chosen on validation. Rendle et al., "BPR: Bayesian
    personalized ranking from implicit feedback", UAI 2009. One thread, as the order of its updates decides
    the result.
    """

    def __init__(
        self,
        factors: int = 64,
        learning_rate: float | None = None,
        regularisation: float | None = None,
        iterations: int = 100,
        seed: int = 42,
    ) -> None:
        self.factors, self.iterations, self.seed = factors, iterations, seed
        self.learning_rate, self.regularisation = learning_rate, regularisation
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> FactorScorer:
        """Returns the fitted scorer; raises `UserError` where `implicit` is not installed."""
        known = interactions(prepared)
        require(12.0 * sum(known.shape) * self.factors, f"bpr of {self.factors} factors", LEAVE_OUT)
        grid = [
            (rate, weight)
            for rate in given(self.learning_rate, _RATES)
            for weight in given(self.regularisation, _REGULARISATIONS)
        ]
        (rate, weight), scorer = choose(grid, lambda pair: self._train(known, *pair), prepared)
        self.chosen = {"factors": self.factors, "learning_rate": rate, "regularisation": weight}
        return scorer

    def _train(self, known: scipy.sparse.csr_matrix, rate: float, regularisation: float) -> FactorScorer:
        with one_blas_thread():
            model = models("bpr").BayesianPersonalizedRanking(
                factors=self.factors,
                learning_rate=rate,
                regularization=regularisation,
                iterations=self.iterations,
                num_threads=1,
                random_state=self.seed,
            )
            model.fit(known, show_progress=False)
        return FactorScorer(lambda cases: _queries(model, cases), model.item_factors)


def _queries(model: Any, cases: Cases) -> Floats:
    """Returns the trained factors of known users, and for others the mean of the history's item factors.

    The last factor of an item is its bias, and that of a query 1.
    """
    asked = histories(cases.history, len(model.item_factors))
    count = np.maximum(np.diff(asked.indptr), 1)[:, None]
    known = model.user_factors[cases.user][:, :-1].any(axis=1) & (cases.user > 0)
    strangers = (asked @ model.item_factors) / count
    strangers[:, -1] = 1.0
    return np.asarray(
        np.where(known[:, None], model.user_factors[cases.user], strangers),
        np.float32,
    )
