"""Several presets on the same data and seeds, in one table: which is better, by how much, and how sure that is.

Each preset and seed is a run of its own below the work directory. What is finished is read back, so that an
interrupted comparison goes on where it stopped. Intervals draw users as a whole, with their cases of all seeds: the
deviation over seeds tells how much training varies, the interval how much the figure would with other users.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer import checks, compare_report, experiment, measurement
from trainer.compare_figures import Figures, Row, figures_of, load_figures, row_of, save_figures
from trainer.config import Config, load, with_settings
from trainer.data.prepare import load_dataset
from trainer.errors import UserError
from trainer.progress import Reporter
from trainer.workdir import check_workdir, same_data

CUTOFFS = (5, 10, 20)  # those of the metrics, beside the presets' own
OWN = ("history_length",)  # settings of the data in which presets may differ: the test cases stay the same
FIGURES = "figures.npz"


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
    rows = [row_of(name, figures, others) for name, figures in found.items()]
    return rows + [row_of(name, figures, {}) | {"baseline": True} for name, figures in others.items()]


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
    rows = figures_of(trained, measurement.measure(trained, *names))
    model = rows.pop("model")
    if not beside.exists():
        save_figures(rows, beside)
    save_figures({"model": model}, home / FIGURES)
    tf.keras.backend.clear_session()
