"""Exact ranks and tops of rows of scores. The evaluator's inner loops: nothing here knows models, or threads."""

import numpy as np
import numpy.typing as npt

from trainer.data.examples import Cases, Floats, Ints, Lists
from trainer.evaluation.metrics import MISSED, Ranks
from trainer.evaluation.scoring import NO_SCORE

_WIDTH = 32  # items that share one maximum in the search for the top
_FEW = 16  # positives of a case up to which counting beats sorting
_TOGETHER = 8  # positives counted at a time: what they read and write stays in the cache


def mask(scores: Floats, histories: Lists, rows: range) -> None:
    """Puts the unknown, and what the `rows` have had, out of reach, in place."""
    some = slice(histories.offsets[rows.start], histories.offsets[rows.stop])
    lengths = histories.lengths[rows.start : rows.stop]
    scores[:, 0] = NO_SCORE
    begins = np.arange(len(rows), dtype=np.int64) * scores.shape[1]
    np.put(scores, np.repeat(begins, lengths) + histories.items[some], NO_SCORE)


def mend(scores: Floats) -> npt.NDArray[np.bool_]:
    """Puts scores that are not numbers last, in place, and returns which cases had one `[cases]`."""
    broken: npt.NDArray[np.bool_] = np.isnan(scores.max(axis=1, initial=NO_SCORE))
    for row in np.flatnonzero(broken):
        scores[row, np.isnan(scores[row])] = NO_SCORE
    return broken


def top_rows(scores: Floats, k: int) -> Ints:
    """Returns the k best columns of each row `[rows, k]`, best first and equals by column, then 0 for want of more.

    Columns of score -inf are never among them. The k-th best of the maxima of small groups is a lower bound
    of the k-th best score, so that one pass leaves a handful of columns to sort.
    """
    lists = np.zeros((len(scores), k), np.int32)
    width = scores.shape[1] // _WIDTH
    if width < 2 * k:
        least = np.partition(scores, -min(k, scores.shape[1]), axis=1)[:, -min(k, scores.shape[1])]
        for row, values in enumerate(scores):
            lists[row] = _best(values, np.flatnonzero(values >= least[row]), k)
        return lists
    whole = width * _WIDTH
    members = np.arange(0, whole, width)[:, None]  # of group 0; those of group g are g further on
    for row, values in enumerate(scores):
        maxima = values[:whole].reshape(_WIDTH, width).max(axis=0)
        ordered = maxima.copy()
        ordered.partition(width - k)  # the methods: NumPy's functions around them take as long as the work
        bound = ordered[width - k]
        found = (members + (maxima >= bound).nonzero()[0]).ravel()
        rest = whole + (values[whole:] >= bound).nonzero()[0]
        lists[row] = _best(values, np.concatenate([found[values[found] >= bound], rest]), k)
    return lists


def _best(values: Floats, found: npt.NDArray[np.integer], k: int) -> Ints:
    """Returns the k best of some columns, equals by column, then 0 for want of more."""
    own = values[found]
    order = np.lexsort((found, -own))[:k]
    best = found[order][own[order] > NO_SCORE]
    padded = np.zeros(k, np.int32)
    padded[: len(best)] = best
    return padded


def count(scores: Floats, positives: Lists, rows: range, ranks: Ranks) -> None:
    """Puts into `ranks` the rank of every positive of `rows`: how many items score at least as much.

    `scores` are those of the rows. A score that is not a number is below all others; a positive without a
    score stays missed. Cases with few positives are counted together, some at a time: threads that count row by row
    wait for Python's lock longer than they count.
    """
    offsets = positives.offsets[rows.start : rows.stop + 1]
    few = np.diff(offsets) <= _FEW
    for case in np.flatnonzero(~few):
        start, end = offsets[case], offsets[case + 1]
        ranks[start:end] = _sorted_ranks(scores[case], scores[case, positives.items[start:end]])
    row = np.repeat(np.flatnonzero(few), np.diff(offsets)[few])
    place = np.flatnonzero(np.repeat(few, np.diff(offsets))) + offsets[0]
    own = scores[row, positives.items[place]]
    counted = _at_least(scores, row, own)
    ranks[place] = np.where(own > NO_SCORE, counted, MISSED)


def _sorted_ranks(values: Floats, own: Floats) -> Ranks:
    """Returns the ranks of many scores `own` of a row."""
    ordered = np.sort(values)
    numbers = np.searchsorted(ordered, np.float32(np.nan))
    counted = numbers - np.searchsorted(ordered[:numbers], own, side="left")
    ranks: Ranks = np.where(own > NO_SCORE, counted, MISSED)
    return ranks


def _at_least(scores: Floats, rows: npt.NDArray[np.integer], own: Floats) -> npt.NDArray[np.int64]:
    """Returns how many scores of each of the (ascending) `rows` are at least the `own` beside it."""
    counted = np.empty(len(rows), np.int64)
    width = scores.shape[1]
    hits = np.zeros((_TOGETHER, -(-width // 8) * 8), bool)
    for first in range(0, len(rows), _TOGETHER):
        some = rows[first : first + _TOGETHER]
        one_each = np.array_equal(some, np.arange(some[0], some[0] + len(some)))
        values = scores[some[0] : some[-1] + 1] if one_each else scores[some]
        hit = hits[: len(some)]
        np.greater_equal(values, own[first : first + len(some), None], out=hit[:, :width])
        counted[first : first + len(some)] = np.bitwise_count(hit.view(np.uint64)).sum(axis=1, dtype=np.int64)
    return counted


def part_equals(ranks: Ranks, cases: Cases) -> Ranks:
    """Returns ranks in which positives of one case that share a score stand one behind the other.

    Counting alone puts m equals all on the last of their places.
    """
    case = cases.positives.owners
    order = np.lexsort((ranks, case))
    same = (np.diff(case[order]) == 0) & (np.diff(ranks[order]) == 0) & (ranks[order][1:] != MISSED)
    if not same.any():
        return ranks
    run = np.concatenate([[0], np.cumsum(~same)])
    last = np.concatenate([np.flatnonzero(~same), [len(ranks) - 1]])
    parted = ranks.copy()
    parted[order] -= last[run] - np.arange(len(ranks))
    return parted


def is_flat(scores: Floats, top: Ints) -> bool:
    """Returns whether all items that may be recommended have one score."""
    best = top[top > 0]
    if len(best) < 2 or scores[best[0]] != scores[best[-1]]:
        return False
    return not (scores[1:][scores[1:] > NO_SCORE] < scores[best[0]]).any()
