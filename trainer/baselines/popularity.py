"""The most popular items, the same for everybody: over the whole training part, or over a window before the request."""

import numpy as np

from trainer.baselines.fitting import choose, given, interactions
from trainer.data.examples import Cases, Events, Floats, Prepared
from trainer.evaluation.scoring import Scorer
from trainer.registry import register

_DAY = 86_400
_SHARES = (0.05, 0.001, 0.01, 0.2, 1.0)  # windows tried, as shares of the time that the training part spans


class Constant:
    """One list for everybody."""

    def __init__(self, scores: Floats) -> None:
        self._scores = scores

    def scores(self, cases: Cases) -> Floats:
        """Returns the same scores `[cases, rows]` for every case."""
        return np.broadcast_to(self._scores, (len(cases), len(self._scores)))


@register("baseline", "popularity")
class Popularity:
    """The number of training users who know an item."""

    def __init__(self) -> None:
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> Scorer:
        """Returns the popularity list."""
        return Constant(np.asarray(interactions(prepared).sum(axis=0), np.float32).ravel())


@register("baseline", "recent_popularity")
class RecentPopularity:
    """The number of training events of an item in the last `window_days` before the request.

    None chooses the window on validation, among shares of the training time. Ties go to the more popular.
    """

    def __init__(self, window_days: float | None = None) -> None:
        self.window_days = window_days
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> Scorer:
        """Returns the windowed popularity."""
        train = prepared.train
        span = float(np.ptp(train.timestamp)) or 1.0
        fixed = None if self.window_days is None else self.window_days * _DAY
        window, scorer = choose(
            given(fixed, [span * share for share in _SHARES]),
            lambda seconds: Windowed(train, len(prepared.items), seconds),
            prepared,
        )
        self.chosen = {"window_days": window / _DAY}
        return scorer


class Windowed:
    """Counts of the training events in a window that ends just before each request."""

    def __init__(self, train: Events, items: int, window: float) -> None:
        order = np.argsort(train.timestamp, kind="stable")
        self._times, self._items = train.timestamp[order], train.item[order]
        self._window = window
        counts = np.bincount(train.item, minlength=items)
        self._tiebreak = counts / (counts.sum() + 1.0)

    def scores(self, cases: Cases) -> Floats:
        """Returns scores `[cases, rows]`: from each moment to the next only what came and what went is counted."""
        start = np.searchsorted(self._times, cases.timestamp - self._window, side="left")
        end = np.searchsorted(self._times, cases.timestamp, side="left")
        found = np.empty((len(cases), len(self._tiebreak)), np.float32)
        counts = np.zeros(len(self._tiebreak))
        first = last = int(start.min(initial=len(self._times)))
        for case in np.argsort(cases.timestamp, kind="stable"):
            np.add.at(counts, self._items[last : end[case]], 1)
            np.subtract.at(counts, self._items[first : start[case]], 1)
            first, last = start[case], end[case]
            found[case] = counts + self._tiebreak
        return found
