"""What the stages of the cascade weigh, chosen on validation; and what each costs: recall on the test cases, and time."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.blocks.rehearsal import sample
from trainer.config import Config
from trainer.data.examples import Cases, Floats, Prepared
from trainer.errors import UserError
from trainer.evaluation import metrics
from trainer.export.serving_model import ServingModel
from trainer.index.brute_force import BruteForce
from trainer.index.top import Top
from trainer.ranking.cascade import Cascade, Request, Weights, reordered, standardised_top
from trainer.retrieval.blending import refit, sure
from trainer.retrieval.inference import graph, in_blocks, ragged, scorer
from trainer.retrieval.retriever import Retriever
from trainer.settings import CascadeSettings

Stage = Callable[[Request, tf.Tensor], tf.Tensor]
GRID = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
K = 10  # the depth at which weights are chosen, and recall is told
BLOCK = 64  # cases asked at a time
REPEATS = 20  # calls behind a latency


def choose(
    retriever: Retriever, cascade: Cascade, config: Config, prepared: Prepared, workdir: Path
) -> Weights:
    """Returns the weights that the settings give, and where they say "auto", those that validation prefers.

    A weight other than 0 must lift NDCG@10 by more than two standard errors. The retriever's blocks and graph hold the validation events,
    so they are made without them meanwhile.
    """
    settings = config.export.cascade
    light, deep = settings.light_weight, settings.deep_weight
    if light not in ("auto", 0) and cascade.ranker is not None and not cascade.has_light:
        raise UserError(
            f"export.cascade.light_weight={light} needs a ranking model with a prior that its targets' score follows: "
            "ranking.enabled=true, ranking.prior other than none, or export.cascade.light_weight=auto"
        )
    cases = sample(prepared.validation, len(prepared.items))
    asked = "auto" in (light, deep) and cascade.ranker is not None and len(cases) > 0
    if cascade.ranker is None or not asked:
        given = (0.0 if weight == "auto" or cascade.ranker is None else weight for weight in (light, deep))
        return Weights(*given)
    with_validation = retriever.tower_scale, retriever.blocks
    try:
        refit(retriever, config, replace(prepared, before_test=prepared.train), workdir)
        found = Retrieved.of(retriever, prepared, cases, settings.retrieve)
    finally:
        retriever.tower_scale, retriever.blocks = with_validation
        retriever.embedding.refresh((prepared.before_test.user, prepared.before_test.item))
    if not cascade.has_light:
        light = 0.0
    elif light == "auto":
        light = found.weigh(found.scores(cascade.light, settings.retrieve))
    if light:
        found = found.reordered(found.scores(cascade.light, settings.retrieve), light)
    if deep == "auto":
        deep = found.weigh(found.scores(cascade.deep, settings.prerank))
    return Weights(float(light), float(deep))


@dataclass(frozen=True)
class Retrieved:
    """The candidates of some cases, in the order that they have by now."""

    cases: Cases
    rows: npt.NDArray[np.int32]  # [cases, candidates]
    values: Floats  # [cases, candidates], standardised

    @classmethod
    def of(cls, retriever: Retriever, prepared: Prepared, cases: Cases, width: int) -> "Retrieved":
        """Returns what the retriever finds, without the items of the histories."""
        index = BruteForce().build_index(tf.constant(in_blocks(retriever.candidates, len(prepared.items))))
        ask, found = scorer(retriever, prepared), []
        for block in _blocks(cases):
            lists = [ragged(part) for part in (block.history, block.disliked) if part is not None]
            top = index.top(tf.constant(ask.vectors(block)), tf.concat(lists, axis=1), tf.constant(width))
            found.append([column.numpy() for column in standardised_top(top, width)])
        rows, values = (np.concatenate(column) for column in zip(*found, strict=True))
        return cls(cases, rows, values)

    def scores(self, stage: Stage, width: int) -> Floats:
        """Returns what a stage says of the first `width` candidates `[cases, width]`."""
        traced = _traced(stage)
        starts = range(0, len(self.cases), BLOCK)
        return np.concatenate(
            [
                traced(*_request(block), tf.constant(self.rows[start : start + BLOCK, :width])).numpy()
                for start, block in zip(starts, _blocks(self.cases), strict=True)
            ]
        )

    def reordered(self, scores: Floats, weight: float) -> "Retrieved":
        """Returns the candidates in the order that a stage of that weight gives them."""
        top: Top = (tf.constant(self.rows), tf.constant(self.values))
        rows, values = reordered(top, tf.constant(scores), weight)
        return Retrieved(self.cases, rows.numpy(), values.numpy())

    def weigh(self, scores: Floats) -> float:
        """Returns the weight of the grid with the highest NDCG@10; 0 where none is surely above it."""
        start = best = self.ndcg()
        chosen = 0.0
        for weight in GRID[1:]:
            found = self.reordered(scores, weight).ndcg()
            if np.nanmean(found) > np.nanmean(best) and sure(found - start):
                best, chosen = found, weight
        return chosen

    def ndcg(self) -> metrics.Values:
        """Returns NDCG@10 of each case."""
        return metrics.ndcg(self._ranks(), self.cases.positives.offsets, K)

    def recall(self, k: int) -> float:
        """Returns the mean recall among the first k."""
        return float(np.nanmean(metrics.recall(self._ranks(), self.cases.positives.offsets, k)))

    def _ranks(self) -> metrics.Ranks:
        positives = self.cases.positives
        owner = positives.owners
        hits = (self.rows[owner] == positives.items[:, None]) & (positives.items > 0)[:, None]
        return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, metrics.MISSED)


def recalls(cascade: Cascade, retriever: Retriever, prepared: Prepared) -> dict[str, Any]:
    """Returns what each stage weighs, and what is lost from one to the next on test cases, for the manifest.

    A stage's `recall` is the share of the positives among what it passes on, `lost` that of the stage before less it.
    """
    settings, weights = cascade.settings, cascade.weights
    told: dict[str, Any] = {"weights": {"light": weights.light, "deep": weights.deep}}
    cases = sample(prepared.test, len(prepared.items))
    if not len(cases):
        return told
    found = Retrieved.of(retriever, prepared, cases, settings.retrieve)
    alone = {f"recall@{K}": found.recall(K), f"ndcg@{K}": float(np.nanmean(found.ndcg()))}
    kept = [found.recall(settings.retrieve)]
    if weights.light:
        found = found.reordered(found.scores(cascade.light, settings.retrieve), weights.light)
    kept.append(found.recall(settings.prerank))
    if weights.deep:
        found = found.reordered(found.scores(cascade.deep, settings.prerank), weights.deep)
    kept.append(found.recall(K))
    stages = [("retrieve", settings.retrieve), ("light", settings.prerank), ("deep", K)]
    if cascade.ranker is None:  # the list is as it is retrieved
        stages, kept = [("retrieve", K)], kept[2:]
    told["cases"] = len(cases)
    told["retrieval_alone"] = alone
    told["cascade"] = {f"recall@{K}": kept[-1], f"ndcg@{K}": float(np.nanmean(found.ndcg()))}
    told["stages"] = {
        name: {"passes": width, "recall": recall, "lost": before - recall}
        for (name, width), recall, before in zip(stages, kept, [1.0, *kept], strict=False)
    }
    return told


def latencies(serving: ServingModel, prepared: Prepared) -> dict[str, float]:
    """Returns the median milliseconds that each stage of the served graph takes for one user."""
    cascade, stages = serving.cascade, serving.cascade.settings
    user = tf.constant(prepared.users.values[:1])
    request = serving.request(user)
    nothing, width = tf.constant([[""]]), tf.constant([min(stages.retrieve, len(prepared.items) - 1)])
    rows = serving.candidates(request, nothing, width[0])[0]
    retrieve = serving.signatures["retrieve"]
    asked = (request.user, request.history, request.context)
    calls: dict[str, Callable[[], Any]] = {
        "retrieve": lambda: retrieve(user_id=user, k=width, exclude=nothing)
    }
    if cascade.weights.light:
        calls["light"] = partial(_traced(cascade.light), *asked, rows)
    if cascade.weights.deep:
        calls["deep"] = partial(_traced(cascade.deep), *asked, rows[:, : stages.prerank])
    return {name: _median_of(call) for name, call in calls.items()}


def over_budget(milliseconds: Mapping[str, float], settings: CascadeSettings) -> list[str]:
    """Returns a line for each stage that takes longer than its budget."""
    budgets = {
        "retrieve": settings.retrieve_budget_ms,
        "light": settings.light_budget_ms,
        "deep": settings.deep_budget_ms,
    }
    return [
        f"over budget: stage {name} takes {milliseconds[name]:.2f} ms for one user; "
        f"export.cascade.{name}_budget_ms is {budget:g}"
        for name, budget in budgets.items()
        if budget is not None and milliseconds.get(name, 0.0) > budget
    ]


def _median_of(call: Callable[[], Any]) -> float:
    call()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return round(1000 * float(np.median(taken)), 3)


def _traced(stage: Stage) -> Any:
    return graph(lambda user, history, context, rows: stage(Request(user, history, context), rows))


def _blocks(cases: Cases) -> Iterator[Cases]:
    for start in range(0, len(cases), BLOCK):
        yield cases.take(np.arange(start, min(start + BLOCK, len(cases))))


def _request(cases: Cases) -> tuple[tf.Tensor, tf.RaggedTensor, dict[str, tf.Tensor]]:
    context = {name: tf.constant(column) for name, column in cases.context.items()}
    return tf.constant(cases.user), ragged(cases.history), context
