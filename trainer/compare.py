"""Several presets on the same data and seeds, in one table: which is better, by how much, and how sure that is.

Each preset and seed is a run of its own below the work directory. What is finished is read back, so that an
interrupted comparison goes on where it stopped. Intervals draw users as a whole, with their cases of all seeds: the
deviation over seeds tells how much training varies, the interval how much the figure would with other users.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer import checks, compare_report, experiment, measurement
from trainer.config import Config, load, with_settings
from trainer.data.examples import Ints, Prepared
from trainer.data.prepare import load_dataset
from trainer.errors import UserError
from trainer.evaluation.metrics import ascending
from trainer.evaluation.reports import Report
from trainer.evaluation.significance import RESAMPLES, Sample, intervals, paired
from trainer.progress import Reporter
from trainer.ranking.targets import labels
from trainer.workdir import check_workdir, same_data

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
CUTOFFS = (5, 10, 20)  # those of the metrics, beside the presets' own
OWN = ("history_length",)  # settings of the data in which presets may differ: the test cases stay the same
FIGURES = "figures.npz"
Row = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """What one model came to with one seed: metric -> sample, and the ids of the sample's users `[n]`."""

    samples: Mapping[str, Sample]
    users: Mapping[str, npt.NDArray[np.str_]]
    seconds: float
    parameters: int = 0
    best_reachable: Mapping[str, float] = field(default_factory=dict)  # of a synthetic world


def run(
    presets: Sequence[str], seeds: int, file: Path | None, workdir: Path, overrides: Sequence[str]
) -> list[Row]:
    """Trains presets, each below `file` and `overrides`, with `seeds` seeds; returns the rows of `compare.json`.

    A preset may bring settings of its own behind "+": `history-mean+retrieval.encoder.name=decay`.
    Writes `compare.md`, `compare.json` and `compare.png` into `workdir`, and each run below `workdir/<preset>`. Raises
    `UserError` before anything trains where presets are not on the same data, predict different things or their settings
    will not do.
    """
    twice = [name for name in presets if presets.count(name) > 1]
    if twice:
        raise UserError(f"--presets names {twice[0]!r} twice")
    reporter = Reporter()
    rows = compare({word: _config(word, file, overrides) for word in presets}, seeds, workdir, reporter)
    compare_report.write(rows, workdir, reporter.console)
    reporter.say(f"table:   {workdir / 'compare.md'}\npicture: {workdir / 'compare.png'}")
    return rows


def _config(word: str, file: Path | None, overrides: Sequence[str]) -> Config:
    """Returns the settings of a preset, with its own behind "+"."""
    name, *own = word.split("+")
    return load(name, file, [*overrides, *own])


def compare(configs: Mapping[str, Config], seeds: int, workdir: Path, reporter: Reporter) -> list[Row]:
    """Returns a row for each of `configs` by name, and after them one for each baseline; trains what is missing."""
    configs = {name: _comparable(config, configs.values()) for name, config in configs.items()}
    _check(configs, seeds)
    workdir.mkdir(parents=True, exist_ok=True)
    same_data(workdir, load_dataset(next(iter(configs.values())).data).fingerprint())
    found: dict[str, list[Figures]] = {name: [] for name in configs}
    others: dict[str, list[Figures]] = {}
    for seed in range(1, seeds + 1):
        besides: dict[str, Figures] = {}
        for name, config in configs.items():
            reporter.say(f"{name}, seed {seed} of {seeds}")
            one, home = _seeded(config, seed), workdir / name.replace("/", "_") / f"seed-{seed}"
            beside = workdir / "baselines" / f"seed-{seed}-{_digest(one)}.npz"
            _finish(one, home, beside, reporter)
            found[name].append(load_figures(home / FIGURES)["model"])
            besides |= load_figures(beside)
        for name, figures in besides.items():
            others.setdefault(name, []).append(figures)
    rows = [_row(name, figures, others) for name, figures in found.items()]
    return rows + [_row(name, figures, {}) | {"baseline": True} for name, figures in others.items()]


def _comparable(config: Config, every: Iterable[Config]) -> Config:
    """Returns the settings with the baselines of `every` preset, and with the cutoffs of the table."""
    settings = [one.evaluate for one in every]
    shared = {
        "evaluate.cutoffs": sorted({*config.evaluate.cutoffs, *CUTOFFS}),
        "evaluate.baselines": list(dict.fromkeys(name for one in settings for name in one.baselines)),
        "evaluate.ranking_baselines": list(
            dict.fromkeys(name for one in settings for name in one.ranking_baselines)
        ),
    }
    return with_settings(config, shared)


def _check(configs: Mapping[str, Config], seeds: int) -> None:
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; a comparison takes at least 1")
    first, *rest = configs
    for config in configs.values():
        checks.check(config)
    for name in rest:
        ours, theirs = _data(configs[first]), _data(configs[name])
        differ = [field for field in {**ours, **theirs} if ours.get(field) != theirs.get(field)]
        if differ:
            raise UserError(
                f"{first} and {name} are on different data (data.{differ[0]} differs): set the same for all behind "
                "--presets, e.g. data.source.name=synthetic"
            )
    ranking = [name for name, config in configs.items() if config.ranking.enabled]
    for name in ranking[1:]:
        if _predicted(configs[name]) != _predicted(configs[ranking[0]]):
            raise UserError(
                f"{ranking[0]} and {name} predict different things (their first of ranking.targets): set the same for "
                "all behind --presets, or ranking.enabled=false"
            )


def _seeded(config: Config, seed: int) -> Config:
    """Returns the settings with another seed of the training, and of the split where chance decides it."""
    return with_settings(config, {"train.seed": seed, "data.split.seed": seed})


def _data(config: Config) -> dict[str, Any]:
    """Returns the settings that decide on the test cases."""
    return config.data.model_dump(mode="json", exclude=set(OWN))


def _predicted(config: Config) -> dict[str, Any] | None:
    """Returns what the ranking figures are of, the first target's labels; None without a ranking model."""
    if not config.ranking.enabled:
        return None
    return config.ranking.targets[0].model_dump(include={"kind", "column", "threshold"})


def _digest(config: Config) -> str:
    """Returns a name for all that the baselines depend on."""
    named = (config.evaluate.baselines, config.evaluate.ranking_baselines)
    text = json.dumps([_data(config), named, config.retrieval.enabled, _predicted(config)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _finish(config: Config, home: Path, beside: Path, reporter: Reporter) -> None:
    """Trains and measures a run, and the baselines where no run on this split did; nothing where all is there."""
    check_workdir(home, config, restart=False)
    if (home / FIGURES).exists() and beside.exists():
        return
    trained = experiment.train(config, home, reporter)
    settings = config.evaluate
    names = ((), ()) if beside.exists() else (settings.baselines, settings.ranking_baselines)
    rows = _figures(trained, measurement.measure(trained, *names))
    model = rows.pop("model")
    if not beside.exists():
        save_figures(rows, beside)
    save_figures({"model": model}, home / FIGURES)
    tf.keras.backend.clear_session()


def _figures(run: measurement.Run, reports: measurement.Reports) -> dict[str, Figures]:
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
    new = path.with_suffix(".new.npz")
    np.savez_compressed(new, about=json.dumps(about), **arrays)
    new.replace(path)


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


def _row(name: str, seeds: Sequence[Figures], baselines: Mapping[str, Sequence[Figures]]) -> Row:
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
