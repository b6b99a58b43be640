"""What the baselines share: training matrices, histories as rows, and settings chosen on the validation cases."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse

from trainer.data.examples import Cases, Floats, Lists, Prepared
from trainer.evaluation.retrieval import measure
from trainer.evaluation.scoring import Scorer

LEAVE_OUT = "leave it out of evaluate.baselines"  # what to do about a baseline that does not fit
METRIC = "ndcg@10"  # by which settings are chosen
_CASES = 3000  # validation cases that a choice reads at most
_Setting = TypeVar("_Setting")
_Scorer = TypeVar("_Scorer", bound=Scorer)


def interactions(prepared: Prepared) -> scipy.sparse.csr_matrix:
    """Returns who interacted with what in training, ones `[users, items]`; the unknown's row and column are empty."""
    train = prepared.train.take(prepared.train.user > 0)
    return histories(train.by_user(len(prepared.users)), len(prepared.items))


def with_validation(prepared: Prepared) -> Prepared:
    """Returns the same data with the validation events in training, for the last fit of settings once chosen."""
    rated = prepared.rated_train.merged(prepared.rated_validation)
    return dataclasses.replace(prepared, train=prepared.before_test.known(), rated_train=rated)


def histories(lists: Lists, items: int, half_life: float | None = None) -> scipy.sparse.csr_matrix:
    """Returns each history's items as ones `[cases, items]`, or by recency.

    With a `half_life` an item weighs 0.5 ** (later events / half_life); of several events of one item the
    latest counts.
    """
    age = np.repeat(lists.offsets[1:], lists.lengths) - 1 - np.arange(len(lists.items))
    case = lists.owners
    pair = case * items + lists.items
    latest = len(pair) - 1 - np.unique(pair[::-1], return_index=True)[1]  # in the order of the pairs
    latest = latest[lists.items[latest] > 0]
    weight = np.exp2(-age[latest] / (half_life or np.inf)).astype(np.float32)
    return scipy.sparse.csr_matrix((weight, (case[latest], lists.items[latest])), (len(lists), items))


def choose(
    candidates: Iterable[_Setting], make: Callable[[_Setting], _Scorer], prepared: Prepared
) -> tuple[_Setting, _Scorer]:
    """Returns the candidate whose scorer has the best validation NDCG@10, the first of equals, and that scorer.

    Without validation cases it is the first candidate: put the default there.
    """
    options = list(candidates)
    cases = prepared.validation.at_most(_CASES)
    if len(options) == 1 or not len(cases):
        return options[0], make(options[0])
    best: tuple[float, _Setting, _Scorer] | None = None
    for option in options:
        scorer = make(option)
        value = measure(scorer, cases, prepared, METRIC)
        if best is None or value > best[0]:
            best = (value, option, scorer)
    if best is None:
        raise ValueError("nothing to choose from")
    return best[1], best[2]


def given(setting: float | None, grid: Sequence[float]) -> Sequence[float]:
    """Returns the setting alone when it was set, else the grid to choose from."""
    return grid if setting is None else (setting,)


class MatrixScorer:
    """Weighted histories times an item-to-item matrix `[rows, rows]`, dense or sparse."""

    def __init__(
        self,
        weights: scipy.sparse.csr_matrix | npt.NDArray[np.float32],
        half_life: float | None = None,
        last: int | None = None,
    ) -> None:
        self.weights, self.half_life, self.last = weights, half_life, last

    def scores(self, cases: Cases) -> Floats:
        """Returns scores `[cases, rows]`."""
        lists = cases.history if self.last is None else _tails(cases.history, self.last)
        found = histories(lists, self.weights.shape[0], self.half_life) @ self.weights
        dense = found.toarray() if scipy.sparse.issparse(found) else found
        return np.asarray(dense, np.float32)


def _tails(lists: Lists, length: int) -> Lists:
    """Returns the last `length` events of each list."""
    kept = np.minimum(lists.lengths, length)
    return lists.spans(lists.offsets[1:] - kept, kept)
