"""What the evaluator needs of a model: every positive's exact rank, and the top of each list.

The ranks are exact however many items there are: a positive's rank is the number of items that score at
least as much, counted over the whole corpus, block by block.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.data.examples import Cases, Floats, Ints
from trainer.evaluation.counting import count, is_flat, mask, mend, part_equals, top_rows
from trainer.evaluation.metrics import MISSED, Ranks
from trainer.evaluation.scoring import Factored, Scorer, TopK

BLOCK_BYTES = 64 * 2**20  # of scores at a time: the memory needed, whatever the corpus and the cases
PRODUCT_BYTES = 16 * 2**20  # of scores at a time and thread, where they are products of vectors
_CASES = 4_096  # whose vectors are asked for at a time there
_THREADS = 8
_MUCH = 4 * 2**20  # bytes of scores below which threads cost more than they bring
_PROBES = 64  # items whose order tells whether two cases get different lists
Progress = Callable[[int, int], None]


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
    block = _cases_at_a_time(model, items + 1)
    parts = []
    for start in range(0, len(cases), block):
        some = cases.take(np.arange(start, min(start + block, len(cases))))
        if isinstance(model, Scorer):
            parts.append(_from_scores(model, some, items + 1, 0 if only_ranks else depth))
        else:
            parts.append(_from_lists(model, some, items, depth))
        if progress is not None:
            progress(start + len(some), len(cases))
    return _join(parts, 0 if exact and only_ranks else depth, truncated=not exact and depth < items)


def _cases_at_a_time(model: Scorer | TopK, width: int) -> int:
    """Returns how many cases a model is asked for at a time."""
    if isinstance(model, Factored):
        return _CASES
    return max(1, BLOCK_BYTES // (4 * width)) if isinstance(model, Scorer) else 512


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


def _from_scores(model: Scorer, cases: Cases, width: int, depth: int) -> Answers:
    """Returns the answers to one block of cases."""
    lists = np.zeros((len(cases), depth), np.int32)
    alike, broken = np.zeros((2, len(cases)), bool)
    orders = np.zeros(len(cases), np.uint64)
    ranks = np.full(len(cases.positives.items), MISSED, np.int64)

    def work(rows: range, own: Floats) -> None:
        some = slice(rows.start, rows.stop)
        if depth:
            broken[some] = mend(own)
            orders[some] = _orders(own)
        for had in (cases.history, cases.disliked):
            if had is not None:
                mask(own, had, rows)
        count(own, cases.positives, rows, ranks)
        if depth:
            lists[some] = top_rows(own, depth)
            alike[some] = [is_flat(values, top) for values, top in zip(own, lists[some], strict=True)]

    if isinstance(model, Factored):
        _of_products(model, model.vectors(cases), width, work)
    else:
        scores = _scores(model, cases, width)
        threads = _threads(len(cases), width)
        _in_threads(lambda rows: work(rows, scores[rows.start : rows.stop]), len(cases), threads, len(cases))
    return Answers(part_equals(ranks, cases), lists, alike, orders, int(broken.sum()), truncated=False)


def _scores(model: Scorer, cases: Cases, width: int) -> Floats:
    scores = np.asarray(model.scores(cases), np.float32)
    if scores.shape != (len(cases), width):
        raise ValueError(f"scores have shape {scores.shape}; {(len(cases), width)} is needed")
    return scores if scores.flags.writeable else scores.copy()


def _of_products(model: Factored, vectors: Floats, width: int, work: Callable[[range, Floats], None]) -> None:
    """Calls `work` with some rows at a time and their scores, in the thread that made them.

    One thread more than cores: TensorFlow's product of one has them all, while the others count.
    """

    def fill(rows: range) -> None:
        work(rows, model.product(vectors[rows.start : rows.stop]))

    threads = _threads(len(vectors), width)
    step = max(1, PRODUCT_BYTES // (4 * width))
    _in_threads(fill, len(vectors), threads + 1 if threads > 1 else 1, step)


def _in_threads(work: Callable[[range], None], rows: int, threads: int, step: int) -> None:
    """Runs `work` on all rows, at most `step` at a time, in threads: NumPy's loops free the lock."""
    step = min(step, -(-rows // threads))
    parts = [range(start, min(start + step, rows)) for start in range(0, rows, step)]
    if threads == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


def _threads(rows: int, width: int) -> int:
    """Returns a thread a core where there is much."""
    return min(len(os.sched_getaffinity(0)), _THREADS, rows) if 4 * rows * width >= _MUCH else 1


def _orders(scores: Floats) -> npt.NDArray[np.uint64]:
    """Returns one number a case, equal for cases that have one best item and order some items spread over the corpus alike.

    Those alone would be alike wherever a scorer knows little: of a large corpus most scores are then 0.
    """
    probes = np.unique(
        np.linspace(min(1, scores.shape[1] - 1), scores.shape[1] - 1, _PROBES).astype(np.int64)
    )
    order = np.argsort(scores[:, probes], axis=1, kind="stable")
    return _digest(np.column_stack([order, scores.argmax(axis=1)]))


def _digest(rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    factors = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], dtype=np.uint64)
    digest: npt.NDArray[np.uint64] = (rows.astype(np.uint64) * factors).sum(axis=1, dtype=np.uint64)
    return digest


def _from_lists(model: TopK, cases: Cases, items: int, depth: int) -> Answers:
    """Ranks within the lists given, one item longer than needed: what ties with that one may stand anywhere."""
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
        had = [lists for lists in (cases.history, cases.disliked) if lists is not None]
        seen = np.concatenate([one.items[one.offsets[case] : one.offsets[case + 1]] for one in had])
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
    return Answers(part_equals(ranks, cases), lists, alike, _digest(lists), 0, truncated=True)
