"""What lists are like, right or wrong: how new, how popular, how diverse, and how much of the catalogue they show."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse

from trainer.data.examples import Cases, Ints, Lists, Prepared
from trainer.evaluation import metrics, slices
from trainer.evaluation.metrics import Values
from trainer.evaluation.significance import Sample, draws
from trainer.settings import EvaluateSettings


def of_lists(
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


def known_by(prepared: Prepared) -> npt.NDArray[np.int64]:
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


def coverage_intervals(lists: Ints, items: int, settings: EvaluateSettings) -> dict[str, list[float]]:
    """Returns intervals of coverage: the spread over resamples, laid around the figure itself.

    A resample holds fewer different users and so covers less; its plain percentiles would miss the figure.
    """
    if not len(lists) or not settings.bootstrap:
        return {}
    drawn = draws(len(lists), min(settings.bootstrap, 50), settings.seed)
    spread = np.array([_coverages(lists[np.unique(rows)], items, settings.cutoffs) for rows in drawn])
    low, high = np.quantile(spread, [0.025, 0.975], axis=0) - spread.mean(axis=0)
    found = {}
    for number, k in enumerate(settings.cutoffs):
        value = metrics.coverage(lists[:, :k], items)
        found[f"coverage@{k}"] = [float(max(value + low[number], 0)), float(min(value + high[number], 1))]
    return found


def _coverages(lists: Ints, items: int, cutoffs: Sequence[int]) -> list[float]:
    """Returns the coverage at every cutoff, from each item's best place in any list: one pass for them all."""
    depth = lists.shape[1]
    best = np.full(items + 1, depth, np.int32)
    for place in range(depth - 1, -1, -1):
        best[lists[:, place]] = place
    best[0] = depth
    places = np.bincount(best, minlength=depth + 1)[:depth].cumsum()
    return [float(places[min(k, depth) - 1]) / items for k in cutoffs]
