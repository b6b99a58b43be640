"""What came next: how often one item followed another in training, summed over the last three items of a history."""

import numpy as np
import scipy.sparse

from trainer.baselines.fitting import MatrixScorer, choose, given
from trainer.data.examples import Events, Prepared
from trainer.registry import register

LAST = 3  # items of a history that are asked
_REACH = 3  # events after an item that count as following it
_GAP = 0.7  # weight of each further event between the two
_HALF_LIVES = (2.0, 1.0, 4.0)


@register("baseline", "transitions")
class Transitions:
    """A Markov chain of first order with gaps; with `decayed` the last three items weigh by recency.

    `half_life` is in events; None chooses it on validation. Rows are divided by the root of their sum,
    between counts (which trust frequent items) and probabilities (which trust rare ones).
    """

    def __init__(self, half_life: float | None = None, decayed: bool = False) -> None:
        self.half_life, self.decayed = half_life, decayed
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> MatrixScorer:
        """Returns the fitted scorer."""
        following = follow(prepared.train, len(prepared.items))
        lives = given(self.half_life, _HALF_LIVES) if self.decayed or self.half_life else (None,)
        half_life, scorer = choose(lives, lambda life: MatrixScorer(following, life, LAST), prepared)
        self.chosen = {"half_life": half_life} if half_life else {}
        return scorer


@register("baseline", "transitions_decayed")
def decayed(half_life: float | None = None) -> Transitions:
    """Returns transitions whose last three items weigh by recency."""
    return Transitions(half_life, decayed=True)


def follow(train: Events, items: int) -> scipy.sparse.csr_matrix:
    """Returns how much each item (column) follows each other (row) `[rows, rows]`."""
    rows, columns, weights = [], [], []
    for gap in range(1, _REACH + 1):
        together = (train.user[gap:] == train.user[:-gap]) & (train.item[gap:] != train.item[:-gap])
        rows.append(train.item[:-gap][together])
        columns.append(train.item[gap:][together])
        weights.append(np.full(int(together.sum()), _GAP ** (gap - 1), np.float32))
    pairs = (np.concatenate(rows), np.concatenate(columns))
    total = scipy.sparse.csr_matrix((np.concatenate(weights), pairs), (items, items))
    sums = np.maximum(np.asarray(total.sum(axis=1)).ravel(), 1)
    return scipy.sparse.csr_matrix(scipy.sparse.diags_array((1 / np.sqrt(sums)).astype(np.float32)) @ total)
