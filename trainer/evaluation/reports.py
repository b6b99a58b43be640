"""What was measured, and how two measurements compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.examples import Ints
from trainer.errors import UserError
from trainer.evaluation.metrics import ascending
from trainer.evaluation.significance import Difference, Sample, intervals, paired
from trainer.settings import EvaluateSettings


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
    """A retrieval model's figures, and the lists behind them by case: rows `[cases, longest cutoff]`, 0 for none."""

    lists: Ints


@dataclass(frozen=True)
class RankingReport(Report):
    """A ranking model's figures."""


def compare(ours: Report, theirs: Report, metric: str) -> Difference:
    """Returns ours - theirs in a metric with a 95 % interval, both on the same resampled users (paired bootstrap).

    Raises `UserError` where either lacks the metric by user, or where they were measured on different
    cases.
    """
    for report in (ours, theirs):
        if metric not in report.samples:
            known = ", ".join(sorted(report.samples))
            raise UserError(f"{metric} cannot be compared; these can: {known}")
    return paired(metric, ours.samples[metric], theirs.samples[metric])


def gate(model: Report, baselines: Mapping[str, Report], metric: str) -> str | None:
    """Returns a line when `model` is significantly worse than the best baseline, saying by how much; else None.

    Baselines without the metric are passed over.
    """
    sign = ascending(metric)
    there = {name: report.values[metric] for name, report in baselines.items() if metric in report.samples}
    if not there:
        return None
    name = min(there, key=lambda one: sign * there[one])
    gap = compare(model, baselines[name], metric)
    if not gap.significant or sign * gap.difference < 0:
        return None
    return (
        f"test {metric} {model.values[metric]:.4f} is significantly worse than that of the baseline {name}, "
        f"{there[name]:.4f}: the difference is {gap.difference:+.4f} "
        f"(95 % interval {gap.low:+.4f} to {gap.high:+.4f})"
    )


def taken(samples: dict[str, Sample], mask: npt.NDArray[np.bool_]) -> dict[str, Sample]:
    """Returns the samples of some of the cases or events."""
    return {name: sample.take(mask) for name, sample in samples.items()}


def figures(
    samples: dict[str, Sample], count: int, settings: EvaluateSettings, what: str = "cases"
) -> dict[str, Any]:
    """Returns a slice's figures with their intervals and its number of `what`, ready for JSON."""
    sure = intervals(samples, settings.bootstrap, settings.seed)
    return {**values_of(samples), what: count, "intervals": sure}


def empty_slices(by_slice: Mapping[str, Mapping[str, Mapping[str, Any]]], what: str = "cases") -> list[str]:
    """Returns a line that names the slices without a single one of `what`; none where all have some."""
    empty = [
        f"{name} {label}"
        for name, labels in by_slice.items()
        for label, found in labels.items()
        if not found[what]
    ]
    return [f"slices without {what}: {', '.join(empty)}"] if empty else []


def values_of(samples: dict[str, Sample]) -> dict[str, float]:
    """Returns the metrics that have a value."""
    return {name: sample.value for name, sample in samples.items() if sample.whole.any()}
