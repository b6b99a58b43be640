"""Data, model and fit of the ranking model, put together; and the trained model as something to evaluate."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data.examples import Events, Floats, Prepared
from trainer.evaluation import metrics
from trainer.evaluation.ranking import evaluate_ranking
from trainer.evaluation.reports import RankingReport
from trainer.fit import FitPlan, Metrics, fit
from trainer.input_pipeline import Batch, batch_rows, mapped, steps_per_epoch, tensor
from trainer.optimizer import prepare_fit
from trainer.progress import Reporter
from trainer.ranking import rating_prior
from trainer.ranking.model import RankingModel, RankingNetwork
from trainer.ranking.past import Known, Past
from trainer.ranking.targets import label_key, labels
from trainer.retrieval.inference import graph
from trainer.retrieval.train import describe_rows
from trainer.settings import EvaluateSettings, Target
from trainer.towers.tower import IdEmbedding

EVALUATION_BATCH = 16_384  # events
WITH_HISTORY = 2_048  # events, where each brings a history


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
            batch = {name: tf.gather(column, rows) for name, column in self.columns.items()}
            past = self.model.past
            if past is None:
                return batch
            return batch | {"history": past.training(tf.gather(past.place, rows), batch["user"])}

        numbers = tf.data.Dataset.range(first, end)
        return mapped(numbers, cut)


def train_ranking(config: Config, prepared: Prepared, workdir: Path, reporter: Reporter) -> RankingModel:
    """Returns the ranking model with the weights of its best epoch on validation, the start included."""
    settings = config.ranking
    ready = build_ranking(config, prepared, reporter)
    model, steps = ready.model, ready.steps

    def batches(epoch: int) -> tf.data.Dataset:
        return ready.batches(epoch * steps, settings.epochs * steps)

    def describe_step(step: int) -> str:
        return describe_rows(ready.events, ready.rows(step).numpy(), prepared)

    prepare_fit(model, "adagrad", settings.learning_rate, steps, next(iter(batches(0))))
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
    prior = None if settings.prior == "none" else rating_prior.fit(prepared, settings, events, reporter)
    tf.keras.utils.set_random_seed(config.train.seed)
    network = RankingNetwork(settings, prepared, prior, user_ids, item_ids)
    columns = _columns(network, events)
    if prior is not None:
        columns["prior"] = tf.constant(prior.train)
    past = None
    if network.history is not None:
        past = Past(prepared, config.data.history_length)
        network.history_length = past.before_test.windows.length
    model = RankingModel(network, config.train.seed, past)
    return RankingFit(model, columns, events, min(settings.batch_size, len(events)))


def validator(model: RankingModel, events: Events) -> Callable[[], Metrics]:
    """Returns a function that measures `loss` on validation events, NaN where none carries a label, and each target.

    A target's metrics are `rmse_<name>`, or `auc_<name>` and `log_loss_<name>`, of the events that carry its
    label; without one there are none.
    """
    past = None if model.past is None else model.past.before_validation
    columns = _columns(model.network, events)
    actual = [labels(target, events) for target in model.settings.targets]

    def both(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        return model.sums(batch, model.network(batch)), model.network.predictions(batch)

    ask = graph(both)

    def validate() -> Metrics:
        sums, found = [tf.zeros([len(actual), 2])], [np.zeros((0, len(actual)), np.float32)]
        for batch in _in_batches(columns, past):
            part, predictions = ask(batch)
            sums.append(part)
            found.append(predictions.numpy())
        labelled = bool((tf.add_n(sums)[:, 1] > 0).numpy().any())
        measured = {"loss": float(model.mixed(sums)) if labelled else float("nan")}
        for target, predicted, known in zip(
            model.settings.targets, np.concatenate(found).T, actual, strict=True
        ):
            measured |= _measured(target, predicted, known)
        return measured

    return validate


def predict(model: RankingModel, events: Events) -> Floats:
    """Returns predictions `[events, targets]`: ratings within the training range, or probabilities.

    Histories, where the model reads any, are what is known of the users when the test begins.
    """
    ask = graph(model.network.predictions)
    past = None if model.past is None else model.past.before_test
    parts = [ask(batch).numpy() for batch in _in_batches(_columns(model.network, events), past)]
    return np.concatenate(parts) if parts else np.zeros((0, len(model.settings.targets)), np.float32)


def evaluate_targets(
    model: RankingModel, prepared: Prepared, settings: EvaluateSettings
) -> dict[str, RankingReport]:
    """Returns the test report of each target by name, the first first."""
    events = prepared.rated_test
    columns = zip(model.settings.targets, predict(model, events).T, strict=True)
    return {
        target.name: evaluate_ranking(
            predicted, events, prepared, settings, labels(target, events), target.kind == "binary"
        )
        for target, predicted in columns
    }


def _measured(target: Target, predicted: Floats, actual: Floats) -> Metrics:
    there = np.isfinite(actual)
    if not there.any():
        return {}
    predicted, actual = predicted[there], actual[there]
    if target.kind == "regression":
        return {f"rmse_{target.name}": float(np.sqrt(metrics.squared_error(predicted, actual).mean()))}
    area = metrics.auc_parts(predicted, actual > 0)[actual > 0].mean() if 0 < actual.mean() < 1 else np.nan
    log_loss = metrics.log_loss(predicted, actual).mean()
    return {f"auc_{target.name}": float(area), f"log_loss_{target.name}": float(log_loss)}


def _columns(network: RankingNetwork, events: Events) -> dict[str, tf.Tensor]:
    context = network.encode_context({name: tf.constant(column) for name, column in events.context.items()})
    columns = {"user": events.user, "item": events.item, "weight": np.abs(events.weight)}
    columns |= {label_key(target): labels(target, events) for target in network.settings.targets}
    return {name: tensor(column) for name, column in columns.items()} | context


def _in_batches(columns: Mapping[str, tf.Tensor], past: Known | None) -> Iterator[Batch]:
    size = EVALUATION_BATCH if past is None else WITH_HISTORY
    for first in range(0, len(columns["user"]), size):
        batch = {name: column[first : first + size] for name, column in columns.items()}
        yield batch if past is None else batch | {"history": past(batch["user"])}
