"""The ranking half of the evaluator: how near predictions are to ratings, or to labels."""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trainer.data.examples import Events, Floats, Prepared
from trainer.evaluation import metrics, slices
from trainer.evaluation.alarms import constant, rated_leakage
from trainer.evaluation.reports import RankingReport, empty_slices, figures, values_of
from trainer.evaluation.significance import Sample, clusters, intervals
from trainer.settings import EvaluateSettings


@runtime_checkable
class Predictor(Protocol):
    """A model that predicts the rating (or the probability) of an event."""

    def predict(self, events: Events) -> Floats:
        """Returns predictions `[events]`."""
        ...


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
    alarms = constant(predicted) + rated_leakage(events, prepared)
    positive = actual > 0 if binary else actual >= _threshold(actual, threshold)

    def errors(rows: npt.NDArray[np.bool_]) -> dict[str, Sample]:
        return _errors(predicted[rows], actual[rows], positive[rows], clusters(events.user[rows]), binary)

    samples = errors(np.ones(len(actual), bool))
    listed = _list_ndcg(predicted, actual, events)
    masks, lines = slices.of_events(events, prepared, settings.slices)
    by_slice = {
        name: {
            label: figures(errors(mask), int(mask.sum()), settings, "events") for label, mask in parts.items()
        }
        for name, parts in masks.items()
    }
    every = intervals(samples, settings.bootstrap, settings.seed)
    every |= intervals(listed, settings.bootstrap, settings.seed)
    samples |= listed
    counts = {"events": len(actual), "users": len(np.unique(events.user))}
    return RankingReport(
        counts,
        values_of(samples),
        every,
        by_slice,
        samples,
        alarms,
        notes + lines + empty_slices(by_slice, "events"),
    )


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
    if len(parts) and not np.isnan(parts).any():
        area = parts[positive].mean()
        share = np.where(positive, positive.mean(), 1 - positive.mean())
        # linear in the events: see DeLong
        samples["auc"] = Sample.mean(area + (parts - area) / share, cluster)
    if binary:
        samples["log_loss"] = Sample.mean(metrics.log_loss(predicted, actual), cluster)
    return samples


def _list_ndcg(predicted: Floats, actual: Floats, events: Events) -> dict[str, Sample]:
    known = events.user > 0
    users, values = metrics.list_ndcg(predicted[known], actual[known], events.user[known])
    return {"list_ndcg": Sample.mean(values, clusters(users))}
