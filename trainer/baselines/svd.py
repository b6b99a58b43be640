"""PureSVD: the truncated singular value decomposition of who interacted with what."""

import numpy as np
from sklearn.utils.extmath import randomized_svd

from trainer.baselines.fitting import LEAVE_OUT, choose, given, histories, interactions
from trainer.data.examples import Floats, Prepared
from trainer.evaluation.scoring import FactorScorer
from trainer.memory import require
from trainer.registry import register

_FACTORS = (64.0, 16.0, 32.0, 128.0)


@register("baseline", "svd")
class Svd:
    """A user is the sum of the history's item vectors, the right singular vectors.

    `factors` None: chosen on validation. Cremonesi, Koren and Turrin, "Performance of recommender
    algorithms on top-N recommendation tasks", RecSys 2010.
    """

    def __init__(self, factors: int | None = None, seed: int = 42) -> None:
        self.factors, self.seed = factors, seed
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> FactorScorer:
        """Returns the fitted scorer."""
        known = interactions(prepared)
        limit = min(known.shape) - 1
        sizes = list(dict.fromkeys(min(int(size), limit) for size in given(self.factors, _FACTORS)))
        widest = min(limit, int(max(*_FACTORS, *sizes)))  # whatever is asked for: the same vectors
        require(12.0 * sum(known.shape) * widest, f"svd of {widest} factors", LEAVE_OUT)
        _, _, right = randomized_svd(known, widest, random_state=self.seed)
        items = np.ascontiguousarray(right.T, np.float32)
        size, scorer = choose(sizes, lambda size: _fold_in(items[:, :size]), prepared)
        self.chosen = {"factors": size}
        return scorer


def _fold_in(items: Floats) -> FactorScorer:
    return FactorScorer(lambda cases: np.asarray(histories(cases.history, len(items)) @ items), items)
