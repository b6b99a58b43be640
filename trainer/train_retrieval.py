"""Data, model and fit of the retrieval model, put together; and the trained model as something to evaluate."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.examples import Cases, Events, Floats, Lists, Prepared
from trainer.evaluate import FactorScorer, measure
from trainer.fit import FitPlan, Metrics, fit, optimizer
from trainer.input_pipeline import Windows, batch_rows, steps_per_epoch, training_batches
from trainer.models import RetrievalModel, Retriever
from trainer.progress import Reporter

VALIDATION_CASES = 5_000  # at most, between epochs; the final figures use all


def train_retrieval(config: Config, prepared: Prepared, workdir: Path, reporter: Reporter) -> RetrievalModel:
    """Returns the towers with the weights of their best epoch on validation."""
    settings, events = config.train, prepared.train
    model = RetrievalModel(config.retrieval, prepared, settings.seed)
    windows = Windows(events, len(prepared.users), config.data.history_length, prepared.ordered)
    model.retriever.history_length = windows.length
    context = model.retriever.encode_context(
        {name: tf.constant(column) for name, column in events.context.items()}
    )
    batch_size = min(settings.batch_size, len(events))
    steps = steps_per_epoch(len(events), batch_size)
    model.compile(optimizer=optimizer(settings.optimizer, settings.learning_rate))
    sample = validation_sample(prepared, settings.seed)

    def batches(first: int) -> tf.data.Dataset:
        return training_batches(events, windows, context, batch_size, settings.seed, first, settings.epochs)

    traced = tf.function(model.retriever.queries, reduce_retracing=True)

    def validate() -> Metrics:
        value = measure(scorer(model.retriever, prepared, traced), sample, prepared, settings.objective)
        return {settings.objective: value}

    def describe_step(step: int) -> str:
        rows = batch_rows(step, len(events), batch_size, settings.seed).numpy()
        return describe_rows(events, rows, prepared)

    plan = FitPlan(settings.epochs, steps, settings.patience, settings.objective, maximise=True)
    model.compute_loss(next(iter(batches(0))))  # builds the variables
    with reporter.step("train retrieval", settings.epochs * steps) as advance:
        fit(model, batches, validate, plan, workdir / "retrieval", advance, describe_step)
    return model


def validation_sample(prepared: Prepared, seed: int) -> Cases:
    """Returns the validation cases, or a fixed sample of them where there are very many."""
    cases = prepared.validation
    if len(cases) <= VALIDATION_CASES:
        return cases
    return cases.take(
        np.sort(np.random.default_rng(seed).choice(len(cases), VALIDATION_CASES, replace=False))
    )


def scorer(retriever: Retriever, prepared: Prepared, traced: Any = None) -> FactorScorer:
    """Returns the model for the evaluator; `traced` is `retriever.queries` as a graph, where the caller keeps one."""
    candidates = in_blocks(retriever.candidates, len(prepared.items))
    ask = traced or tf.function(retriever.queries, reduce_retracing=True)

    def queries(cases: Cases) -> Floats:
        context = retriever.encode_context(
            {name: tf.constant(column) for name, column in cases.context.items()}
        )
        return np.asarray(ask(tf.constant(cases.user), ragged(cases.history), context))

    return FactorScorer(queries, candidates)


def in_blocks(embed: Any, rows: int, block: int = 65_536) -> Floats:
    """Returns the vectors `[rows, dimension]` of all rows, computed block by block."""
    starts = range(0, rows, block)
    return np.concatenate([np.asarray(embed(tf.range(start, min(start + block, rows)))) for start in starts])


def ragged(lists: Lists) -> tf.RaggedTensor:
    """Returns lists of item rows as a ragged tensor, the unknown left out."""
    whole = tf.RaggedTensor.from_row_splits(
        tf.constant(lists.items), tf.constant(lists.offsets), validate=False
    )
    return tf.ragged.boolean_mask(whole, whole > 0)


def describe_rows(events: Events, rows: Any, prepared: Prepared) -> str:
    """Returns a line about a batch, for an error: its size, first events and extreme weights."""
    some = events.take(np.asarray(rows))
    pairs = zip(prepared.users.decode(some.user[:3]), prepared.items.decode(some.item[:3]), strict=True)
    first = ", ".join(f"user {user!r} item {item!r}" for user, item in pairs)
    return f"{len(some)} events, the first {first}, weights {some.weight.min():g} to {some.weight.max():g}"
