"""Data, model and fit of the ranking model, put together; and the trained model as something to evaluate."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer import rating_prior
from trainer.config import Config
from trainer.data.examples import Events, Floats, Prepared
from trainer.fit import FitPlan, Metrics, fit, optimizer
from trainer.input_pipeline import Batch, batch_rows, steps_per_epoch
from trainer.progress import Reporter
from trainer.ranking import RankingModel, labels
from trainer.train_retrieval import describe_rows


def train_ranking(config: Config, prepared: Prepared, workdir: Path, reporter: Reporter) -> RankingModel:
    """Returns the ranking model with the weights of its best epoch on validation."""
    settings, events = config.ranking, prepared.rated_train
    prior = rating_prior.fit(prepared, config, reporter) if rating_prior.wanted(settings.targets, events) else None
    model = RankingModel(settings, prepared, prior, config.train.seed)
    columns = _columns(model, events) | ({"prior": tf.constant(prior.train)} if prior is not None else {})
    batch_size = min(settings.batch_size, len(events))
    steps = steps_per_epoch(len(events), batch_size)
    model.compile(optimizer=optimizer("adagrad", settings.learning_rate))

    def batches(first: int) -> tf.data.Dataset:
        def cut(step: tf.Tensor) -> Batch:
            rows = batch_rows(step, len(events), batch_size, config.train.seed)
            return {name: tf.gather(column, rows) for name, column in columns.items()}

        numbers = tf.data.Dataset.range(first * steps, settings.epochs * steps)
        return numbers.map(cut, num_parallel_calls=2, deterministic=True).prefetch(4)

    def validate() -> Metrics:
        return {"loss": _loss(model, prepared.rated_validation)}

    def describe_step(step: int) -> str:
        rows = batch_rows(step, len(events), batch_size, config.train.seed).numpy()
        return describe_rows(events, rows, prepared)

    plan = FitPlan(settings.epochs, steps, config.train.patience, "loss", maximise=False)
    model.compute_loss(next(iter(batches(0))))  # builds the variables
    with reporter.step("train ranking", settings.epochs * steps) as advance:
        fit(model, batches, validate, plan, workdir / "ranking", advance, describe_step)
    return model


def predict(model: RankingModel, events: Events, batch_size: int = 16_384) -> Floats:
    """Returns predictions `[events, targets]`: ratings within the training range, or probabilities."""
    columns = _columns(model, events)
    ask = tf.function(model.predictions, reduce_retracing=True)
    starts = range(0, len(events), batch_size)
    parts = [ask({n: c[start : start + batch_size] for n, c in columns.items()}).numpy() for start in starts]
    return np.concatenate(parts) if parts else np.zeros((0, len(model.settings.targets)), np.float32)


def _columns(model: RankingModel, events: Events) -> Mapping[str, tf.Tensor]:
    context = model.encode_context({name: tf.constant(column) for name, column in events.context.items()})
    columns = {"user": events.user, "item": events.item, "weight": events.weight}
    columns |= {f"label_{target.name}": labels(target, events) for target in model.settings.targets}
    return {name: tf.constant(column) for name, column in columns.items()} | context


def _loss(model: RankingModel, events: Events) -> float:
    if not len(events):
        return float("nan")
    return float(model.compute_loss(_columns(model, events)))
