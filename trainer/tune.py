"""The search for settings with Keras Tuner, by default over embedding dimension and temperature.

Keras Tuner's own `Tuner` takes Keras 3 models only; subclassing `BaseTuner` is its documented way for everything else. The chief and
worker protocol (environment variables `KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT`) works unchanged.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
import matplotlib
import tomli_w
from keras_tuner.engine.base_tuner import BaseTuner
from rich.table import Table

from trainer import registry
from trainer.config import Config, with_settings
from trainer.data.examples import Prepared
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.experiment import claim, replace
from trainer.evaluate import measure
from trainer.progress import Reporter
from trainer.train_retrieval import scorer, train_retrieval, validation_sample

matplotlib.use("Agg")

FACTOR = 3  # Hyperband: each round keeps a third of the trials and trains them three times as long
Row = tuple[str, dict[str, Any], float]  # trial, settings by dotted name, objective


def run(config: Config, workdir: Path) -> Path:
    """Searches and returns the path of `best.toml`; a search that was interrupted goes on where it stopped.

    Writes `best.toml` (the preset's settings with the best trial's), `trials.md` and `trials.png` into `workdir`.
    """
    if not config.retrieval.enabled:
        raise UserError("tune maximises a retrieval metric, and retrieval.enabled is false")
    ranges = hyperparameters(config.tune.parameters)
    for name in config.tune.parameters:
        with_settings(config, {name: ranges.get(name)})
    reporter = Reporter()
    _claim(workdir, config)
    with reporter.step("prepare"):
        source = config.data.source
        dataset = registry.build("source", source.name, source.settings, "data.source").load()
        prepared = prepare(dataset, config.data)
    tuner = RetrievalTuner(oracle(config, ranges), config, prepared, reporter, workdir)
    tuner.search()
    rows = finished(tuner)
    if not rows:
        raise UserError("no trial finished")
    best = with_settings(config, rows[0][1])
    replace(workdir / "best.toml", tomli_w.dumps(best.model_dump(mode="json", exclude_none=True)))
    replace(workdir / "trials.md", markdown(rows, config.train.objective))
    picture(rows, config.train.objective, workdir / "trials.png")
    reporter.console.print(table(rows, config.train.objective))
    reporter.say(f"best:  {workdir / 'best.toml'}\nnext:  .venv/bin/python -m trainer train --config {workdir / 'best.toml'}")
    return workdir / "best.toml"


class RetrievalTuner(BaseTuner):  # type: ignore[misc]
    """A trial trains the towers with its settings; its score is the validation objective of the best epoch."""

    def __init__(
        self, oracle: keras_tuner.Oracle, config: Config, prepared: Prepared, reporter: Reporter, workdir: Path
    ) -> None:
        self.config = config
        self.prepared = prepared
        self.reporter = reporter
        self.workdir = workdir
        super().__init__(oracle, directory=str(workdir), project_name="search")

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Returns the objective of one trial's settings."""
        del args, kwargs
        settings = {name: trial.hyperparameters.get(name) for name in self.config.tune.parameters}
        self.reporter.say(f"trial {trial.trial_id}: " + ", ".join(f"{name} = {_short(v)}" for name, v in settings.items()))
        config = with_settings(self.config, settings)
        if "tuner/epochs" in trial.hyperparameters.values:
            config = with_settings(config, {"train.epochs": trial.hyperparameters.get("tuner/epochs")})
        model = train_retrieval(config, self.prepared, self.workdir / "trials" / trial.trial_id, self.reporter)
        cases = validation_sample(self.prepared, config.train.seed)
        value = measure(scorer(model, self.prepared), cases, self.prepared, config.train.objective)
        if math.isnan(value):
            raise UserError("the validation part has no cases to tune on; give data.split a larger validation_fraction")
        return {config.train.objective: value}


def hyperparameters(parameters: Mapping[str, Mapping[str, Any]]) -> keras_tuner.HyperParameters:
    """Returns the search space of a `[tune.parameters]` table: a setting's `choice`, `int` or `float` range.

    `{choice = [16, 32]}`, `{int = [1, 8], step = 1, log = false}` or `{float = [0.01, 1.0], log = true}`.
    """
    space = keras_tuner.HyperParameters()
    for name, options in parameters.items():
        where = f"tune.parameters.{name!r}"
        kinds = [kind for kind in ("choice", "int", "float") if kind in options]
        unknown = set(options) - {"choice", "int", "float", "step", "log"}
        if len(kinds) != 1 or unknown:
            raise UserError(f"{where} is {dict(options)}; it takes one of choice, int, float, and step or log beside them")
        values = options[kinds[0]]
        if not isinstance(values, Sequence) or isinstance(values, str) or (kinds[0] != "choice" and len(values) != 2):
            raise UserError(f"{where}.{kinds[0]} is {values!r}; it takes a list: the choices, or lowest and highest")
        sampling = "log" if options.get("log") else "linear"
        try:
            if kinds[0] == "choice":
                space.Choice(name, list(values))
            elif kinds[0] == "int":
                space.Int(name, *values, step=options.get("step"), sampling=sampling)
            else:
                space.Float(name, *values, step=options.get("step"), sampling=sampling)
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: {error}") from error
    return space


def oracle(config: Config, space: keras_tuner.HyperParameters) -> keras_tuner.Oracle:
    """Returns the search algorithm that the settings name."""
    objective = keras_tuner.Objective(config.train.objective, "max")
    common = {"objective": objective, "hyperparameters": space, "seed": config.train.seed}
    if config.tune.algorithm == "hyperband":
        return keras_tuner.oracles.HyperbandOracle(max_epochs=config.train.epochs, factor=FACTOR, **common)
    kind = {
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "random": keras_tuner.oracles.RandomSearchOracle,
    }[config.tune.algorithm]
    return kind(max_trials=config.tune.trials, **common)


def finished(tuner: RetrievalTuner) -> list[Row]:
    """Returns the finished trials, the best first."""
    trials = tuner.oracle.get_best_trials(10_000)
    names = list(tuner.config.tune.parameters)
    return [(t.trial_id, {name: t.hyperparameters.get(name) for name in names}, float(t.score)) for t in trials]


def markdown(rows: Sequence[Row], objective: str) -> str:
    """Returns the trials as a Markdown table."""
    names = list(rows[0][1])
    lines = [f"| trial | {' | '.join(names)} | {objective} |", "|---|" + "---|" * (len(names) + 1)]
    for trial, settings, value in rows:
        lines.append(f"| {trial} | {' | '.join(_short(settings[name]) for name in names)} | {value:.4f} |")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row], objective: str) -> Table:
    """Returns the best trials as a table for the terminal."""
    shown = Table(title=f"trials by validation {objective}")
    for name in ("trial", *rows[0][1], objective):
        shown.add_column(name)
    for trial, settings, value in rows[:10]:
        shown.add_row(trial, *(_short(v) for v in settings.values()), f"{value:.4f}")
    return shown


def picture(rows: Sequence[Row], objective: str, path: Path) -> None:
    """Draws the trials over the first two settings, coloured by the objective, the best one ringed."""
    from matplotlib import pyplot

    names = list(rows[0][1])[:2]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    points = [[settings[name] for _, settings, _ in rows] for name in names]
    heights = points[1] if len(points) > 1 else [value for *_, value in rows]
    colours = axes.scatter(points[0], heights, c=[value for *_, value in rows], s=90, cmap="viridis", edgecolor="0.3")
    axes.scatter(points[0][:1], heights[:1], s=260, facecolor="none", edgecolor="crimson", linewidth=2, label="best")
    for axis, values in ((axes.xaxis, points[0]), (axes.yaxis, heights)):
        if all(isinstance(v, int | float) for v in values) and min(values) > 0 and max(values) / min(values) > 5:
            axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    if all(isinstance(v, int) for v in points[0]):
        axes.set_xticks(sorted(set(points[0])), [str(v) for v in sorted(set(points[0]))], minor=False)
        axes.minorticks_off()
    axes.set(xlabel=names[0], ylabel=names[1] if len(names) > 1 else objective, title=f"{len(rows)} trials")
    axes.legend(loc="best")
    figure.colorbar(colours, label=f"validation {objective}")
    beside = path.with_suffix(".new.png")
    figure.savefig(beside, dpi=120)
    pyplot.close(figure)
    beside.replace(path)


def _claim(workdir: Path, config: Config) -> None:
    """Makes `workdir` this search's; the workers of one search share it."""
    if os.environ.get("KERASTUNER_TUNER_ID", "chief") == "chief" or not (workdir / "config.toml").exists():
        claim(workdir, config, restart=False)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
