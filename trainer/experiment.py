"""The story: interactions in, a trained, measured and exported recommender out. Start reading here.

Each step is one call into the module that does it. A run that was interrupted is simply run again: finished epochs are not repeated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer import blending, cascade_choice, leaderboard, registry, served, slices
from trainer import export as bundle
from trainer.cascade import Cascade
from trainer.config import Config, load
from trainer.data.examples import Lists, Prepared
from trainer.data.interactions import Dataset
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.evaluate import (
    RankingReport,
    Report,
    RetrievalReport,
    cutoff,
    evaluate_ranking,
    evaluate_retrieval,
    gate,
)
from trainer.joint import train_joint
from trainer.memory import Cost, costing
from trainer.models import RetrievalModel
from trainer.progress import Reporter
from trainer.ranking import RankingModel
from trainer.selection import filter_feature
from trainer.serving_model import ServingModel
from trainer.settings import EvaluateSettings, Part
from trainer.targets import Start
from trainer.train_ranking import evaluate_targets, train_ranking
from trainer.train_retrieval import scorer, train_retrieval
from trainer.workdir import check_workdir, claim, keep, replace

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
    costs: Mapping[str, Cost] = field(default_factory=dict)  # of the models' training, by task


def run(config: Config, workdir: Path, restart: bool = False, allow_below_baseline: bool = False) -> Metrics:
    """Trains, measures and exports one experiment in `workdir`; returns what `metrics.json` holds.

    Raises `UserError` where the settings or the data will not do, or where the model is significantly worse than a
    baseline and `allow_below_baseline` is false (then everything but the bundle is written).
    """
    check(config)
    check_workdir(workdir, config, restart)
    trained = train(config, workdir, Reporter(), restart)
    reports = measure(trained, to_beat(trained), config.evaluate.ranking_baselines)
    metrics = write_metrics(trained, reports)
    return publish(trained, reports, metrics, allow_below_baseline)


def evaluate(workdir: Path, overrides: Sequence[str], all_baselines: bool) -> Metrics:
    """Measures the run in `workdir` again, beside the preset's baselines or all of them, and writes its leaderboard."""
    trained = reopen(workdir, overrides)
    settings = trained.config.evaluate
    names, ranking_names = settings.baselines, settings.ranking_baselines
    if all_baselines:
        names, ranking_names = registry.names("baseline"), registry.names("rating_baseline")
    return write_metrics(trained, measure(trained, names, ranking_names))


def evaluate_served(
    workdir: Path, overrides: Sequence[str], bundle_path: Path | None = None, url: str | None = None
) -> Metrics:
    """Measures a bundle, or the server at `url`, on the test cases of the run in `workdir`.

    Writes `metrics-bundle.json` or `metrics-server.json`, and a row of the leaderboard.
    """
    config, reporter = recorded(workdir, overrides), Reporter()
    dataset, prepared = read(config, reporter)
    name = config.export.model_name
    model = (
        served.server(url, name)
        if url is not None
        else served.bundle(bundle_path or workdir / "bundle", name)
    )
    with reporter.step("evaluate", len(prepared.test)) as advance:
        lists = model.lists(prepared)
        report = evaluate_retrieval(
            lists, prepared.test, prepared, evaluator(config), lambda done, _: advance(done, "")
        )
    report.alarms.extend(model.alarms(prepared.test, prepared, dataset.fingerprint()))
    for line in (*report.alarms, *report.notes):
        reporter.say(line)
    row = "bundle" if url is None else "server"
    metrics = {"retrieval": {"test": report.as_dict()}}
    replace(workdir / f"metrics-{row}.json", json.dumps(metrics, indent=2) + "\n")
    leaderboard.add(workdir, row, report, objectives(config), reporter.console)
    return metrics


def export(workdir: Path, overrides: Sequence[str], allow_below_baseline: bool) -> None:
    """Publishes the run in `workdir` as a new version of its bundle."""
    trained = reopen(workdir, overrides)
    reports = measure(trained, to_beat(trained), ())
    publish(trained, reports, measured_before(workdir), allow_below_baseline)


def train(config: Config, workdir: Path, reporter: Reporter, restart: bool = False) -> Run:
    """Returns the trained models; what an earlier, interrupted call finished is loaded, not repeated.

    Nothing is written, nor thrown away with `restart`, before the data is there and fits the settings.
    """
    dataset, prepared = read(config, reporter)
    claim(workdir, config, restart)
    return _trained(config, workdir, dataset, prepared, reporter)


def _trained(config: Config, workdir: Path, dataset: Dataset, prepared: Prepared, reporter: Reporter) -> Run:
    reporter.say(
        f"{dataset.name}: {len(prepared.train):,} training events of {prepared.users.trained:,} users and "
        f"{prepared.items.trained:,} items; {len(prepared.test):,} test cases"
    )
    costs: dict[str, Cost] = {}
    retrieval, ranking = _fit(config, prepared, workdir, reporter, costs)
    if retrieval is not None:
        with costing() as last:
            blending.attach(retrieval.retriever, config, prepared, workdir, reporter)
        costs["retrieval"] = costs["retrieval"].then(last)
    costs = keep(workdir / "costs.json", costs)
    return Run(config, workdir, prepared, dataset.fingerprint(), retrieval, ranking, reporter, costs)


def read(config: Config, reporter: Reporter) -> tuple[Dataset, Prepared]:
    """Returns the data set that the settings name, as it is and ready to train on."""
    with reporter.step("prepare"):
        source = config.data.source
        dataset: Dataset = registry.build("source", source.name, source.settings, "data.source").load()
        prepared = prepare(dataset, config.data)
        check_columns(config, prepared)
    return dataset, prepared


def _fit(
    config: Config, prepared: Prepared, workdir: Path, reporter: Reporter, costs: dict[str, Cost]
) -> tuple[RetrievalModel | None, RankingModel | None]:
    retrieval, ranking = None, None
    if config.train.joint:
        with costing() as costs["retrieval"]:
            both = train_joint(config, prepared, workdir, reporter)
        costs["ranking"] = costs["retrieval"]
        return both
    if config.retrieval.enabled:
        with costing() as costs["retrieval"]:
            retrieval = train_retrieval(config, prepared, workdir, reporter)
    if config.ranking.enabled:
        with costing() as costs["ranking"]:
            ranking = train_ranking(config, prepared, workdir, reporter)
    return retrieval, ranking


@dataclass(frozen=True)
class Reports:
    """The test figures of the models and of the baselines beside them, by task and name; `model` is the model."""

    retrieval: Mapping[str, RetrievalReport]
    ranking: Mapping[str, RankingReport]
    targets: Mapping[str, RankingReport]  # of the ranking model, by target
    costs: Mapping[str, Mapping[str, Cost]]


def measure(run: Run, baselines: Sequence[str], ranking_baselines: Sequence[str]) -> Reports:
    """Returns the test reports of the models and the baselines, all from the same evaluator on the same cases."""
    retrieval: dict[str, RetrievalReport] = {}
    ranking: dict[str, RankingReport] = {}
    targets: dict[str, RankingReport] = {}
    costs: dict[str, dict[str, Cost]] = {"retrieval": {}, "ranking": {}}
    costs |= {task: {"model": cost} for task, cost in run.costs.items()}
    settings, prepared = evaluator(run.config), run.prepared
    if run.retrieval is not None:
        with run.reporter.step("evaluate", len(prepared.test)) as advance:
            retrieval["model"] = evaluate_retrieval(
                scorer(run.retrieval.retriever, prepared),
                prepared.test,
                prepared,
                settings,
                lambda done, _: advance(done, ""),
            )
        _warn(run.reporter, "retrieval", retrieval["model"])
        for name in baselines:
            found, costs["retrieval"][name] = leaderboard.enter(
                "baseline",
                name,
                prepared,
                run.reporter,
                lambda fitted: evaluate_retrieval(fitted, prepared.test, prepared, settings),
            )
            retrieval |= {} if found is None else {name: found}
    if run.ranking is not None:
        target = run.ranking.settings.targets[0]
        targets = evaluate_targets(run.ranking, prepared, settings)
        ranking["model"] = targets[target.name]
        for name, report in targets.items():
            _warn(run.reporter, f"ranking of {name}", report)
        rating = target.column == "rating" and target.kind == "regression"
        for name in ranking_baselines if rating else ():
            rated, costs["ranking"][name] = leaderboard.enter(
                "rating_baseline",
                name,
                prepared,
                run.reporter,
                lambda fitted: evaluate_ranking(fitted, prepared.rated_test, prepared, settings),
            )
            ranking |= {} if rated is None else {name: rated}
    return Reports(retrieval, ranking, targets, costs)


def _warn(reporter: Reporter, task: str, report: Report) -> None:
    for line in report.alarms:
        reporter.say(f"{task}: {line}")


def to_beat(run: Run) -> tuple[str, ...]:
    """Returns the baselines that an export is measured beside: the settings', and the best that `evaluate` has found."""
    objective = run.config.train.objective
    found = measured_before(run.workdir).get("retrieval", {}).get("baselines", {})
    figures = {name: row[objective] for name, row in found.items() if objective in row}
    best = sorted(figures, key=figures.__getitem__)[-1:]
    return tuple(dict.fromkeys((*run.config.evaluate.baselines, *best)))


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
    if len(reports.targets) > 1:
        metrics["ranking"]["targets"] = {name: found.as_dict() for name, found in reports.targets.items()}
    metrics["seconds"] = {
        name.replace(" ", "_"): round(spent, 2) for name, spent in run.reporter.seconds.items()
    }
    exported = measured_before(run.workdir).get("cascade")
    metrics |= {} if exported is None else {"cascade": exported}
    replace(run.workdir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    every: dict[str, Mapping[str, Report]] = {"retrieval": reports.retrieval, "ranking": reports.ranking}
    leaderboard.write(every, reports.costs, objectives(run.config), run.workdir, run.reporter.console)
    return metrics


def measured_before(workdir: Path) -> Metrics:
    """Returns what `metrics.json` holds by now."""
    path = workdir / "metrics.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def publish(run: Run, reports: Reports, metrics: Metrics, allow_below_baseline: bool) -> Metrics:
    """Builds the index and publishes the bundle, unless the model is significantly worse than a baseline.

    Returns the metrics, and writes them, with what the cascade's stages lose and take: that is measured as they are served.
    """
    if run.retrieval is None:
        run.reporter.say("retrieval.enabled is false: there is no index, and so no bundle")
        return metrics
    rest: dict[str, Report] = {name: report for name, report in reports.retrieval.items() if name != "model"}
    objective = run.config.train.objective
    if not any(objective in report.samples for report in rest.values()):
        run.reporter.say(f"no baseline was measured in {objective}: the model is exported uncompared")
    verdict = gate(reports.retrieval["model"], rest, objective)
    if verdict and not allow_below_baseline:
        raise UserError(f"not exported: {verdict} (--allow-below-baseline exports all the same)")
    with run.reporter.step("export"):
        settings = run.config.export
        kind = registry.build("index", settings.index.name, settings.index.settings, "export.index")
        retriever, ranker = run.retrieval.retriever, run.ranking.network if run.ranking is not None else None
        cascade = Cascade(ranker, settings.cascade)
        cascade.weights = cascade_choice.choose(retriever, cascade, run.config, run.prepared, run.workdir)
        serving = ServingModel(retriever, run.prepared, histories(run), kind, cascade, settings)
        measured = cascade_choice.measure(serving, retriever, run.prepared)
        over = cascade_choice.over_budget(measured["milliseconds"], settings.cascade)
        for line in (*serving.left_out.values(), *over):
            run.reporter.say(line)
        metrics = metrics | {"cascade": measured}
        replace(run.workdir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        path = run.workdir / "bundle"
        version = bundle.export(serving, run.prepared, run.config, metrics, run.fingerprint, path, measured)
    say = run.reporter.say
    say(f"bundle: {version.parents[2]} (version {version.name})")
    say(f"next:   .venv/bin/python -m serving serve --bundle {version.parents[2]}")
    return metrics


def histories(run: Run) -> Lists:
    """Returns the histories that known users have at serving, one a user row; the unknown user has none."""
    events = run.prepared.everything if run.config.export.history == "all" else run.prepared.before_test
    return events.take((events.user > 0) & (events.item > 0)).by_user(len(run.prepared.users))


def check(config: Config) -> None:
    """Raises `UserError` about a part or a metric that does not exist, or a setting it does not take, before anything is done."""
    cutoff(config.train.objective)
    retrieval, ranking = config.retrieval, config.ranking
    parts: tuple[tuple[str, str, Part, tuple[str, ...]], ...] = (
        ("source", "data.source", config.data.source, ()),
        ("encoder", "retrieval.encoder", retrieval.encoder, ()),
        ("embedding", "retrieval.embedding", retrieval.embedding, ("users", "items", "pairs")),
        ("start", "retrieval.start", retrieval.start, ("prepared", "dimension")),
        ("negatives", "retrieval.negatives", retrieval.negatives, ("counts",)),
        ("loss", "retrieval.loss", retrieval.loss, ("labels", "scores", "items")),
        ("fusion", "retrieval.fusion", retrieval.fusion, ("dimension", "names")),
        ("index", "export.index", config.export.index, ()),
        ("ranking_network", "ranking.network", ranking.network, ("layers", "dropout")),
        ("ranking_history", "ranking.history", ranking.history, ()),
        ("ranking_heads", "ranking.heads", ranking.heads, ("targets",)),
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
    filter_feature(prepared, config.export.category)
    for target in config.ranking.targets if config.ranking.enabled else ():
        Start.of(target, prepared.rated_train, None)


def reopen(workdir: Path, overrides: Sequence[str]) -> Run:
    """Returns the run that `workdir` holds, with `overrides` of what comes after training, which are for this call alone."""
    config, reporter = recorded(workdir, overrides), Reporter()
    return _trained(config, workdir, *read(config, reporter), reporter)


def recorded(workdir: Path, overrides: Sequence[str]) -> Config:
    """Returns the settings of the run that `workdir` holds, with `overrides` of what comes after training."""
    path = workdir / "config.toml"
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no {path}")
    config = load(None, path, overrides)
    check(config)
    check_workdir(workdir, config, restart=False)
    return config


def evaluator(config: Config) -> EvaluateSettings:
    """Returns the evaluator's settings with the objective's k among the cutoffs: the gate and the leaderboard go by it."""
    settings, k = config.evaluate, cutoff(config.train.objective)
    if k is None or k in settings.cutoffs:
        return settings
    return settings.model_copy(update={"cutoffs": tuple(sorted({*settings.cutoffs, k}))})


def objectives(config: Config) -> dict[str, str]:
    """Returns the metric that orders the leaderboard, by task."""
    return {"retrieval": config.train.objective, "ranking": "rmse"}
