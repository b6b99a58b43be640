"""The ranking model: how much a user will like an item, for one target or several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.config import RankingSettings, Target
from trainer.data.examples import Events, Floats, Ints, Prepared
from trainer.errors import UserError
from trainer.features import ContextFeatures, StaticFeatures
from trainer.input_pipeline import Batch, context_key
from trainer.towers import IdEmbedding


@dataclass(frozen=True)
class Prior:
    """A rating model in closed form that the network starts from: `mean + item_bias[i] + <user[u], item[i]>`.

    Row 0 of each table is the unknown's. `train` holds the prior of every training event from a fit that had not seen it
    (out of fold): what the network learns from then looks like what it will meet.
    """

    mean: float
    item_bias: Floats  # [items]
    user: Floats  # [users, rank]
    item: Floats  # [items, rank]
    train: Floats  # [training events]

    def predict(self, user: Ints, item: Ints) -> Floats:
        """Returns predictions `[n]` of user and item rows `[n]`."""
        return self.mean + self.item_bias[item] + np.einsum("nd,nd->n", self.user[user], self.item[item])


class RankingModel(tfrs.Model):
    """An MLP over both sides' id embeddings and features, added to the prior where there is one; a task a target."""

    def __init__(self, settings: RankingSettings, prepared: Prepared, prior: Prior | None, seed: int) -> None:
        super().__init__()
        tf.keras.utils.set_random_seed(seed)
        self.settings = settings
        self.seed = seed
        dimension = settings.embedding_dimension
        self.user_ids = IdEmbedding(prepared.users.trained, dimension, settings.l2)
        self.item_ids = IdEmbedding(prepared.items.trained, dimension, settings.l2)
        schema, sides = prepared.schema, (prepared.users, prepared.items)
        raws = (prepared.user_features, prepared.item_features)
        self.features = [
            StaticFeatures(features, raw, side.trained, dimension) if features else None
            for features, raw, side in zip((schema.user, schema.item), raws, sides, strict=True)
        ]
        has_context = bool(schema.context)
        self.context = ContextFeatures(schema.context, prepared.rated_train.context, dimension) if has_context else None
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in settings.layers]
        self.outputs_layer = tf.keras.layers.Dense(len(settings.targets), kernel_initializer="zeros")
        self.tasks = {target.name: _task(target) for target in settings.targets}
        self.prior_tables = None if prior is None else _Tables(prior)
        self.offsets = [_offset(target, prepared.rated_train, prior) for target in settings.targets]
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False, name="bad_step")

    def call(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Returns raw outputs `[batch, targets]` (logits for binary targets) of `user`, `item` and context columns.

        `prior` `[batch]`, where given, stands for the tables' own (out-of-fold values in training).
        """
        user, item = inputs["user"], inputs["item"]
        sides = [self.user_ids(user), self.item_ids(item)]
        parts = [*sides, sides[0] * sides[1]]
        parts += [tower(rows) for tower, rows in zip(self.features, (user, item), strict=True) if tower is not None]
        if self.context is not None:
            parts.append(self.context({name: inputs[context_key(name)] for name in self.context.towers}))
        vectors = tf.concat(parts, axis=1)
        if training and self.settings.dropout:
            seed = tf.stack([tf.constant(self.seed, tf.int64), self.step])
            vectors = tf.nn.experimental.stateless_dropout(vectors, self.settings.dropout, seed)
        for layer in self.hidden:
            vectors = layer(vectors)
        outputs = self.outputs_layer(vectors) + tf.constant([self.offsets], tf.float32)
        return outputs + self._prior(inputs)

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Returns the targets' losses, weighted and summed; an event without a target's label has no part in it."""
        outputs = self(inputs, training=training)
        loss = tf.constant(0.0)
        for column, target in enumerate(self.settings.targets):
            labels = inputs[f"label_{target.name}"]
            there = tf.math.is_finite(labels)
            weight = inputs["weight"] * tf.cast(there, tf.float32)
            task_loss = self.tasks[target.name](
                labels=tf.where(there, labels, 0.0)[:, None],
                predictions=outputs[:, column : column + 1],
                sample_weight=weight[:, None],
                compute_metrics=False,
            )
            loss += target.weight * task_loss
        if training:
            bad = ~tf.math.is_finite(loss) & (self.bad_step < 0)
            self.bad_step.assign(tf.where(bad, self.step, self.bad_step))
            self.step.assign_add(1)
        return loss

    def predictions(self, inputs: Batch) -> tf.Tensor:
        """Returns `[batch, targets]` in the targets' own units: ratings, or probabilities for binary targets."""
        outputs = self(inputs)
        columns = [
            tf.sigmoid(outputs[:, i]) if target.kind == "binary" else outputs[:, i]
            for i, target in enumerate(self.settings.targets)
        ]
        return tf.stack(columns, axis=1)

    def encode_context(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the encoded context columns, keyed as inputs, of raw ones `[batch]`."""
        if self.context is None:
            return {}
        encoded = self.context.encode({name: raw[name] for name in self.context.towers})
        return {context_key(name): column for name, column in encoded.items()}

    def score(self, inputs: Batch) -> tf.Tensor:
        """Returns one score `[batch]`: the targets' predictions, weighted and summed."""
        weights = tf.constant([target.weight for target in self.settings.targets])
        return tf.linalg.matvec(self.predictions(inputs), weights)

    def _prior(self, inputs: Batch) -> tf.Tensor:
        if self.prior_tables is None:
            return 0.0
        prior = inputs["prior"] if "prior" in inputs else self.prior_tables(inputs["user"], inputs["item"])
        takes = tf.constant([[float(_uses_prior(target)) for target in self.settings.targets]])
        return prior[:, None] * takes


class _Tables(tf.Module):
    """A prior in the graph."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.mean = prior.mean
        self.item_bias, self.user, self.item = (
            tf.constant(table, tf.float32) for table in (prior.item_bias, prior.user, prior.item)
        )

    def __call__(self, user: tf.Tensor, item: tf.Tensor) -> tf.Tensor:
        product = tf.reduce_sum(tf.gather(self.user, user) * tf.gather(self.item, item), axis=1)
        return self.mean + tf.gather(self.item_bias, item) + product


def labels(target: Target, events: Events) -> Floats:
    """Returns a target's labels float32 `[events]`, NaN where an event has none."""
    known = {"rating": events.rating, "weight": events.weight} | dict(events.context)
    if target.column not in known:
        raise UserError(f"ranking target {target.name!r} reads column {target.column!r}; there are {', '.join(sorted(known))}")
    try:
        column = np.asarray(known[target.column], dtype=np.float32)
    except ValueError as error:
        raise UserError(f"ranking target {target.name!r} reads column {target.column!r}, which holds no numbers") from error
    if target.kind == "regression":
        return column
    threshold = 0.5 if target.threshold is None else target.threshold
    return np.where(np.isnan(column), np.nan, column >= threshold).astype(np.float32)


def _uses_prior(target: Target) -> bool:
    return target.kind == "regression" and target.column == "rating"


def _task(target: Target) -> tfrs.tasks.Ranking:
    mean = tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE
    if target.kind == "binary":
        return tfrs.tasks.Ranking(loss=tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction=mean))
    return tfrs.tasks.Ranking(loss=tf.keras.losses.MeanSquaredError(reduction=mean))


def _offset(target: Target, events: Events, prior: Prior | None) -> float:
    if prior is not None and _uses_prior(target):
        return 0.0
    column = labels(target, events)
    known = column[np.isfinite(column)]
    if not len(known):
        raise UserError(
            f"no training event carries the label of ranking target {target.name!r} (column {target.column!r}); "
            "map that column, choose another target, or set ranking.enabled=false"
        )
    mean = float(known.mean())
    if target.kind == "regression":
        return mean
    share = min(max(mean, 1e-4), 1 - 1e-4)
    return float(np.log(share / (1 - share)))
