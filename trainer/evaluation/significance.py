"""How sure a figure is: bootstrap intervals over users, and paired comparisons of two models on the same cases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.errors import UserError
from trainer.evaluation.metrics import Values

CONFIDENCE = 0.95
RESAMPLES = 1_000  # behind a comparison
FEWEST = 10  # users: of fewer nothing is sure
_DRAWS_AT_ONCE = 20_000_000  # resampled users held at a time


@dataclass(frozen=True)
class Sample:
    """One metric before it is summed up: its value is sum(part) / sum(whole), or the root of that.

    `part` and `whole` are `[n]`, one for each case (or event); both are 0 where the metric is undefined.
    `cluster` `[n]` names the user, who is drawn as a whole.
    """

    part: Values
    whole: Values
    cluster: npt.NDArray[np.integer]
    root: bool = False

    @classmethod
    def mean(cls, values: Values, cluster: npt.NDArray[np.integer], root: bool = False) -> "Sample":
        """Returns the sample of a mean over the values that are not NaN."""
        there = ~np.isnan(values)
        return cls(np.where(there, values, 0.0), there.astype(np.float64), cluster, root)

    @property
    def value(self) -> float:
        """Returns the metric; NaN where no case has one."""
        return float(_value(self.part.sum(), self.whole.sum(), self.root))

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> "Sample":
        """Returns the sample of some of the cases."""
        return Sample(self.part[rows], self.whole[rows], self.cluster[rows], self.root)


@dataclass(frozen=True)
class Difference:
    """How far one model is from another in one metric, with a 95 % interval over users."""

    metric: str
    difference: float
    low: float
    high: float
    users: int

    @property
    def significant(self) -> bool:
        """Returns whether the interval leaves 0 out, and there are users enough to draw from."""
        return self.users >= FEWEST and (self.low > 0 or self.high < 0)


def clusters(users: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Returns a number for each user `[n]`, counted from 0; every case of an unknown user (row 0) is its own."""
    names = users.astype(np.int64)
    unknown = names == 0
    names[unknown] = -1 - np.arange(int(unknown.sum()))
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def intervals(samples: Mapping[str, Sample], resamples: int, seed: int) -> dict[str, list[float]]:
    """Returns the 95 % percentile interval `[low, high]` of every metric; nothing for one without a value.

    All metrics see the same resamples of users (Efron, 1979). The samples must have one and the same
    `cluster`.
    """
    kept = {name: sample for name, sample in samples.items() if sample.whole.any()}
    if not resamples or not kept:
        return {}
    drawn = _resample(list(kept.values()), resamples, seed)
    low, high = _limits(drawn)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(kept)}


def paired(metric: str, ours: Sample, theirs: Sample) -> Difference:
    """Returns ours - theirs with the interval of a paired bootstrap: both see the same users in each resample."""
    if len(ours.cluster) != len(theirs.cluster) or (ours.cluster != theirs.cluster).any():
        raise UserError(f"{metric} of two models can be compared only on the same cases, in the same order")
    drawn = _resample([ours, theirs], RESAMPLES, seed=42)
    low, high = _limits(drawn[:, :1] - drawn[:, 1:])
    users = len(np.unique(ours.cluster[ours.whole > 0]))
    return Difference(metric, ours.value - theirs.value, float(low[0]), float(high[0]), users)


def draws(count: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yields the users drawn in each resample, `[count]` each; for what is no mean over users."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield random.integers(0, count, count)


def _resample(samples: Sequence[Sample], resamples: int, seed: int) -> Values:
    """Returns the metrics' values in each resample `[resamples, metrics]`."""
    cluster = samples[0].cluster
    count = int(cluster.max()) + 1
    parts = np.stack([np.bincount(cluster, sample.part, count) for sample in samples], axis=1)
    wholes = np.stack([np.bincount(cluster, sample.whole, count) for sample in samples], axis=1)
    present = np.flatnonzero(np.bincount(cluster, minlength=count))
    parts, wholes = parts[present], wholes[present]
    root = np.array([sample.root for sample in samples])
    random = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // len(present))
    values = []
    for start in range(0, resamples, step):
        weights = _weights(random, min(step, resamples - start), len(present))
        values.append(_value(weights @ parts, weights @ wholes, root))
    return np.concatenate(values)


def _weights(random: np.random.Generator, resamples: int, count: int) -> Values:
    """Returns how often each user is drawn in each resample `[resamples, count]`."""
    drawn = random.integers(0, count, (resamples, count)) + np.arange(resamples)[:, None] * count
    return (
        np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
    )


def _value(
    part: npt.NDArray[np.float64] | float,
    whole: npt.NDArray[np.float64] | float,
    root: npt.NDArray[np.bool_] | bool,
) -> Values:
    ratio: Values = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) != 0)
    return np.where(root, np.sqrt(np.maximum(ratio, 0.0)), ratio)


def _limits(values: Values) -> tuple[Values, Values]:
    both: Values = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return both[0], both[1]
