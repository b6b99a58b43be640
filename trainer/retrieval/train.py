"""Data, model and fit of the retrieval model, put together."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.blocks.factorisation import worth
from trainer.blocks.rehearsal import at_a_time
from trainer.config import Config
from trainer.data.examples import Cases, Events, Lists, Prepared
from trainer.data.opinions import time_weights
from trainer.errors import UserError
from trainer.evaluation.retrieval import measure
from trainer.evaluation.scoring import FactorScorer
from trainer.fit import FitPlan, Metrics, fit, tell_time_limit
from trainer.input_pipeline import Windows, batch_rows, steps_per_epoch, training_batches
from trainer.optimizer import prepare_fit
from trainer.progress import Reporter
from trainer.retrieval.inference import graph, scorer
from trainer.retrieval.model import RetrievalModel
from trainer.retrieval.negatives import Hard
from trainer.retrieval.sequences import Sequences, sequence_batches
from trainer.settings import TrainSettings

VALIDATION_CASES = 5_000  # at most, between epochs; the final figures use all
MINING_BLOCK = 1_024  # users at most whose hard negatives are looked for at a time


@dataclass(frozen=True)
class Ready:
    """A retrieval model, and all that its fit needs."""

    model: RetrievalModel
    steps: int  # an epoch
    batches: Callable[[int], tf.data.Dataset]
    validate: Callable[[], Metrics]
    describe_step: Callable[[int], str]


def train_retrieval(config: Config, prepared: Prepared, workdir: Path, reporter: Reporter) -> RetrievalModel:
    """Returns the towers with the weights of their best epoch on validation."""
    settings, ready = config.train, build_retrieval(config, prepared)
    first = next(iter(ready.batches(0)))
    prepare_fit(ready.model, settings.optimizer, settings.learning_rate, ready.steps, first)
    plan = retrieval_plan(settings, ready.steps)
    with reporter.step("train retrieval", settings.epochs * ready.steps) as advance:
        history = fit(
            ready.model,
            ready.batches,
            ready.validate,
            plan,
            workdir / "retrieval",
            advance,
            ready.describe_step,
        )
    tell_time_limit(plan, history, reporter)
    ready.model.retriever.embedding.refresh()
    return ready.model


def retrieval_plan(settings: TrainSettings, steps: int) -> FitPlan:
    """Returns how long the retrieval model is trained, alone or together with the ranking model."""
    patience, objective = settings.patience, settings.objective
    return FitPlan(settings.epochs, steps, patience, objective, maximise=True, minutes=settings.minutes)


def build_retrieval(config: Config, prepared: Prepared) -> Ready:
    """Returns the model, not trained, with its batches and its validation."""
    if config.retrieval.event_half_life_days is not None and not prepared.timed:
        raise UserError(
            "retrieval.event_half_life_days reads when events were, and the data has no times; leave it out"
        )
    settings = config.train
    events = first_of_pairs(weighted(prepared.train, config.retrieval.event_half_life_days), prepared)
    asked = prepared.without_context(config.ranking.outcomes)
    model = RetrievalModel(config.retrieval, replace(asked, train=events), settings.seed)
    context = model.retriever.encode_context(
        {name: tf.constant(column) for name, column in events.context.items()}
    )
    feed = (_of_sequences if model.by_sequence else _of_events)(config, prepared, events, context)
    model.retriever.history_length = feed.length
    sample = prepared.validation.at_most(VALIDATION_CASES, settings.seed)
    traced = graph(model.retriever.queries)

    def validate() -> Metrics:
        """Measures the epoch that ends, and prepares the next: mined negatives are the model's own mistakes."""
        model.retriever.embedding.refresh()
        ask = scorer(model.retriever, prepared, traced)
        if isinstance(model.sampler, Hard):
            model.sampler.mine(lambda depth: best_wrong(ask, prepared, depth))
        return {settings.objective: measure(ask, sample, prepared, settings.objective)}

    def describe_step(step: int) -> str:
        return describe_rows(events, feed.rows(step), prepared)

    return Ready(model, feed.steps, feed.batches, validate, describe_step)


@dataclass(frozen=True)
class Feed:
    """Batches of a fit, and which events each step holds."""

    length: int  # events of the longest history
    steps: int  # an epoch
    batches: Callable[[int], tf.data.Dataset]
    rows: Callable[[int], npt.NDArray[np.integer]]


def _of_events(config: Config, prepared: Prepared, events: Events, context: dict[str, tf.Tensor]) -> Feed:
    """Returns batches of single events, each with the history before it."""
    settings = config.train
    windows = Windows(events, len(prepared.users), config.data.history_length, prepared.ordered)
    size = min(settings.batch_size, len(events))
    return Feed(
        windows.length,
        steps_per_epoch(len(events), size),
        lambda first: training_batches(events, windows, context, size, settings.seed, first, settings.epochs),
        lambda step: np.asarray(batch_rows(step, len(events), size, settings.seed)),
    )


def _of_sequences(config: Config, prepared: Prepared, events: Events, context: dict[str, tf.Tensor]) -> Feed:
    """Returns batches of whole sequences, one event longer than a history: the last is only asked."""
    settings, length = config.train, config.data.history_length
    sequences = Sequences(events, len(prepared.users), length + 1, settings.batch_size, settings.seed)
    return Feed(
        min(length, sequences.length),
        sequences.steps,
        lambda first: sequence_batches(events, sequences, context, first, settings.epochs),
        lambda step: np.asarray(tf.boolean_mask(*sequences.places(tf.constant(step)))),
    )


def first_of_pairs(events: Events, prepared: Prepared) -> Events:
    """Returns the training events, repeats of a pair of user and item without weight, or left out where there is no order.

    Every answer leaves the history out, so an item of the history is nothing to learn to recommend. In order of time such
    an event weighs 0 and stays in the histories; without an order it is left out.
    """
    pairs = events.user.astype(np.int64) * len(prepared.items) + events.item
    _, first, same = np.unique(pairs, return_index=True, return_inverse=True)
    heaviest = np.zeros(len(first), np.float32)
    with np.errstate(invalid="ignore"):  # a weight that is none is found by the loss that it breaks
        np.maximum.at(heaviest, same, events.weight)
    weight = np.zeros(len(events), np.float32)
    weight[first] = heaviest  # what was bought counts as bought, though it was looked at before
    kept = replace(events, weight=weight)
    return kept if prepared.ordered else kept.take(np.sort(first))


def weighted(events: Events, half_life_days: float | None) -> Events:
    """Returns the events weighted by what they are `worth`, halved with every half-life of age; the mean stays."""
    weight = worth(events.weight)
    if half_life_days is not None:
        decay = time_weights(events.timestamp, int(events.timestamp.max()), half_life_days)
        weight = (weight * decay / decay.mean()).astype(np.float32)
    return replace(events, weight=weight)


def best_wrong(
    ask: FactorScorer, prepared: Prepared, depth: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Returns the user rows with training events, and of each the `depth` items that score highest and are not theirs.

    Where fewer are left, uniform rows stand in.
    """
    lists = prepared.train.by_user(len(prepared.users))
    users = np.flatnonzero(lists.lengths)
    users = users[users > 0]
    context = {name: column[lists.offsets[users]] for name, column in prepared.train.context.items()}
    nothing = Lists(np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))
    cases = Cases(users.astype(np.int32), lists.take(users), nothing, np.zeros(len(users), np.int64), context)
    found, rng, trained = [], np.random.default_rng(0), prepared.items.trained
    step = min(MINING_BLOCK, at_a_time(len(prepared.items)))
    for first in range(0, len(users), step):
        block = cases.take(np.arange(first, min(first + step, len(users))))
        scores = ask.scores(block)
        scores[:, 0] = -np.inf
        scores[:, trained + 1 :] = -np.inf
        scores[block.history.owners, block.history.items] = -np.inf
        rows = np.argpartition(-scores, depth, axis=1)[:, :depth]
        masked = np.isneginf(np.take_along_axis(scores, rows, axis=1))
        rows[masked] = rng.integers(1, trained + 1, masked.sum())
        found.append(rows)
    return users, np.concatenate(found)


def describe_rows(events: Events, rows: Any, prepared: Prepared) -> str:
    """Returns a line about a batch, for an error: its size, first events and extreme weights."""
    some = events.take(np.asarray(rows))
    pairs = zip(prepared.users.decode(some.user[:3]), prepared.items.decode(some.item[:3]), strict=True)
    first = ", ".join(f"user {user!r} item {item!r}" for user, item in pairs)
    return f"{len(some)} events, the first {first}, weights {some.weight.min():g} to {some.weight.max():g}"
