"""The one evaluator: models, baselines, bundles and servers are all measured here, over the full corpus and by id.

The items of a history are masked, equal scores count against the model, and every figure comes with an
interval over users, so that two figures can be told apart or not.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.examples import Cases, Prepared, offsets_of
from trainer.errors import UserError
from trainer.evaluation import beyond_accuracy, metrics, slices
from trainer.evaluation.alarms import collapse, leakage
from trainer.evaluation.answers import Answers, Progress, answer
from trainer.evaluation.metrics import Offsets
from trainer.evaluation.reports import (
    RetrievalReport,
    empty_slices,
    figures,
    taken,
    values_of,
)
from trainer.evaluation.scoring import Scorer, TopK
from trainer.evaluation.significance import Sample, clusters, intervals
from trainer.settings import EvaluateSettings

_ACCURACY = re.compile(r"mrr|(?:recall|hit_rate|ndcg|map)@([1-9][0-9]*)")


def evaluate_retrieval(
    scorer: Scorer | TopK,
    cases: Cases,
    prepared: Prepared,
    settings: EvaluateSettings,
    progress: Progress | None = None,
) -> RetrievalReport:
    """Returns how well `scorer` finds the positives of `cases` among all items of the corpus.

    `progress` is called with cases done and cases in all. Raises `UserError` for a slice by an unknown
    column. What cannot be measured is left out with a line in `notes`; what should not be trusted has a
    line in `alarms`.
    """
    asked, notes = _askable(cases)
    items = len(prepared.items) - 1
    high = [k for k in settings.cutoffs if k > items]
    notes += [f"cutoff {k} is above the corpus of {items} items: it takes the whole corpus" for k in high]
    depth = min(max(settings.cutoffs), items)
    answers = answer(scorer, asked, items, depth, progress)
    if answers.truncated:
        notes.append(
            f"only lists of {depth} were given: mrr cannot be had from them, and mrr@{depth} takes what lies "
            "beyond as missed; scores that are not numbers cannot be seen"
        )
    cluster = clusters(asked.user)
    samples = _accuracy(answers, asked.positives.offsets, settings.cutoffs, cluster)
    known = beyond_accuracy.known_by(prepared)
    further, lines = beyond_accuracy.of_lists(
        answers.lists, asked, prepared, known, settings.cutoffs, cluster
    )
    by_slice, more = _slices(answers, asked, prepared, known, settings, cluster)
    covered = {f"coverage@{k}": metrics.coverage(answers.lists[:, :k], items) for k in settings.cutoffs}
    samples |= further
    return RetrievalReport(
        counts={"cases": len(asked)},
        values=values_of(samples) | (covered if len(asked) else {}),
        intervals=intervals(samples, settings.bootstrap, settings.seed)
        | beyond_accuracy.coverage_intervals(answers.lists, items, settings),
        slices=by_slice,
        samples=samples,
        alarms=collapse(answers, len(asked)) + leakage(asked, prepared),
        notes=notes + lines + more,
        lists=answers.lists,
    )


def measure(scorer: Scorer, cases: Cases, prepared: Prepared, metric: str = "ndcg@10") -> float:
    """Returns one accuracy metric alone, quickly: what a search or an epoch's end needs; NaN without cases.

    Raises `UserError` for a metric that is not `recall@k`, `hit_rate@k`, `ndcg@k`, `map@k` or `mrr`.
    """
    return accuracy(scorer, cases, prepared, (cutoff(metric) or 1,))[metric]


def cutoff(metric: str) -> int | None:
    """Returns the k of an accuracy metric, None for `mrr`, which has none.

    Raises `UserError` for a metric that is not `recall@k`, `hit_rate@k`, `ndcg@k`, `map@k` or `mrr`.
    """
    found = _ACCURACY.fullmatch(metric)
    if found is None:
        raise UserError(
            f"no metric {metric!r} to choose by (train.objective); there are recall@k, hit_rate@k, ndcg@k, "
            "map@k and mrr"
        )
    return int(found[1]) if found[1] else None


def accuracy(
    scorer: Scorer | TopK, cases: Cases, prepared: Prepared, cutoffs: Sequence[int]
) -> dict[str, float]:
    """Returns recall, hit rate, NDCG and MAP at the cutoffs, and MRR, without intervals, lists or slices."""
    asked, _ = _askable(cases)
    items = len(prepared.items) - 1
    answers = answer(scorer, asked, items, min(max(cutoffs), items), only_ranks=True)
    found = _accuracy(answers, asked.positives.offsets, cutoffs, clusters(asked.user))
    return {name: sample.value for name, sample in found.items()}


def _askable(cases: Cases) -> tuple[Cases, list[str]]:
    """Returns the cases that ask for something, each positive once, and lines about what was left out."""
    case = cases.positives.owners
    items = cases.positives.items
    order = np.lexsort((items, case))
    again = np.zeros(len(items), bool)
    again[order[1:]] = (np.diff(case[order]) == 0) & (np.diff(items[order]) == 0) & (items[order[1:]] > 0)
    notes = []
    if again.any():
        counts = np.bincount(case[~again], minlength=len(cases))
        cases = dataclasses.replace(cases, positives=cases.positives.cut(offsets_of(counts), ~again))
        notes.append(f"{int(again.sum())} positives stand twice in their case: counted once")
    asking = np.flatnonzero(cases.positives.lengths)
    if len(asking) < len(cases):
        notes.append(f"{len(cases) - len(asking)} of {len(cases)} cases have no positives: left out")
        cases = cases.take(asking)
    return cases, notes if len(cases) else [*notes, "no cases to evaluate"]


def _accuracy(
    answers: Answers, offsets: Offsets, cutoffs: Sequence[int], cluster: npt.NDArray[np.integer]
) -> dict[str, Sample]:
    ranks = answers.ranks
    of_k = {
        "recall": metrics.recall,
        "hit_rate": metrics.hit_rate,
        "ndcg": metrics.ndcg,
        "map": metrics.average_precision,
    }
    found = {f"{name}@{k}": of(ranks, offsets, k) for name, of in of_k.items() for k in cutoffs}
    found[f"mrr@{answers.lists.shape[1]}" if answers.truncated else "mrr"] = metrics.reciprocal_rank(
        ranks, offsets
    )
    return {name: Sample.mean(values, cluster) for name, values in found.items()}


def _slices(
    answers: Answers,
    cases: Cases,
    prepared: Prepared,
    known: npt.NDArray[np.int64],
    settings: EvaluateSettings,
    cluster: npt.NDArray[np.integer],
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str]]:
    """Returns accuracy by slice: of some of the cases, or of all cases with only some of their positives."""
    asked, wanted, notes = slices.of_cases(cases, prepared, known, settings.slices)
    whole = _accuracy(answers, cases.positives.offsets, settings.cutoffs, cluster)
    found = {
        name: {label: figures(taken(whole, mask), int(mask.sum()), settings) for label, mask in masks.items()}
        for name, masks in asked.items()
    }
    case = cases.positives.owners
    for name, masks in wanted.items():
        found[name] = {}
        for label, mask in masks.items():
            counts = np.bincount(case[mask], minlength=len(cases))
            ranked = dataclasses.replace(answers, ranks=answers.ranks[mask])
            part = _accuracy(ranked, offsets_of(counts), settings.cutoffs, cluster)
            kept = taken(part, counts > 0)
            found[name][label] = figures(kept, int((counts > 0).sum()), settings)
    return found, notes + (empty_slices(found) if len(cases) else [])
