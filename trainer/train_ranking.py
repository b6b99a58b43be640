"""Data, model and fit of the ranking model, put together; and the trained model as something to evaluate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer import rating_prior
from trainer.config import Config
from trainer.data.examples import Events, Floats, Prepared
from trainer.fit import FitPlan, Metrics, fit, optimizer
from trainer.input_pipeline import Batch, batch_rows, steps_per_epoch
from trainer.progress import Reporter
from trainer.ranking import RankingModel, RankingNetwork, label_key, labels
from trainer.towers import IdEmbedding
from trainer.train_retrieval import describe_rows

EVALUATION_BATCH = 16_384  # events


@dataclass(frozen=True)
class RankingFit:
    """A ranking model, its training events as tensors, and how batches are cut from them."""

    model: RankingModel
    columns: Mapping[str, tf.Tensor]
    events: Events
    batch_size: int

    @property
    def steps(self) -> int:
        """Returns the steps of an epoch."""
        return steps_per_epoch(len(self.events), self.batch_size)

    def rows(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the events of a training step int64 `[batch]`."""
        return batch_rows(step, len(self.events), self.batch_size, self.model.seed)

    def batches(self, first: int, end: int) -> tf.data.Dataset:
        """Returns the batches of the steps from `first` to before `end`."""

        def cut(step: tf.Tensor) -> Batch:
            rows = self.rows(step)
            return {name: tf.gather(column, rows) for name, column in self.columns.items()}

        numbers = tf.data.Dataset.range(first, end)
        return numbers.map(cut, num_parallel_calls=2, deterministic=True).prefetch(4)


def train_ranking(config: Config, prepared: Prepared, workdir: Path, reporter: Reporter) -> RankingModel:
    """Returns the ranking model with the weights of its best epoch on validation, the start included."""
    settings = config.ranking
    ready = build_ranking(config, prepared, reporter)
    model, steps = ready.model, ready.steps
    model.compile(optimizer=optimizer("adagrad", settings.learning_rate))

    def batches(epoch: int) -> tf.data.Dataset:
        return ready.batches(epoch * steps, settings.epochs * steps)

    def describe_step(step: int) -> str:
        return describe_rows(ready.events, ready.rows(step).numpy(), prepared)

    model.compute_loss(next(iter(batches(0))))  # builds the variables
    plan = FitPlan(settings.epochs, steps, config.train.patience, "loss", maximise=False)
    validate = validator(model, prepared.rated_validation)
    with reporter.step("train ranking", settings.epochs * steps) as advance:
        fit(model, batches, validate, plan, workdir / "ranking", advance, describe_step)
    return model


def build_ranking(
    config: Config,
    prepared: Prepared,
    reporter: Reporter,
    user_ids: IdEmbedding | None = None,
    item_ids: IdEmbedding | None = None,
) -> RankingFit:
    """Returns the untrained model with its training data; id embeddings may be another model's."""
    settings, events = config.ranking, prepared.rated_train
    prior = None
    if settings.prior != "none" and rating_prior.wanted(settings.targets, events):
        prior = rating_prior.fit(prepared, settings, events, reporter)
    tf.keras.utils.set_random_seed(config.train.seed)
    network = RankingNetwork(settings, prepared, prior, user_ids, item_ids)
    columns = _columns(network, events)
    if prior is not None:
        columns["prior"] = tf.constant(prior.train)
    model = RankingModel(network, config.train.seed)
    return RankingFit(model, columns, events, min(settings.batch_size, len(events)))


def validator(model: RankingModel, events: Events) -> Callable[[], Metrics]:
    """Returns a function that measures `loss` on events; NaN where there are none."""
    columns = _columns(model.network, events)
    measure = tf.function(model.compute_loss, reduce_retracing=True)

    def validate() -> Metrics:
        losses = [(len(batch["user"]), float(measure(batch))) for batch in _in_batches(columns)]
        return {"loss": sum(n * loss for n, loss in losses) / len(events) if losses else float("nan")}

    return validate


def predict(model: RankingModel, events: Events) -> Floats:
    """Returns predictions `[events, targets]`: ratings within the training range, or probabilities."""
    ask = tf.function(model.network.predictions, reduce_retracing=True)
    parts = [ask(batch).numpy() for batch in _in_batches(_columns(model.network, events))]
    return np.concatenate(parts) if parts else np.zeros((0, len(model.settings.targets)), np.float32)


def _columns(network: RankingNetwork, events: Events) -> dict[str, tf.Tensor]:
    context = network.encode_context({name: tf.constant(column) for name, column in events.context.items()})
    columns = {"user": events.user, "item": events.item, "weight": events.weight}
    columns |= {label_key(target): labels(target, events) for target in network.settings.targets}
    return {name: tf.constant(column) for name, column in columns.items()} | context


def _in_batches(columns: Mapping[str, tf.Tensor]) -> list[Batch]:
    starts = range(0, len(columns["user"]), EVALUATION_BATCH)
    return [
        {name: column[first : first + EVALUATION_BATCH] for name, column in columns.items()}
        for first in starts
    ]
