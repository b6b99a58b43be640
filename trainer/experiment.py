"""The story: interactions in, a trained, measured and exported recommender out. Start reading here.

Each step is one call into the module that does it. A run that was interrupted is simply run again: finished epochs are not repeated.
"""

from collections.abc import Sequence
from pathlib import Path

from trainer import registry
from trainer.checks import check, check_columns
from trainer.config import Config, load
from trainer.data.examples import Lists, Prepared
from trainer.data.interactions import Dataset
from trainer.data.prepare import load_dataset, prepare
from trainer.data.split import in_words
from trainer.errors import UserError
from trainer.evaluation import leaderboard, served
from trainer.evaluation.reports import Report, gate
from trainer.evaluation.retrieval import evaluate_retrieval
from trainer.export import bundle, cascade_choice
from trainer.export.serving_model import ServingModel
from trainer.joint import train_joint
from trainer.measurement import (
    Metrics,
    Reports,
    Run,
    evaluator,
    measure,
    measured_before,
    objectives,
    to_beat,
    write_metrics,
)
from trainer.memory import Cost, costing
from trainer.progress import Reporter
from trainer.ranking.cascade import Cascade
from trainer.ranking.model import RankingModel
from trainer.ranking.train import train_ranking
from trainer.retrieval import blending
from trainer.retrieval.model import RetrievalModel
from trainer.retrieval.train import train_retrieval
from trainer.towers.features import unread
from trainer.workdir import BUNDLE, CONFIG, check_workdir, claim, hold, keep, same_data, write_json


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


def train(config: Config, workdir: Path, reporter: Reporter, restart: bool = False) -> Run:
    """Returns the trained models; what an earlier, interrupted call finished is loaded, not repeated.

    Nothing is written, nor thrown away with `restart`, before the data is there and fits the settings.
    """
    dataset, prepared = read(config, reporter)
    claim(workdir, config, restart)
    return _trained(config, workdir, dataset, prepared, reporter)


def read(config: Config, reporter: Reporter) -> tuple[Dataset, Prepared]:
    """Returns the data set that the settings name, as it is and ready to train on."""
    with reporter.step("prepare"):
        dataset = load_dataset(config.data)
        prepared = prepare(dataset, config.data)
        check_columns(config, prepared)
    return dataset, prepared


def _trained(config: Config, workdir: Path, dataset: Dataset, prepared: Prepared, reporter: Reporter) -> Run:
    for line in unread(prepared):
        reporter.say(line)
    reporter.say(
        f"{dataset.name}: {len(prepared.train):,} training events of {prepared.users.trained:,} users and "
        f"{prepared.items.trained:,} items; {len(prepared.test):,} test cases: "
        f"{in_words(dataset, config.data.split, prepared.ordered)}"
    )
    fingerprint = dataset.fingerprint()
    same_data(workdir, fingerprint)
    costs: dict[str, Cost] = {}
    retrieval, ranking = _fit(config, prepared, workdir, reporter, costs)
    if retrieval is not None:
        with costing() as last:
            blending.attach(retrieval.retriever, config, prepared, workdir, reporter)
        costs["retrieval"] = costs["retrieval"].then(last)
    costs = keep(workdir / "costs.json", costs)
    return Run(config, workdir, prepared, fingerprint, retrieval, ranking, reporter, costs)


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


def publish(run: Run, reports: Reports, metrics: Metrics, allow_below_baseline: bool) -> Metrics:
    """Builds the index and publishes the bundle, unless the model is significantly worse than a baseline.

    Returns the metrics, and writes them, with what the cascade's stages lose and take: that is measured as they are served.
    """
    if run.retrieval is None:
        run.reporter.say("retrieval.enabled is false: there is no index, and so no bundle")
        return metrics
    _pass_gate(run, reports, allow_below_baseline)
    with run.reporter.step("export"):
        settings = run.config.export
        kind = registry.build("index", settings.index.name, settings.index.settings, "export.index")
        retriever = run.retrieval.retriever
        cascade = Cascade(None if run.ranking is None else run.ranking.network, settings.cascade)
        cascade.weights = cascade_choice.choose(retriever, cascade, run.config, run.prepared, run.workdir)
        measured = cascade_choice.recalls(cascade, retriever, run.prepared)
        prepared = run.prepared
        if settings.history == "all":
            # All is measured by now, so what is served may learn from the test's events.
            prepared = run.prepared.with_test()
            blending.refit(retriever, run.config, prepared, run.workdir)
        serving = ServingModel(retriever, prepared, histories(prepared), kind, cascade, settings)
        measured |= {"milliseconds": cascade_choice.latencies(serving, prepared)}
        over = cascade_choice.over_budget(measured["milliseconds"], settings.cascade)
        for line in (*serving.left_out.values(), *over):
            run.reporter.say(line)
        metrics = metrics | {"cascade": measured}
        write_json(run.workdir / "metrics.json", metrics)
        path = run.workdir / BUNDLE
        version = bundle.export(serving, prepared, run.config, metrics, run.fingerprint, path)
    say = run.reporter.say
    say(f"bundle: {version.parents[2]} (version {version.name})")
    if serving.filters:
        say(f"filter: a request's categories are labels of the items' {serving.filters!r} (export.category)")
    say(f"next:   .venv/bin/python -m serving serve --bundle {version.parents[2]}")
    return metrics


def _pass_gate(run: Run, reports: Reports, allow_below_baseline: bool) -> None:
    """Raises `UserError` where a baseline retrieves significantly better; of the ranking model a line says so."""
    others: dict[str, Report] = {
        name: report for name, report in reports.retrieval.items() if name != "model"
    }
    objective = run.config.train.objective
    if not any(objective in report.samples for report in others.values()):
        run.reporter.say(f"no baseline was measured in {objective}: the model is exported uncompared")
    verdict = gate(reports.retrieval["model"], others, objective)
    if verdict and not allow_below_baseline:
        raise UserError(f"not exported: {verdict} (--allow-below-baseline exports all the same)")
    rated = {name: report for name, report in reports.ranking.items() if name != "model"}
    error = objectives(run.config)["ranking"]
    if rated and (below := gate(reports.ranking["model"], rated, error)):
        run.reporter.say(
            f"ranking: {below}; it is exported all the same, and validation weighs it in the cascade"
        )


def histories(prepared: Prepared) -> Lists:
    """Returns the histories that known users have at serving, one a user row; the unknown user has none."""
    return prepared.before_test.known().by_user(len(prepared.users))


def evaluate(workdir: Path, overrides: Sequence[str], all_baselines: bool) -> Metrics:
    """Measures the run in `workdir` again and writes its leaderboard.

    Beside it are the preset's baselines and the best that was measured before, or all there are.
    """
    trained = reopen(workdir, overrides)
    names, ranking_names = to_beat(trained), trained.config.evaluate.ranking_baselines
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
        served.server(url, name) if url is not None else served.bundle(bundle_path or workdir / BUNDLE, name)
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
    write_json(workdir / f"metrics-{row}.json", metrics)
    leaderboard.add(workdir, row, report, objectives(config), reporter.console)
    return metrics


def export(workdir: Path, overrides: Sequence[str], allow_below_baseline: bool) -> None:
    """Publishes the run in `workdir` as a new version of its bundle."""
    trained = reopen(workdir, overrides)
    reports = measure(trained, to_beat(trained), ())
    metrics = measured_before(workdir) or write_metrics(trained, reports)
    publish(trained, reports, metrics, allow_below_baseline)


def reopen(workdir: Path, overrides: Sequence[str]) -> Run:
    """Returns the run that `workdir` holds, with `overrides` of what comes after training, which are for this call alone."""
    config, reporter = recorded(workdir, overrides), Reporter()
    hold(workdir)
    if not (workdir / "metrics.json").exists():
        reporter.say(f"{workdir} was not trained to its end: that goes on first")
    return _trained(config, workdir, *read(config, reporter), reporter)


def recorded(workdir: Path, overrides: Sequence[str]) -> Config:
    """Returns the settings of the run that `workdir` holds, with `overrides` of what comes after training."""
    path = workdir / CONFIG
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no {path}")
    config = load(None, path, overrides)
    check(config)
    check_workdir(workdir, config, restart=False)
    return config
