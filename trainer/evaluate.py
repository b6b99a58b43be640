"""The one evaluator: models, baselines, bundles and servers are all measured here, over the full corpus and
by id.

The items of a history are masked, equal scores count against the model, and every figure comes with an
interval over users, so that two figures can be told apart or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import scipy.sparse

from trainer import metrics, slices
from trainer.alarms import collapse, leakage
from trainer.config import EvaluateSettings
from trainer.data.examples import Cases, Events, Floats, Ints, Lists, Prepared
from trainer.errors import UserError
from trainer.metrics import Offsets, Ranks, Values
from trainer.scoring import Answers, FactorScorer, IdLists, Progress, Scorer, TopK, answer
from trainer.significance import Difference, Sample, clusters, draws, intervals, paired

__all__ = [
    "Difference",
    "FactorScorer",
    "IdLists",
    "Predictor",
    "RankingReport",
    "Report",
    "RetrievalReport",
    "Scorer",
    "TopK",
    "accuracy",
    "compare",
    "evaluate_ranking",
    "evaluate_retrieval",
    "gate",
    "measure",
]


@runtime_checkable
class Predictor(Protocol):
    """A model that predicts the rating (or the probability) of an event."""

    def predict(self, events: Events) -> Floats:
        """Returns predictions `[events]`."""
        ...


@dataclass(frozen=True)
class Report:
    """What was measured.

    `values`: metric -> figure; `intervals`: metric -> [low, high], 95 %; `slices`: name -> label -> figures;
    `samples`: metric -> the figures by case or event, behind every comparison.
    """

    counts: dict[str, int]
    values: dict[str, float]
    intervals: dict[str, list[float]]
    slices: dict[str, dict[str, dict[str, Any]]]
    samples: dict[str, Sample]
    alarms: list[str]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Returns the report without the samples, ready for JSON, the metrics as flat keys."""
        return {
            **self.values,
            **self.counts,
            "intervals": self.intervals,
            "slices": self.slices,
            "alarms": self.alarms,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class RetrievalReport(Report):
    """A retrieval model's figures, and the lists behind them by case: rows `[cases, longest cutoff]`, 0 for
    none.
    """

    lists: Ints


@dataclass(frozen=True)
class RankingReport(Report):
    """A ranking model's figures."""


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
        notes.append(f"only lists were given: beyond rank {depth} a positive counts as missed, in mrr too")
    cluster = clusters(asked.user)
    samples = _accuracy(answers.ranks, asked.positives.offsets, settings.cutoffs, cluster)
    known = _known_by(prepared)
    further, lines = _beyond_accuracy(answers.lists, asked, prepared, known, settings.cutoffs, cluster)
    by_slice, more = _slices(answers, asked, prepared, known, settings, cluster)
    covered = {f"coverage@{k}": metrics.coverage(answers.lists[:, :k], items) for k in settings.cutoffs}
    samples |= further
    return RetrievalReport(
        counts={"cases": len(asked)},
        values=_values(samples) | (covered if len(asked) else {}),
        intervals=intervals(samples, settings.bootstrap, settings.seed)
        | _coverage_intervals(answers.lists, items, settings),
        slices=by_slice,
        samples=samples,
        alarms=collapse(answers, len(asked)) + leakage(asked, prepared),
        notes=notes + lines + more,
        lists=answers.lists,
    )


def measure(scorer: Scorer | TopK, cases: Cases, prepared: Prepared, metric: str = "ndcg@10") -> float:
    """Returns one accuracy metric alone, quickly: what a search or an epoch's end needs; NaN without cases.

    Raises `UserError` for a metric that is not `recall@k`, `hit_rate@k`, `ndcg@k`, `map@k` or `mrr`.
    """
    name, _, cutoff = metric.partition("@")
    if name not in ("recall", "hit_rate", "ndcg", "map", "mrr") or (name != "mrr") != cutoff.isdigit():
        raise UserError(
            f"no metric {metric!r} to choose by; there are recall@k, hit_rate@k, ndcg@k, map@k and mrr"
        )
    return accuracy(scorer, cases, prepared, (max(int(cutoff or 1), 1),))[metric]


def accuracy(
    scorer: Scorer | TopK, cases: Cases, prepared: Prepared, cutoffs: Sequence[int]
) -> dict[str, float]:
    """Returns recall, hit rate, NDCG and MAP at the cutoffs, and MRR, without intervals, lists or slices."""
    asked, _ = _askable(cases)
    items = len(prepared.items) - 1
    answers = answer(scorer, asked, items, min(max(cutoffs), items), only_ranks=True)
    found = _accuracy(answers.ranks, asked.positives.offsets, cutoffs, clusters(asked.user))
    return {name: sample.value for name, sample in found.items()}


def evaluate_ranking(
    predictions: Predictor | Floats,
    events: Events,
    prepared: Prepared,
    settings: EvaluateSettings,
    labels: Floats | None = None,
    binary: bool = False,
    threshold: float | None = None,
) -> RankingReport:
    """Returns how near `predictions` are to the events' ratings, or to other `labels` `[events]`.

    With `binary`, labels are 0 or 1, predictions are probabilities, and log loss is reported. AUC otherwise
    tells labels of at least `threshold` (default: above the labels' mean in these events) from the rest.
    Events without a label are left out with a line.
    """
    actual = events.rating if labels is None else labels
    predicted = predictions if isinstance(predictions, np.ndarray) else predictions.predict(events)
    if predicted.shape != actual.shape:
        raise ValueError(f"predictions have shape {predicted.shape}, labels {actual.shape}")
    there = ~np.isnan(actual)
    notes = [] if there.all() else [f"{int((~there).sum())} of {len(actual)} events carry no label: left out"]
    events, actual, predicted = events.take(there), actual[there], predicted[there]
    alarms = _unusable(predicted)
    if not len(actual) or alarms:
        empty = [] if len(actual) else ["no events to rank"]
        return RankingReport({"events": len(actual)}, {}, {}, {}, {}, alarms, notes + empty)
    positive = actual > 0 if binary else actual >= _threshold(actual, threshold)
    samples = _errors(predicted, actual, positive, clusters(events.user), binary)
    listed = _list_ndcg(predicted, actual, events)
    masks, lines = slices.of_events(events, prepared, settings.slices)
    by_slice = {name: _event_slice(samples, masks[name], settings) for name in masks}
    every = intervals(samples, settings.bootstrap, settings.seed)
    every |= intervals(listed, settings.bootstrap, settings.seed)
    samples |= listed
    counts = {"events": len(actual), "users": len(np.unique(events.user))}
    return RankingReport(counts, _values(samples), every, by_slice, samples, alarms, notes + lines)


def compare(ours: Report, theirs: Report, metric: str) -> Difference:
    """Returns ours - theirs in a metric with a 95 % interval, both on the same resampled users (paired
    bootstrap).

    Raises `UserError` where either lacks the metric by user, or where they were measured on different
    cases.
    """
    for report in (ours, theirs):
        if metric not in report.samples:
            known = ", ".join(sorted(report.samples))
            raise UserError(f"{metric} cannot be compared; these can: {known}")
    return paired(metric, ours.samples[metric], theirs.samples[metric])


def gate(model: Report, baselines: Mapping[str, Report], metric: str, smaller: bool = False) -> str | None:
    """Returns a line when `model` is significantly worse than the best baseline, saying by how much; else
    None.

    `smaller` tells that smaller is better (an error). Baselines without the metric are passed over.
    """
    there = {name: report.values[metric] for name, report in baselines.items() if metric in report.samples}
    if not there:
        return None
    name = min(there, key=lambda one: there[one] * (1 if smaller else -1))
    gap = compare(model, baselines[name], metric)
    if not (gap.low > 0 if smaller else gap.high < 0):
        return None
    return (
        f"test {metric} {model.values[metric]:.4f} is significantly worse than that of the baseline {name}, "
        f"{there[name]:.4f}: the difference is {gap.difference:+.4f} "
        f"(95 % interval {gap.low:+.4f} to {gap.high:+.4f})"
    )


def _askable(cases: Cases) -> tuple[Cases, list[str]]:
    """Returns the cases that ask for something, each positive once, and lines about what was left out."""
    case = np.repeat(np.arange(len(cases)), cases.positives.lengths)
    items = cases.positives.items
    order = np.lexsort((items, case))
    again = np.zeros(len(items), bool)
    again[order[1:]] = (np.diff(case[order]) == 0) & (np.diff(items[order]) == 0) & (items[order[1:]] > 0)
    notes = []
    if again.any():
        counts = np.bincount(case[~again], minlength=len(cases))
        kept = Lists(
            np.concatenate([[0], np.cumsum(counts)]), items[~again], cases.positives.timestamps[~again]
        )
        cases = Cases(cases.user, cases.history, kept, cases.timestamp, cases.context)
        notes.append(f"{int(again.sum())} positives stand twice in their case: counted once")
    asking = np.flatnonzero(cases.positives.lengths)
    if len(asking) < len(cases):
        notes.append(f"{len(cases) - len(asking)} of {len(cases)} cases have no positives: left out")
        cases = cases.take(asking)
    return cases, notes if len(cases) else [*notes, "no cases to evaluate"]


def _accuracy(
    ranks: Ranks, offsets: Offsets, cutoffs: Sequence[int], cluster: npt.NDArray[np.integer]
) -> dict[str, Sample]:
    of_k = {
        "recall": metrics.recall,
        "hit_rate": metrics.hit_rate,
        "ndcg": metrics.ndcg,
        "map": metrics.average_precision,
    }
    found = {f"{name}@{k}": of(ranks, offsets, k) for name, of in of_k.items() for k in cutoffs}
    found["mrr"] = metrics.reciprocal_rank(ranks, offsets)
    return {name: Sample.mean(values, cluster) for name, values in found.items()}


def _beyond_accuracy(
    lists: Ints,
    cases: Cases,
    prepared: Prepared,
    known: npt.NDArray[np.int64],
    cutoffs: Sequence[int],
    cluster: npt.NDArray[np.integer],
) -> tuple[dict[str, Sample], list[str]]:
    """Returns novelty, popularity lift and diversity of the lists, and a line for what cannot be had.

    Popularity lift is (mean popularity of the lists) / (mean popularity of the histories) - 1, over the
    cases with a history: Abdollahpouri et al., 2020.
    """
    users = len(np.unique(prepared.train.user))
    own = _mean_popularity(cases.history, known)
    labels = _labels(prepared)
    samples = {}
    for k in cutoffs:
        samples[f"novelty@{k}"] = Sample.mean(metrics.novelty(lists[:, :k], known, users), cluster)
        lift = metrics.list_mean(lists[:, :k], known.astype(np.float64)) - own
        both = ~np.isnan(lift)
        samples[f"popularity_lift@{k}"] = Sample(np.where(both, lift, 0), np.where(both, own, 0), cluster)
        if labels is not None and k > 1:
            diversity = metrics.intra_list_diversity(lists[:, :k], labels)
            samples[f"intra_list_diversity@{k}"] = Sample.mean(diversity, cluster)
    line = "intra_list_diversity is left out: no item feature is a category or a bag"
    return samples, [line] if labels is None else []


def _mean_popularity(histories: Lists, known: npt.NDArray[np.int64]) -> Values:
    total = metrics.per_case(known[histories.items], histories.offsets)
    mean: Values = np.full(len(total), np.nan)
    np.divide(total, histories.lengths, out=mean, where=histories.lengths > 0)
    return mean


def _known_by(prepared: Prepared) -> npt.NDArray[np.int64]:
    """Returns how many training users know each item `[rows]`."""
    train = prepared.train
    pairs = np.unique(train.user.astype(np.int64) * len(prepared.items) + train.item)
    counts = np.bincount(pairs % len(prepared.items), minlength=len(prepared.items))
    counts[0] = 0
    return counts


def _labels(prepared: Prepared) -> scipy.sparse.csr_matrix | None:
    """Returns the items' categories and bags as unit rows `[rows, labels]`, or None where there are none."""
    number: dict[tuple[str, str], int] = {}
    rows, columns = [], []
    for feature in prepared.schema.item:
        if feature.kind not in ("category", "bag"):
            continue
        for row, value in enumerate(prepared.item_features[feature.name]):
            labels = slices.labels_of(feature, value)
            rows += [row] * len(labels)
            columns += [number.setdefault((feature.name, label), len(number)) for label in labels]
    if not number:
        return None
    table = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(prepared.items), len(number)))
    table.data[:] = 1.0
    length = np.sqrt(np.asarray(table.sum(axis=1))).ravel()
    return scipy.sparse.csr_matrix(scipy.sparse.diags_array(1 / np.maximum(length, 1)) @ table)


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
    whole = _accuracy(answers.ranks, cases.positives.offsets, settings.cutoffs, cluster)
    found = {
        name: {
            label: _figures(_taken(whole, mask), int(mask.sum()), settings) for label, mask in masks.items()
        }
        for name, masks in asked.items()
    }
    case = np.repeat(np.arange(len(cases)), cases.positives.lengths)
    for name, masks in wanted.items():
        found[name] = {}
        for label, mask in masks.items():
            counts = np.bincount(case[mask], minlength=len(cases))
            offsets = np.concatenate([[0], np.cumsum(counts)])
            part = _accuracy(answers.ranks[mask], offsets, settings.cutoffs, cluster)
            kept = _taken(part, counts > 0)
            found[name][label] = _figures(kept, int((counts > 0).sum()), settings)
    return found, notes


def _taken(samples: dict[str, Sample], mask: npt.NDArray[np.bool_]) -> dict[str, Sample]:
    return {name: sample.take(mask) for name, sample in samples.items()}


def _figures(
    samples: dict[str, Sample], count: int, settings: EvaluateSettings, what: str = "cases"
) -> dict[str, Any]:
    sure = intervals(samples, settings.bootstrap, settings.seed)
    return {**_values(samples), what: count, "intervals": sure}


def _values(samples: dict[str, Sample]) -> dict[str, float]:
    """Returns the metrics that have a value."""
    return {name: sample.value for name, sample in samples.items() if sample.whole.any()}


def _coverage_intervals(lists: Ints, items: int, settings: EvaluateSettings) -> dict[str, list[float]]:
    """Returns intervals of coverage: the spread over resamples, laid around the figure itself.

    A resample holds fewer different users and so covers less; its plain percentiles would miss the figure.
    """
    if not len(lists) or not settings.bootstrap:
        return {}
    drawn = draws(len(lists), min(settings.bootstrap, 50), settings.seed)
    found = {}
    for k in settings.cutoffs:
        spread = np.array([metrics.coverage(lists[rows, :k], items) for rows in drawn])
        low, high = (
            np.quantile(spread, [0.025, 0.975]) - spread.mean() + metrics.coverage(lists[:, :k], items)
        )
        found[f"coverage@{k}"] = [float(max(low, 0)), float(min(high, 1))]
    return found


def _unusable(predicted: Floats) -> list[str]:
    wrong = int((~np.isfinite(predicted)).sum())
    return [f"{wrong} of {len(predicted)} predictions are not finite: nothing was measured"] if wrong else []


def _threshold(actual: Floats, threshold: float | None) -> float:
    return float(actual.mean()) if threshold is None else threshold


def _errors(
    predicted: Floats,
    actual: Floats,
    positive: npt.NDArray[np.bool_],
    cluster: npt.NDArray[np.integer],
    binary: bool,
) -> dict[str, Sample]:
    samples = {
        "rmse": Sample.mean(metrics.squared_error(predicted, actual), cluster, root=True),
        "mae": Sample.mean(metrics.absolute_error(predicted, actual), cluster),
    }
    parts = metrics.auc_parts(predicted, positive)
    if not np.isnan(parts).any():
        area = parts[positive].mean()
        share = np.where(positive, positive.mean(), 1 - positive.mean())
        samples["auc"] = Sample.mean(
            area + (parts - area) / share, cluster
        )  # linear in the events: see DeLong
    if binary:
        samples["log_loss"] = Sample.mean(metrics.log_loss(predicted, actual), cluster)
    return samples


def _list_ndcg(predicted: Floats, actual: Floats, events: Events) -> dict[str, Sample]:
    known = events.user > 0
    users, values = metrics.list_ndcg(predicted[known], actual[known], events.user[known])
    return {"list_ndcg": Sample.mean(values, clusters(users))}


def _event_slice(
    samples: dict[str, Sample], masks: dict[str, npt.NDArray[np.bool_]], settings: EvaluateSettings
) -> dict[str, dict[str, Any]]:
    plain = {name: sample for name, sample in samples.items() if name != "auc"}
    return {
        label: _figures(_taken(plain, mask), int(mask.sum()), settings, "events")
        for label, mask in masks.items()
    }
