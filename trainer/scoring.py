"""Who can be evaluated, and what the evaluator needs of them: every positive's exact rank, and the top of
each list.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trainer.data.examples import Cases, Floats, Ints, Lists
from trainer.data.vocabulary import Vocabulary
from trainer.errors import UserError
from trainer.metrics import MISSED, Ranks

BLOCK_BYTES = 64 * 2**20  # of scores at a time: the memory needed, whatever the corpus and the cases
_THREADS = 8
_MUCH = 4 * 2**20  # bytes of scores below which threads cost more than they bring
_WIDTH = 32  # items that share one maximum in the search for the top
_FEW = 16  # positives of a case up to which counting beats sorting
_PROBES = 64  # items whose order tells whether two cases get different lists
NO_SCORE = np.float32(-np.inf)

Progress = Callable[[int, int], None]


@runtime_checkable
class Scorer(Protocol):
    """A model that gives every item a score."""

    def scores(self, cases: Cases) -> Floats:
        """Returns scores `[cases, rows of the item vocabulary]`, higher is better, -inf: never recommended.

        Column 0, the unknown, is ignored. The evaluator writes into the array and has done with it before
        the next call, so a scorer may hand out one buffer over and over; a read-only array is copied.
        """
        ...


@runtime_checkable
class TopK(Protocol):
    """A model that gives only the top of its list: an exported bundle, or a server."""

    def top(self, cases: Cases, k: int) -> tuple[Ints, Floats]:
        """Returns item rows and scores `[cases, k]`, best first; row 0 fills a list that is shorter."""
        ...


class FactorScorer:
    """Inner products of query and candidate vectors, by BLAS into one buffer that is used again.

    `candidates` is `[rows, dimension]` by row of the item vocabulary; `queries` returns the vectors
    `[cases, dimension]` of some cases, or `[cases, interests, dimension]`, and then an item's score is its
    best interest's.
    """

    def __init__(
        self, queries: Callable[[Cases], Floats], candidates: Floats, bias: Floats | None = None
    ) -> None:
        self._queries = queries
        self._candidates = np.ascontiguousarray(candidates.T, np.float32)  # [dimension, rows]: BLAS is faster
        self._bias = bias
        self._buffer = np.empty((0, len(candidates)), np.float32)

    def scores(self, cases: Cases) -> Floats:
        """Returns the scores `[cases, rows]`, valid until the next call."""
        vectors = np.asarray(self._queries(cases), np.float32)
        if len(self._buffer) < len(vectors):
            self._buffer = np.empty((len(vectors), self._candidates.shape[1]), np.float32)
        out = self._buffer[: len(vectors)]
        if vectors.ndim == 3:
            np.max([vectors[:, i] @ self._candidates for i in range(vectors.shape[1])], axis=0, out=out)
        else:
            np.matmul(vectors, self._candidates, out=out)
        if self._bias is not None:
            out += self._bias
        return out


class IdLists:
    """A bundle or server behind ids: `ask` gets user ids, histories of item ids (oldest first) and k.

    It returns, for each user, item ids and scores, best first and without the history's items.
    """

    def __init__(
        self,
        ask: Callable[
            [list[str], list[list[str]], int], tuple[Sequence[Sequence[str]], Sequence[Sequence[float]]]
        ],
        users: Vocabulary,
        items: Vocabulary,
    ) -> None:
        self._ask, self._users, self._items = ask, users, items
        self._row = {value: row for row, value in enumerate(items.values, start=1)}

    def top(self, cases: Cases, k: int) -> tuple[Ints, Floats]:
        """Returns item rows and scores `[cases, k]`; raises `UserError` for an id outside the item
        vocabulary.
        """
        ids = self._items.decode(cases.history.items)
        histories = [
            [item for item in ids[start:end] if item] for start, end in pairwise(cases.history.offsets)
        ]
        names, scores = self._ask(self._users.decode(cases.user), histories, k)
        rows = np.zeros((len(cases), k), np.int32)
        values = np.full((len(cases), k), NO_SCORE, np.float32)
        for case, (some, their) in enumerate(zip(names, scores, strict=True)):
            unknown = next((name for name in some if name not in self._row), None)
            if unknown is not None:
                raise UserError(f"the bundle recommends item {unknown!r}, which this data set does not hold")
            rows[case, : len(some)] = [self._row[name] for name in some]
            values[case, : len(some)] = their
        return rows, values


@dataclass(frozen=True)
class Answers:
    """What one model answers to all cases."""

    ranks: Ranks  # [positives], flat in the order of `cases.positives`; `MISSED` where unfindable
    lists: Ints  # [cases, depth], best first, 0 where there is no further item
    alike: npt.NDArray[np.bool_]  # [cases], all items have one score
    orders: npt.NDArray[np.uint64]  # [cases], equal where two cases order the items alike
    broken: int  # cases with a score that is not a number
    truncated: bool  # only lists were given: ranks beyond them are unknown, and count as missed


def answer(
    model: Scorer | TopK,
    cases: Cases,
    items: int,
    depth: int,
    progress: Progress | None = None,
    only_ranks: bool = False,
) -> Answers:
    """Returns ranks and lists of all `cases` against the full corpus of rows 1 to `items`.

    The history's items are masked, equal scores are counted against the model, and `depth` is the length of
    the lists. Scores are held for one block of cases at a time (`BLOCK_BYTES`). With `only_ranks` a
    scorer's lists, and what is seen in them, stay empty: several times faster.
    """
    exact = isinstance(model, Scorer)
    block = max(1, BLOCK_BYTES // (4 * (items + 1))) if exact else 512
    parts = []
    for start in range(0, len(cases), block):
        some = cases.take(np.arange(start, min(start + block, len(cases))))
        if isinstance(model, Scorer):
            parts.append(_from_scores(model, some, items, 0 if only_ranks else depth))
        else:
            parts.append(_from_lists(model, some, items, depth))
        if progress is not None:
            progress(start + len(some), len(cases))
    return _join(parts, 0 if exact and only_ranks else depth, truncated=not exact)


def _join(parts: Sequence[Answers], depth: int, truncated: bool) -> Answers:
    if not parts:
        empty = np.zeros(0, np.int64)
        lists = np.zeros((0, depth), np.int32)
        return Answers(empty, lists, empty.astype(bool), empty.astype(np.uint64), 0, truncated)
    return Answers(
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.lists for part in parts]),
        np.concatenate([part.alike for part in parts]),
        np.concatenate([part.orders for part in parts]),
        sum(part.broken for part in parts),
        truncated,
    )


def _from_scores(model: Scorer, cases: Cases, items: int, depth: int) -> Answers:
    scores = np.asarray(model.scores(cases), np.float32)
    if scores.shape != (len(cases), items + 1):
        raise ValueError(f"scores have shape {scores.shape}; {(len(cases), items + 1)} is needed")
    if not scores.flags.writeable:
        scores = scores.copy()
    broken = _mend(scores) if depth else 0
    orders = _orders(scores) if depth else np.zeros(len(cases), np.uint64)
    scores[:, 0] = NO_SCORE
    scores[np.repeat(np.arange(len(cases)), cases.history.lengths), cases.history.items] = NO_SCORE
    lists = np.zeros((len(cases), depth), np.int32)
    alike = np.zeros(len(cases), bool)
    ranks = np.full(len(cases.positives.items), MISSED, np.int64)

    def work(rows: range) -> None:
        _count(scores, cases.positives, rows, ranks)
        if depth:
            lists[rows.start : rows.stop] = top_rows(scores[rows.start : rows.stop], depth)
            alike[rows.start : rows.stop] = [_is_flat(scores[row], lists[row]) for row in rows]

    _in_threads(work, len(cases), scores.nbytes)
    return Answers(_part_equals(ranks, cases), lists, alike, orders, broken, truncated=False)


def _in_threads(work: Callable[[range], None], rows: int, size: int) -> None:
    """Runs `work` on all rows, in a thread a core where there is much: NumPy's loops over a row free the
    lock.
    """
    threads = min(os.cpu_count() or 1, _THREADS) if size >= _MUCH else 1
    bounds = np.linspace(0, rows, threads + 1).astype(int).tolist()
    if threads == 1:
        work(range(rows))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [range(start, end) for start, end in pairwise(bounds)]))


def _mend(scores: Floats) -> int:
    """Puts scores that are not numbers last, in place, and returns how many cases had one."""
    if not scores.size or not np.isnan(scores.max()):
        return 0
    bad = np.isnan(scores)
    scores[bad] = NO_SCORE
    return int(bad.any(axis=1).sum())


def top_rows(scores: Floats, k: int) -> Ints:
    """Returns the k best columns of each row `[rows, k]`, best first and equals by column, then 0 for want
    of more.

    Columns of score -inf are never among them. The k-th best of the maxima of small groups is a lower bound
    of the k-th best score, so that one pass leaves a handful of columns to sort.
    """
    bound = _lower_bounds(scores, min(k, scores.shape[1]))
    lists = np.zeros((len(scores), k), np.int32)
    hit = np.empty(scores.shape[1], bool)
    for row, (values, least) in enumerate(zip(scores, bound, strict=True)):
        found = np.flatnonzero(np.greater_equal(values, least, out=hit))
        best = found[np.argsort(-values[found], kind="stable")[:k]]
        best = best[values[best] > NO_SCORE]
        lists[row, : len(best)] = best
    return lists


def _lower_bounds(scores: Floats, k: int) -> Floats:
    groups = scores.shape[1] // _WIDTH
    if groups < 2 * k:
        return np.partition(scores, -k, axis=1)[:, -k]
    whole = groups * _WIDTH
    maxima = scores[:, :whole].reshape(len(scores), _WIDTH, groups).max(axis=1)
    return np.partition(maxima, -k, axis=1)[:, -k]


def _count(scores: Floats, positives: Lists, rows: range, ranks: Ranks) -> None:
    """Puts into `ranks` the rank of every positive of some rows: how many items score at least as much.

    A score that is not a number is below all others; a positive without a score stays missed.
    """
    hit = np.empty(scores.shape[1], bool)
    for row in rows:
        start, end = positives.offsets[row], positives.offsets[row + 1]
        values = scores[row]
        own = values[positives.items[start:end]]
        if end - start > _FEW:
            ordered = np.sort(values)
            numbers = np.searchsorted(ordered, np.float32(np.nan))
            counted = numbers - np.searchsorted(ordered[:numbers], own, side="left")
            ranks[start:end] = np.where(own > NO_SCORE, counted, MISSED)
            continue
        for place, score in enumerate(own, start=start):
            if score > NO_SCORE:
                ranks[place] = np.count_nonzero(np.greater_equal(values, score, out=hit))


def _part_equals(ranks: Ranks, cases: Cases) -> Ranks:
    """Returns ranks in which positives of one case that share a score stand one behind the other.

    Counting alone puts m equals all on the last of their places.
    """
    case = np.repeat(np.arange(len(cases)), cases.positives.lengths)
    order = np.lexsort((ranks, case))
    same = (np.diff(case[order]) == 0) & (np.diff(ranks[order]) == 0) & (ranks[order][1:] != MISSED)
    if not same.any():
        return ranks
    run = np.concatenate([[0], np.cumsum(~same)])
    last = np.concatenate([np.flatnonzero(~same), [len(ranks) - 1]])
    parted = ranks.copy()
    parted[order] -= last[run] - np.arange(len(ranks))
    return parted


def _orders(scores: Floats) -> npt.NDArray[np.uint64]:
    """Returns one number a case, equal for cases that order some items spread over the corpus alike."""
    probes = np.unique(
        np.linspace(min(1, scores.shape[1] - 1), scores.shape[1] - 1, _PROBES).astype(np.int64)
    )
    return _digest(np.argsort(scores[:, probes], axis=1, kind="stable"))


def _digest(rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    factors = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], dtype=np.uint64)
    digest: npt.NDArray[np.uint64] = (rows.astype(np.uint64) * factors).sum(axis=1, dtype=np.uint64)
    return digest


def _is_flat(scores: Floats, top: Ints) -> bool:
    """Returns whether all items that may be recommended have one score."""
    best = top[top > 0]
    if len(best) < 2 or scores[best[0]] != scores[best[-1]]:
        return False
    return not (scores[1:][scores[1:] > NO_SCORE] < scores[best[0]]).any()


def _from_lists(model: TopK, cases: Cases, items: int, depth: int) -> Answers:
    """Ranks within the lists given, one item longer than needed: what ties with that one may stand
    anywhere.
    """
    asked = min(depth + 1, items)
    rows, scores = model.top(cases, asked)
    if rows.shape != (len(cases), asked) or scores.shape != rows.shape:
        raise ValueError(
            f"lists and scores have shapes {rows.shape} and {scores.shape}; {(len(cases), asked)} is needed"
        )
    ranks = np.full(len(cases.positives.items), MISSED, np.int64)
    lists = np.zeros((len(cases), depth), np.int32)
    alike = np.zeros(len(cases), bool)
    for case in range(len(cases)):
        seen = cases.history.items[cases.history.offsets[case] : cases.history.offsets[case + 1]]
        open_to = (rows[case] > 0) & ~np.isin(rows[case], seen)
        best, values = rows[case][open_to], scores[case][open_to]
        full = len(best) > depth and asked < items
        lists[case, : min(len(best), depth)] = best[:depth]
        alike[case] = len(best) > 1 and values[0] == values[-1]
        start, end = cases.positives.offsets[case], cases.positives.offsets[case + 1]
        for place in range(start, end):
            found = np.flatnonzero(best == cases.positives.items[place])
            if len(found) and not (full and values[found[0]] == values[-1]):
                ranks[place] = np.count_nonzero(values >= values[found[0]])
    return Answers(_part_equals(ranks, cases), lists, alike, _digest(lists), 0, truncated=True)
