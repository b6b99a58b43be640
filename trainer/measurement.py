"""What a run trained, measured beside its baselines on the same cases, and written into its work directory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.baselines.entry import enter_all
from trainer.config import Config
from trainer.data.examples import Prepared
from trainer.evaluation import leaderboard
from trainer.evaluation.alarms import context_of_items
from trainer.evaluation.ranking import Predictor, evaluate_ranking
from trainer.evaluation.reports import RankingReport, Report, RetrievalReport
from trainer.evaluation.retrieval import cutoff, evaluate_retrieval
from trainer.evaluation.scoring import Scorer
from trainer.memory import Cost
from trainer.progress import Reporter
from trainer.ranking.model import RankingModel
from trainer.ranking.targets import as_ratings
from trainer.ranking.train import evaluate_targets
from trainer.retrieval.inference import scorer
from trainer.retrieval.model import RetrievalModel
from trainer.retrieval.retriever import Retriever
from trainer.settings import EvaluateSettings, Target
from trainer.workdir import write_json

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


@dataclass(frozen=True)
class Reports:
    """The test figures of the models and of the baselines beside them, by task and name; `model` is the model."""

    retrieval: Mapping[str, RetrievalReport]
    ranking: Mapping[str, RankingReport]
    targets: Mapping[str, RankingReport]  # of the ranking model, by target
    costs: Mapping[str, Mapping[str, Cost]]


def measure(run: Run, baselines: Sequence[str], ranking_baselines: Sequence[str]) -> Reports:
    """Returns the test reports of the models and the baselines, all from the same evaluator on the same cases."""
    settings, prepared, reporter = evaluator(run.config), run.prepared, run.reporter
    retrieval: dict[str, RetrievalReport] = {}
    ranking: dict[str, RankingReport] = {}
    targets: dict[str, RankingReport] = {}
    costs: dict[str, dict[str, Cost]] = {"retrieval": {}, "ranking": {}}
    costs |= {task: {"model": cost} for task, cost in run.costs.items()}
    if run.retrieval is not None:
        retrieval["model"] = _of_retriever(run.retrieval.retriever, run, settings)

        def beside(fitted: Scorer) -> RetrievalReport:
            return evaluate_retrieval(fitted, prepared.test, prepared, settings)

        found, spent = enter_all("baseline", baselines, prepared, reporter, beside)
        retrieval, costs["retrieval"] = retrieval | found, costs["retrieval"] | spent
    if run.ranking is not None:
        target = run.ranking.settings.targets[0]
        targets = evaluate_targets(run.ranking, prepared, settings)
        for name, report in targets.items():
            _warn(reporter, f"ranking of {name}", report.alarms)
        labelled = as_ratings(prepared, target)

        def beside_it(fitted: Predictor) -> RankingReport:
            return beside_ranking(fitted, target, labelled, settings)

        rated, spent = enter_all("rating_baseline", ranking_baselines, labelled, reporter, beside_it)
        ranking, costs["ranking"] = {"model": targets[target.name]} | rated, costs["ranking"] | spent
    return Reports(retrieval, ranking, targets, costs)


def _of_retriever(retriever: Retriever, run: Run, settings: EvaluateSettings) -> RetrievalReport:
    """Returns the test report of the retrieval model, with what there is to say about its features; tells the alarms."""
    prepared, outcomes = run.prepared, run.config.ranking.outcomes
    with run.reporter.step("evaluate", len(prepared.test)) as advance:
        report = evaluate_retrieval(
            scorer(retriever, prepared), prepared.test, prepared, settings, lambda done, _: advance(done, "")
        )
    report.alarms.extend(context_of_items(prepared, outcomes))
    unheard = retriever.unheard(prepared.without_context(outcomes))
    report.notes.extend(unheard)
    _warn(run.reporter, "retrieval", [*report.alarms, *unheard])
    return report


def beside_ranking(
    fitted: Predictor, target: Target, labelled: Prepared, settings: EvaluateSettings
) -> RankingReport:
    """Returns the test report of a baseline that has learned a target's labels as ratings.

    What it says of a binary target becomes a chance: at least a tenth of the share of 1 in training, and of the share of
    0 too, for a sum of biases may leave 0 to 1.
    """
    events, binary = labelled.rated_test, target.kind == "binary"
    predicted = fitted.predict(events)
    if binary:
        share = float(np.nanmean(labelled.rated_train.rating))
        predicted = np.clip(predicted, 0.1 * share, 1 - 0.1 * (1 - share))
    return evaluate_ranking(predicted, events, labelled, settings, binary=binary)


def _warn(reporter: Reporter, task: str, lines: Sequence[str]) -> None:
    for line in lines:
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
    before = measured_before(run.workdir)
    spent = {name.replace(" ", "_"): round(seconds, 2) for name, seconds in run.reporter.seconds.items()}
    metrics["seconds"] = spent | before.get("seconds", {})  # later calls load what the first one trained
    exported = before.get("cascade")
    metrics |= {} if exported is None else {"cascade": exported}
    write_json(run.workdir / "metrics.json", metrics)
    every: dict[str, Mapping[str, Report]] = {"retrieval": reports.retrieval, "ranking": reports.ranking}
    leaderboard.write(every, reports.costs, objectives(run.config), run.workdir, run.reporter.console)
    return metrics


def measured_before(workdir: Path) -> Metrics:
    """Returns what `metrics.json` holds by now."""
    path = workdir / "metrics.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def evaluator(config: Config) -> EvaluateSettings:
    """Returns the evaluator's settings with the objective's k among the cutoffs: the gate and the leaderboard go by it."""
    settings, k = config.evaluate, cutoff(config.train.objective)
    if k is None or k in settings.cutoffs:
        return settings
    return settings.model_copy(update={"cutoffs": tuple(sorted({*settings.cutoffs, k}))})


def objectives(config: Config) -> dict[str, str]:
    """Returns the metric that orders the leaderboard, by task: in ranking that of the first target."""
    binary = config.ranking.targets[0].kind == "binary"
    return {"retrieval": config.train.objective, "ranking": "log_loss" if binary else "rmse"}
