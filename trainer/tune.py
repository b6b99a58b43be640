"""The search for settings with Keras Tuner, by default over embedding dimension and temperature.

Keras Tuner's own `Tuner` takes Keras 3 models only; subclassing `BaseTuner` is its documented way for
everything else.

Several processes, on one host or many, share a search by Keras Tuner's own protocol: the same command with
`KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`, and `KERASTUNER_TUNER_ID` set to `chief` in one and to a
name of its own in each other. The chief trains nothing: it hands out the trials, and when the last worker is
done it writes `best.toml`. A worker keeps its checkpoints in `WORKDIR-<name>`. A chief that is stopped takes
the search up again when started anew, and workers wait an hour for it; it waits in turn for a worker that
died to come back under its name.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.src import utils as tuner_files

from trainer import checks, tune_report
from trainer.config import Config, apart, load, to_toml, value_of, with_settings
from trainer.data.examples import Prepared
from trainer.errors import UserError
from trainer.evaluation.retrieval import measure
from trainer.evaluation.scoring import FactorScorer
from trainer.experiment import read
from trainer.fit import forget
from trainer.progress import Reporter
from trainer.retrieval.inference import scorer
from trainer.retrieval.train import VALIDATION_CASES, train_retrieval
from trainer.tune_report import Row, short
from trainer.workdir import CONFIG, claim, replace, same_data, write_json

# Keras Tuner writes its state in place: of what a kill or a full disk cut off, no search could go on.
tuner_files.save_json = lambda path, state: replace(Path(path), json.dumps(state))
GIVEN = "given.json"  # in the work directory: what the settings came to as they were given
FACTOR = 3  # Hyperband: each round keeps a third of the trials and trains them three times as long
SEARCHED = ("retrieval.", "train.", "data.history_length")  # the settings that a trial reads


def run(config: Config, workdir: Path) -> Path | None:
    """Searches and returns the path of `best.toml`; a search that was interrupted goes on where it stopped.

    Writes `best.toml` (the settings with the best trial's, or as they were given where no trial is better),
    `trials.md` and `trials.png` into `workdir`. A worker of a search that is shared writes none of them and
    returns None: the chief does.
    Raises `UserError` where the settings cannot be searched or no trial finished.
    """
    space = hyperparameters(config.tune.parameters)
    checks.check(config)
    _check(config)
    worker = _worker()
    home = workdir.with_name(f"{workdir.name}-{worker}") if worker else workdir
    reporter = Reporter()
    _claim(home, config)
    dataset, prepared = read(config, reporter)
    same_data(home, dataset.fingerprint())
    _check_objective(prepared, config.train.objective)
    tuner = RetrievalTuner(oracle(config, space), config, prepared, reporter, home)
    tuner.search(verbose=0)
    if worker:
        reporter.say(f"{worker} is done; the chief writes best.toml")
        return None
    return write(tuner, finished(tuner), workdir)


def write(tuner: "RetrievalTuner", rows: Sequence[Row], workdir: Path) -> Path:
    """Writes and shows what the search found; returns the path of `best.toml`."""
    config, reporter = tuner.config, tuner.reporter
    if not rows:
        messages = [trial.message for trial in tuner.oracle.trials.values() if trial.message]
        reason = messages[-1].strip().splitlines()[-1].partition(": ")[2] if messages else "there was none"
        raise UserError(f"no trial finished; the last one: {reason}")
    given, (_, settings, value) = tuner.as_given(), rows[0]
    replace(workdir / "best.toml", to_toml(with_settings(config, settings if value > given else {})))
    tune_report.write(rows, config.train.objective, tuner.prepared.items.trained, workdir, reporter.console)
    best = workdir / "best.toml"
    kept = "" if value > given else ", and best.toml keeps them"
    reporter.say(f"the settings as they were given come to {given:.4f}, the best trial to {value:.4f}{kept}")
    reporter.say(f"best:  {best}\nnext:  .venv/bin/python -m trainer train --config {best}")
    return best


def sweep(config: Config, words: Sequence[str]) -> Config:
    """Returns the settings with a search of every combination of the values in `SETTING=VALUE,VALUE,...` in place of theirs."""
    parameters = {}
    for word in words:
        name, _, values = word.partition("=")
        if not (name and values):
            raise UserError(
                f"--sweep {word} is no sweep; write it as retrieval.embedding_dimension=8,16,32,64"
            )
        parameters[name] = {"choice": [value_of(value) for value in apart(values)]}
    trials = math.prod(len(options["choice"]) for options in parameters.values())
    given = {"algorithm": "grid", "trials": trials, "parameters": parameters}
    return config.model_copy(update={"tune": config.tune.model_copy(update=given)})


class Grid(keras_tuner.Oracle):
    """Every combination, the last setting's values changing first. Keras Tuner's own grid cannot go on after a stop."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the next combination, or that there is none left."""
        del trial_id
        space = self.get_space().space
        every = itertools.product(*(setting.values for setting in space))
        values = next(itertools.islice(every, len(self.start_order), None), None)
        if values is None:
            return {"status": "STOPPED", "values": None}
        return {
            "status": "RUNNING",
            "values": {one.name: value for one, value in zip(space, values, strict=True)},
        }


class RetrievalTuner(BaseTuner):
    """A trial trains the towers with its settings; its score is the validation objective of the best epoch.

    The blocks beside the towers are fitted in seconds and choose their own settings: they take no part.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        config: Config,
        prepared: Prepared,
        reporter: Reporter,
        workdir: Path,
    ) -> None:
        self.config = config
        self.prepared = prepared
        self.reporter = reporter
        self.workdir = workdir
        super().__init__(oracle, directory=str(workdir), project_name="search")

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Returns the objective of one trial's settings."""
        del args, kwargs
        settings = chosen(trial, self.config.tune.parameters)
        shown = ", ".join(f"{name} = {short(value)}" for name, value in settings.items())
        self.reporter.say(f"trial {trial.trial_id}: {shown}")
        config = with_settings(self.config, settings)
        if "tuner/epochs" in trial.hyperparameters.values:
            config = with_settings(config, {"train.epochs": trial.hyperparameters.get("tuner/epochs")})
        home = self.workdir / "trials" / trial.trial_id
        try:
            return {config.train.objective: self._value(config, home)}
        except UserError as error:
            self.reporter.say(f"trial {trial.trial_id} failed: {error}")
            raise keras_tuner.errors.FailedTrialError(str(error)) from error

    def as_given(self) -> float:
        """Returns the objective of the settings that the search was started with, which is no trial; trained once."""
        path = self.workdir / GIVEN
        if not path.exists():
            self.reporter.say("the settings as they were given")
            write_json(path, self._value(self.config, self.workdir / "trials" / "given"))
        return float(json.loads(path.read_text(encoding="utf-8")))

    def _value(self, config: Config, home: Path) -> float:
        checks.check(config)
        model = train_retrieval(config, self.prepared, home, self.reporter)
        cases = self.prepared.validation.at_most(VALIDATION_CASES, config.train.seed)
        value = measure(scorer(model.retriever, self.prepared), cases, self.prepared, config.train.objective)
        forget(home / "retrieval")
        return float(value)


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
            raise UserError(
                f"{where} is {dict(options)}; it takes one of choice, int, float, and step or log beside them"
            )
        values = options[kinds[0]]
        if not _is_range(kinds[0], values):
            raise UserError(
                f"{where}.{kinds[0]} is {values!r}; it takes a list: the choices, or lowest and highest"
            )
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
    """Returns the search algorithm that the settings name; a trial that fails never ends the search."""
    objective = keras_tuner.Objective(config.train.objective, "max")
    common = {
        "objective": objective,
        "hyperparameters": space,
        "seed": config.train.seed,
        "max_consecutive_failed_trials": config.tune.trials + 1,
    }
    if config.tune.algorithm == "hyperband":
        made = keras_tuner.oracles.HyperbandOracle(max_epochs=config.train.epochs, factor=FACTOR, **common)
        made.max_trials = config.tune.trials  # of itself it runs as many as its brackets hold
        return made
    kind = {
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "random": keras_tuner.oracles.RandomSearchOracle,
        "grid": Grid,
    }[config.tune.algorithm]
    return kind(max_trials=config.tune.trials, **common)


def finished(tuner: RetrievalTuner) -> list[Row]:
    """Returns the finished trials, the best first."""
    trials = [trial for trial in tuner.oracle.get_best_trials(10_000) if trial.status == "COMPLETED"]
    parameters = tuner.config.tune.parameters
    return [(trial.trial_id, chosen(trial, parameters), float(trial.score)) for trial in trials]


def chosen(trial: Any, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a trial's settings by name; Keras Tuner itself keeps false and true as 0 and 1."""
    values = {name: trial.hyperparameters.get(name) for name in parameters}
    truths = {name for name, options in parameters.items() if isinstance(next(_values(options)), bool)}
    return {name: bool(value) if name in truths else value for name, value in values.items()}


def _worker() -> str | None:
    """Returns this process's name where it is a worker of a shared search; None for its chief, and alone."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return None
    for name in ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        if not os.environ.get(name):
            raise UserError(f"KERASTUNER_ORACLE_IP is set and {name} is not: a shared search needs both")
    name = os.environ["KERASTUNER_TUNER_ID"]
    return None if "chief" in name else name


def _claim(workdir: Path, config: Config) -> None:
    """Makes `workdir` this search's; raises `UserError` where it holds another one."""
    recorded = workdir / CONFIG
    if recorded.exists():
        earlier = load(None, recorded).tune
        for name in ("algorithm", "parameters"):
            if getattr(earlier, name) != getattr(config.tune, name):
                raise UserError(
                    f"{workdir} holds another search (tune.{name} differs): give another --workdir"
                )
    claim(workdir, config, restart=False)


def _check(config: Config) -> None:
    """Raises `UserError` about a setting that cannot be searched, or an end of its range that will not do."""
    if not config.retrieval.enabled:
        raise UserError("tune maximises a retrieval metric, and retrieval.enabled is false")
    if not config.tune.parameters:
        raise UserError("tune.parameters is empty: name at least one setting and its range")
    for name, options in config.tune.parameters.items():
        if not name.startswith(SEARCHED):
            raise UserError(
                f"tune.parameters.{name!r} cannot be searched; what trials train on is {', '.join(SEARCHED)}"
            )
        for value in _values(options):
            checks.check(with_settings(config, {name: value}))


def _check_objective(prepared: Prepared, objective: str) -> None:
    """Raises `UserError` where the objective is none, or cannot be measured."""
    if not len(prepared.validation):
        raise UserError(
            "the validation part has no cases to tune on; give data.split another method or a larger fraction"
        )
    nothing = np.zeros((len(prepared.items), 1), np.float32)
    zeros = FactorScorer(lambda cases: np.zeros((len(cases), 1), np.float32), nothing)
    measure(zeros, prepared.validation.take(np.arange(1)), prepared, objective)


def _values(options: Mapping[str, Any]) -> Iterator[Any]:
    for kind in ("choice", "int", "float"):
        yield from options.get(kind, ())


def _is_range(kind: str, values: Any) -> bool:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return False
    if kind == "choice":
        return True
    wrong = [
        v for v in values if isinstance(v, bool) or not isinstance(v, int if kind == "int" else int | float)
    ]
    return len(values) == 2 and not wrong and values[0] < values[1]
