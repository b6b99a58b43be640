"""The story: interactions in, a trained, measured and exported recommender out. Start reading here.

Each step is one call into the module that does it. A run that was interrupted is simply run again: finished epochs are not repeated.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import blending, leaderboard, registry, slices
from trainer import export as bundle
from trainer.config import Config, Part, load, to_toml
from trainer.data.examples import Lists, Prepared
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.evaluate import (
    RankingReport,
    Report,
    RetrievalReport,
    evaluate_ranking,
    evaluate_retrieval,
    gate,
)
from trainer.joint import train_joint
from trainer.models import RetrievalModel
from trainer.progress import Reporter
from trainer.ranking import RankingModel, Start, labels
from trainer.serving_model import ServingModel
from trainer.train_ranking import predict, train_ranking
from trainer.train_retrieval import scorer, train_retrieval

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A work directory and what was trained in it."""

    config: Config
    workdir: Path
    prepared: Prepared
    fingerprint: str
    retrieval: RetrievalModel | None
    ranking: RankingModel | None
    reporter: Reporter


def run(config: Config, workdir: Path, restart: bool = False, allow_below_baseline: bool = False) -> Metrics:
    """Trains, measures and exports one experiment in `workdir`; returns what `metrics.json` holds.

    Raises `UserError` where the settings or the data will not do, or where the model is significantly worse than a
    baseline and `allow_below_baseline` is false (then everything but the bundle is written).
    """
    check(config)
    check_workdir(workdir, config, restart)
    trained = train(config, workdir, Reporter(), restart)
    reports = measure(trained, config.evaluate.baselines, config.evaluate.ranking_baselines)
    metrics = write_metrics(trained, reports)
    publish(trained, reports, metrics, allow_below_baseline)
    return metrics


def evaluate(workdir: Path, overrides: Sequence[str], all_baselines: bool) -> Metrics:
    """Measures the run in `workdir` again, beside the preset's baselines or all of them, and writes its leaderboard."""
    trained = reopen(workdir, overrides)
    settings = trained.config.evaluate
    names, ranking_names = settings.baselines, settings.ranking_baselines
    if all_baselines:
        names, ranking_names = registry.names("baseline"), registry.names("rating_baseline")
    return write_metrics(trained, measure(trained, names, ranking_names))


def export(workdir: Path, overrides: Sequence[str], allow_below_baseline: bool) -> None:
    """Publishes the run in `workdir` as a new version of its bundle."""
    trained = reopen(workdir, overrides)
    reports = measure(trained, trained.config.evaluate.baselines, ())
    metrics = (
        json.loads((workdir / "metrics.json").read_text()) if (workdir / "metrics.json").exists() else {}
    )
    publish(trained, reports, metrics, allow_below_baseline)


def train(config: Config, workdir: Path, reporter: Reporter, restart: bool = False) -> Run:
    """Returns the trained models; what an earlier, interrupted call finished is loaded, not repeated.

    Nothing is written, nor thrown away with `restart`, before the data is there and fits the settings.
    """
    with reporter.step("prepare"):
        source = config.data.source
        dataset = registry.build("source", source.name, source.settings, "data.source").load()
        prepared = prepare(dataset, config.data)
        fingerprint = dataset.fingerprint()
        check_columns(config, prepared)
    claim(workdir, config, restart)
    reporter.say(
        f"{dataset.name}: {len(prepared.train):,} training events of {prepared.users.trained:,} users and "
        f"{prepared.items.trained:,} items; {len(prepared.test):,} test cases"
    )
    retrieval, ranking = _fit(config, prepared, workdir, reporter)
    if retrieval is not None:
        blending.attach(retrieval.retriever, config, prepared, workdir, reporter)
    return Run(config, workdir, prepared, fingerprint, retrieval, ranking, reporter)


def _fit(
    config: Config, prepared: Prepared, workdir: Path, reporter: Reporter
) -> tuple[RetrievalModel | None, RankingModel | None]:
    if config.train.joint:
        return train_joint(config, prepared, workdir, reporter)
    retrieval = train_retrieval(config, prepared, workdir, reporter) if config.retrieval.enabled else None
    ranking = train_ranking(config, prepared, workdir, reporter) if config.ranking.enabled else None
    return retrieval, ranking


@dataclass(frozen=True)
class Reports:
    """The test figures of the models and of the baselines beside them, by task and name; `model` is the model."""

    retrieval: Mapping[str, RetrievalReport]
    ranking: Mapping[str, RankingReport]
    costs: Mapping[str, leaderboard.Cost]


def measure(run: Run, baselines: Sequence[str], ranking_baselines: Sequence[str]) -> Reports:
    """Returns the test reports of the models and the baselines, all from the same evaluator on the same cases."""
    retrieval: dict[str, RetrievalReport] = {}
    ranking: dict[str, RankingReport] = {}
    costs: dict[str, leaderboard.Cost] = {}
    settings, prepared = run.config.evaluate, run.prepared
    if run.retrieval is not None:
        with run.reporter.step("evaluate", len(prepared.test)) as advance:
            retrieval["model"] = evaluate_retrieval(
                scorer(run.retrieval.retriever, prepared),
                prepared.test,
                prepared,
                settings,
                lambda done, _: advance(done, ""),
            )
        for name in baselines:
            found = leaderboard.fit("baseline", name, prepared, run.reporter)
            if found is not None:
                fitted, costs[name] = found
                retrieval[name] = evaluate_retrieval(fitted, prepared.test, prepared, settings)
    if run.ranking is not None:
        target = run.ranking.settings.targets[0]
        events, binary = prepared.rated_test, target.kind == "binary"
        actual = labels(target, events)
        predictions = predict(run.ranking, events)[:, 0]
        ranking["model"] = evaluate_ranking(predictions, events, prepared, settings, actual, binary)
        for name in ranking_baselines if target.column == "rating" and not binary else ():
            found = leaderboard.fit("rating_baseline", name, prepared, run.reporter)
            if found is not None:
                fitted, costs[name] = found
                ranking[name] = evaluate_ranking(fitted, events, prepared, settings)
    return Reports(retrieval, ranking, costs)


def write_metrics(run: Run, reports: Reports) -> Metrics:
    """Writes `metrics.json` and the leaderboard, shows the tables, and returns the metrics."""
    metrics: Metrics = {}
    for task, found in (("retrieval", reports.retrieval), ("ranking", reports.ranking)):
        if found:
            rows = {name: report.as_dict() for name, report in found.items()}
            metrics[task] = {"test": rows.pop("model"), "baselines": rows}
    if run.retrieval is not None:
        metrics["retrieval"]["blocks"] = run.retrieval.retriever.describe()
        metrics["retrieval"]["best_reachable"] = dict(run.prepared.best_reachable)
    metrics["seconds"] = {
        name.replace(" ", "_"): round(spent, 2) for name, spent in run.reporter.seconds.items()
    }
    replace(run.workdir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    leaderboard.write(reports.retrieval, reports.ranking, reports.costs, run.workdir, run.reporter.console)
    return metrics


def publish(run: Run, reports: Reports, metrics: Mapping[str, Any], allow_below_baseline: bool) -> None:
    """Builds the index and publishes the bundle, unless the model is significantly worse than a baseline."""
    if run.retrieval is None:
        run.reporter.say("retrieval.enabled is false: there is no index, and so no bundle")
        return
    rest: dict[str, Report] = {name: report for name, report in reports.retrieval.items() if name != "model"}
    verdict = gate(reports.retrieval["model"], rest, run.config.train.objective)
    if verdict and not allow_below_baseline:
        raise UserError(f"not exported: {verdict} (--allow-below-baseline exports all the same)")
    with run.reporter.step("export"):
        settings = run.config.export
        kind = registry.build("index", settings.index.name, settings.index.settings, "export.index")
        ranker = run.ranking.network if run.ranking is not None else None
        serving = ServingModel(
            run.retrieval.retriever, run.prepared, histories(run), kind, ranker, settings.default_k
        )
        version = bundle.export(
            serving, run.prepared, run.config, metrics, run.fingerprint, run.workdir / "bundle"
        )
    say = run.reporter.say
    say(f"bundle: {version.parents[2]} (version {version.name})")
    say(f"next:   .venv/bin/python -m serving serve --bundle {version.parents[2]}")


def histories(run: Run) -> Lists:
    """Returns the histories that known users have at serving, one a user row; the unknown user has none."""
    events = run.prepared.everything if run.config.export.history == "all" else run.prepared.before_test
    return events.take((events.user > 0) & (events.item > 0)).by_user(len(run.prepared.users))


def check(config: Config) -> None:
    """Raises `UserError` about a part that does not exist, or a setting it does not take, before anything is done."""
    retrieval = config.retrieval
    parts: tuple[tuple[str, str, Part, tuple[str, ...]], ...] = (
        ("source", "data.source", config.data.source, ()),
        ("encoder", "retrieval.encoder", retrieval.encoder, ()),
        ("negatives", "retrieval.negatives", retrieval.negatives, ("counts",)),
        ("loss", "retrieval.loss", retrieval.loss, ("labels", "scores")),
        ("index", "export.index", config.export.index, ()),
    )
    for kind, where, part, given in parts:
        registry.check_settings(registry.get(kind, part.name), part.settings, where, hidden=given)
    for name in config.evaluate.baselines:
        registry.get("baseline", name)
    for name in config.evaluate.ranking_baselines:
        registry.get("rating_baseline", name)


def check_columns(config: Config, prepared: Prepared) -> None:
    """Raises `UserError` about a column that the settings name and the data does not have, before anything trains."""
    slices.of_events(prepared.rated_train.take(np.arange(1)), prepared, config.evaluate.slices)
    for target in config.ranking.targets if config.ranking.enabled else ():
        Start.of(target, prepared.rated_train, None)


def claim(workdir: Path, config: Config, restart: bool) -> None:
    """Makes `workdir` this experiment's; raises `UserError` where it holds another run, or anything else."""
    check_workdir(workdir, config, restart)
    if restart and workdir.exists():
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    replace(workdir / "config.toml", to_toml(config))


def check_workdir(workdir: Path, config: Config, restart: bool) -> None:
    """Raises `UserError` where `workdir` holds anything but this run; `restart` forgives another one."""
    recorded = workdir / "config.toml"
    if recorded.exists():
        earlier = load(None, recorded)
        changed = [
            name
            for name in ("data", "retrieval", "ranking", "train")
            if getattr(earlier, name) != getattr(config, name)
        ]
        if changed and not restart:
            raise UserError(
                f"{workdir} holds another run ({earlier.name}; its settings differ in {', '.join(changed)}): "
                "give another --workdir, or --restart to throw that run away"
            )
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is not empty and holds no run; give another --workdir")


def reopen(workdir: Path, overrides: Sequence[str]) -> Run:
    """Returns the run that `workdir` holds, with `overrides` of what comes after training."""
    recorded = workdir / "config.toml"
    if not recorded.exists():
        raise UserError(f"{workdir} holds no run: there is no {recorded}")
    config = load(None, recorded, overrides)
    check(config)
    check_workdir(workdir, config, restart=False)
    return train(config, workdir, Reporter())


def replace(path: Path, text: str) -> None:
    """Writes a file beside and renames it, so that nobody reads half of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
