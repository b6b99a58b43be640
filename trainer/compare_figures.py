"""What a comparison keeps of a run: samples of its metrics, written and read back, and what they come to over the seeds."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import measurement
from trainer.data.examples import Ints, Prepared
from trainer.evaluation.metrics import ascending
from trainer.evaluation.reports import Report
from trainer.evaluation.significance import RESAMPLES, Sample, intervals, paired
from trainer.ranking.targets import labels
from trainer.workdir import replace

METRICS = {
    "recall@10": "retrieval",
    "ndcg@10": "retrieval",
    "hit_rate@5": "retrieval",
    "recall@20": "retrieval",  # in compare.json only
    "rmse": "ranking",
    "log_loss": "ranking",
    "auc": "ranking",
}
OF_KIND = {"regression": ("rmse",), "binary": ("log_loss", "auc")}  # a first target's metrics, by its kind
Row = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """What one model came to with one seed: metric -> sample, and the ids of the sample's users `[n]`."""

    samples: Mapping[str, Sample]
    users: Mapping[str, npt.NDArray[np.str_]]
    seconds: float
    parameters: int = 0
    best_reachable: Mapping[str, float] = field(default_factory=dict)  # of a synthetic world


def figures_of(run: measurement.Run, reports: measurement.Reports) -> dict[str, Figures]:
    """Returns the figures of the model (`model`) and of each baseline that could be measured."""
    prepared, found = run.prepared, {}
    reported: dict[str, Mapping[str, Report]] = {"retrieval": reports.retrieval, "ranking": reports.ranking}
    asking = prepared.test.user[prepared.test.positives.lengths > 0]
    target, rated = run.config.ranking.targets[0], prepared.rated_test.user[:0]
    if reports.ranking:
        rated = prepared.rated_test.user[~np.isnan(labels(target, prepared.rated_test))]
    users = {"retrieval": _ids(asking, prepared), "ranking": _ids(rated, prepared)}
    for name in dict.fromkeys([*reports.retrieval, *reports.ranking]):
        samples = {
            metric: reported[task][name].samples[metric]
            for metric, task in METRICS.items()
            if name in reported[task] and metric in reported[task][name].values
            if task == "retrieval" or metric in OF_KIND[target.kind]
        }
        tasks = [task for task in reported if name in reported[task]]
        spent = [reports.costs[task][name].seconds for task in tasks]
        joint = name == "model" and run.config.train.joint  # one fit for both, then what each took beside it
        found[name] = Figures(
            samples,
            {metric: users[METRICS[metric]] for metric in samples},
            max(spent) if joint else sum(spent),
            _parameters(run) if name == "model" else 0,
            {metric: value for metric, value in prepared.best_reachable.items() if metric in samples},
        )
    return found


def _ids(rows: Ints, prepared: Prepared) -> npt.NDArray[np.str_]:
    """Returns the ids of user rows `[n]`; an unknown user's every case stands for itself."""
    ids = prepared.users.decode(rows)
    return np.array([f"known {name}" if name else f"unknown {place}" for place, name in enumerate(ids)])


def _parameters(run: measurement.Run) -> int:
    """Returns the number of trained weights; blocks in closed form are not among them."""
    models = [model for model in (run.retrieval, run.ranking) if model is not None]
    weights = {id(weight): weight for model in models for weight in model.trainable_variables}
    return sum(int(np.prod(weight.shape)) for weight in weights.values())


def save_figures(rows: Mapping[str, Figures], path: Path) -> None:
    """Writes figures by name, beside first and then renamed, so that a file that is there is whole."""
    arrays: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for name, figures in rows.items():
        about[name] = {"seconds": figures.seconds, "parameters": figures.parameters, "root": {}}
        about[name]["best_reachable"] = dict(figures.best_reachable)
        for metric, sample in figures.samples.items():
            about[name]["root"][metric] = sample.root
            key = f"{name} {metric}"
            arrays |= {f"{key} part": sample.part, f"{key} whole": sample.whole}
            arrays[f"{key} users"] = figures.users[metric]
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, about=json.dumps(about), **arrays)
    replace(path, packed.getvalue())


def load_figures(path: Path) -> dict[str, Figures]:
    """Returns what `save_figures` wrote."""
    found = {}
    with np.load(path) as arrays:
        for name, about in json.loads(str(arrays["about"])).items():
            samples, users = {}, {}
            for metric, root in about["root"].items():
                part, whole, users[metric] = (
                    arrays[f"{name} {metric} {kind}"] for kind in ("part", "whole", "users")
                )
                samples[metric] = Sample(part, whole, np.arange(len(part)), root)
            counts = about["seconds"], about["parameters"], about["best_reachable"]
            found[name] = Figures(samples, users, *counts)
    return found


def row_of(name: str, seeds: Sequence[Figures], baselines: Mapping[str, Sequence[Figures]]) -> Row:
    """Returns a model's row: each metric over the seeds, and its difference from the best of the baselines."""
    metrics = {}
    for metric in seeds[0].samples:
        values = [figures.samples[metric].value for figures in seeds]
        sample = _pooled(seeds, metric)
        metrics[metric] = {
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "values": values,
            "interval": intervals({metric: sample}, RESAMPLES, seed=42).get(metric),
            "against": _against(metric, sample, baselines),
            "best_reachable": seeds[0].best_reachable.get(metric),
        }
    return {
        "name": name,
        "baseline": False,
        "metrics": metrics,
        "seconds": float(np.mean([figures.seconds for figures in seeds])),
        "parameters": seeds[0].parameters,
    }


def _pooled(seeds: Sequence[Figures], metric: str) -> Sample:
    """Returns the samples of all seeds as one, in which the cases of a user belong together."""
    samples = [figures.samples[metric] for figures in seeds]
    users = np.concatenate([figures.users[metric] for figures in seeds])
    cluster = np.unique(users, return_inverse=True)[1].astype(np.int64)
    part, whole = (np.concatenate([getattr(one, field) for one in samples]) for field in ("part", "whole"))
    return Sample(part, whole, cluster, samples[0].root)


def _against(metric: str, ours: Sample, baselines: Mapping[str, Sequence[Figures]]) -> Row | None:
    """Returns the paired difference from the baseline that is best in the metric, and whether it is `better`, `worse`
    or `unsure`; None without a baseline that was measured with every seed.
    """
    pooled = {name: _pooled(seeds, metric) for name, seeds in baselines.items() if metric in seeds[0].samples}
    pooled = {name: sample for name, sample in pooled.items() if len(sample.part) == len(ours.part)}
    if not pooled:
        return None
    sign = ascending(metric)
    best = min(pooled, key=lambda name: sign * pooled[name].value)
    gap = paired(metric, ours, pooled[best])
    verdict = "unsure"
    if gap.significant:
        verdict = "better" if sign * gap.difference < 0 else "worse"
    return {
        "baseline": best,
        "difference": gap.difference,
        "interval": [gap.low, gap.high],
        "verdict": verdict,
    }
