"""The ranking model: how much a user will like an item, for one target or several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs
from sklearn.linear_model import LogisticRegression

from trainer.config import RankingSettings, Target
from trainer.data.examples import Events, Floats, Ints, Prepared
from trainer.data.interactions import Feature
from trainer.errors import UserError
from trainer.features import ContextFeatures, StaticFeatures
from trainer.input_pipeline import Batch, context_key
from trainer.registry import did_you_mean
from trainer.towers import IdEmbedding


@dataclass(frozen=True)
class Prior:
    """A rating model in closed form that the network starts from: `mean + item_bias[i] + <user[u], item[i]>`.

    Row 0 of each table is the unknown's. `train` holds, for every training event, what the model would say
    had it not seen that event's rating: what the network learns from then looks like what it will meet.
    """

    mean: float
    item_bias: Floats  # [items]
    user: Floats  # [users, rank]
    item: Floats  # [items, rank]
    train: Floats  # [training events]

    def predict(self, user: Ints, item: Ints, block: int = 1_000_000) -> Floats:
        """Returns predictions `[n]` of user and item rows `[n]`."""
        found = np.empty(len(user), np.float32)
        for first in range(0, len(user), block):
            u, i = user[first : first + block], item[first : first + block]
            taste = np.einsum("nd,nd->n", self.user[u], self.item[i])
            found[first : first + block] = self.mean + self.item_bias[i] + taste
        return found


class RankingNetwork(tf.keras.Model):
    """An MLP over id embeddings, features and the prior, added to where each target starts.

    The last layer starts at zero, so the untrained network is its start: the prior, for ratings. This is the
    part that is exported; it knows no loss and no optimizer.
    """

    def __init__(
        self,
        settings: RankingSettings,
        prepared: Prepared,
        prior: Prior | None,
        user_ids: IdEmbedding | None = None,
        item_ids: IdEmbedding | None = None,
    ) -> None:
        """Embeds ids by the given layers, where another model shares its own."""
        super().__init__()
        self.settings = settings
        dimension, schema = settings.embedding_dimension, prepared.schema
        self.user_ids = user_ids or IdEmbedding(prepared.users.trained, dimension, settings.l2)
        self.item_ids = item_ids or IdEmbedding(prepared.items.trained, dimension, settings.l2)
        self.user_features = self.item_features = self.context = None
        if schema.user:
            self.user_features = StaticFeatures(
                schema.user, prepared.user_features, prepared.users.trained, dimension
            )
        if schema.item:
            self.item_features = StaticFeatures(
                schema.item, prepared.item_features, prepared.items.trained, dimension
            )
        if schema.context:
            self.context = ContextFeatures(schema.context, prepared.rated_train.context, dimension)
        self.context_features = schema.context
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in settings.layers]
        self.last = tf.keras.layers.Dense(len(settings.targets), kernel_initializer="zeros")
        self.prior = None if prior is None else PriorTables(prior)
        self.starts = [Start.of(target, prepared.rated_train, prior) for target in settings.targets]

    def call(self, inputs: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns raw outputs `[batch, targets]` (logits if binary) of `user`, `item` and context columns.

        `prior` `[batch]`, where given, stands for the tables' own (leave-one-out values in training). A
        `seed` int64 `[2]` turns dropout on.
        """
        prior = None
        if self.prior is not None:
            prior = inputs["prior"] if "prior" in inputs else self.prior([inputs["user"], inputs["item"]])
        vectors = tf.concat(self._parts(inputs, prior, seed), axis=1)
        if seed is not None and self.settings.dropout:
            vectors = tf.nn.experimental.stateless_dropout(vectors, self.settings.dropout, seed)
        for layer in self.hidden:
            vectors = layer(vectors)
        outputs = self.last(vectors) * tf.constant([start.scale for start in self.starts])
        outputs += tf.constant([start.offset for start in self.starts])
        if prior is None:
            return outputs
        return outputs + prior[:, None] * tf.constant([start.slope for start in self.starts])

    def predictions(self, inputs: Batch) -> tf.Tensor:
        """Returns `[batch, targets]` in the targets' units: within the training range, or probabilities."""
        outputs = self(inputs)
        columns = [
            tf.sigmoid(outputs[:, column])
            if target.kind == "binary"
            else tf.clip_by_value(outputs[:, column], start.least, start.most)
            for column, (target, start) in enumerate(zip(self.settings.targets, self.starts, strict=True))
        ]
        return tf.stack(columns, axis=1)

    def score(self, inputs: Batch) -> tf.Tensor:
        """Returns one score `[batch]`: the targets' predictions, weighted and summed."""
        weights = tf.constant([target.weight for target in self.settings.targets])
        return tf.linalg.matvec(self.predictions(inputs), weights)

    def serve(self, user: tf.Tensor, item: tf.Tensor) -> tf.Tensor:
        """Returns scores `[n]` of user and item rows int32 `[n]` where nothing is known of the context."""
        return self.score({"user": user, "item": item} | self._no_context(tf.shape(user)))

    def encode_context(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the encoded context columns, keyed as inputs, of raw ones `[batch]`."""
        if self.context is None:
            return {}
        encoded = self.context.encode({name: raw[name] for name in self.context.towers})
        return {context_key(name): column for name, column in encoded.items()}

    def _parts(self, inputs: Batch, prior: tf.Tensor | None, seed: tf.Tensor | None) -> list[tf.Tensor]:
        user, item = inputs["user"], inputs["item"]
        ids = [self._hide(user, 0, seed, 1), self._hide(item, 0, seed, 2)]
        sides = [self.user_ids(ids[0]), self.item_ids(ids[1])]
        parts = [*sides, sides[0] * sides[1]]
        if prior is not None and self.prior is not None:
            parts.append((prior[:, None] - self.prior.mean) / self.prior.scale)
        if self.user_features is not None:
            parts.append(self.user_features(user))
        if self.item_features is not None:
            parts.append(self.item_features(item))
        if self.context is not None:
            columns = {name: inputs[context_key(name)] for name in self.context.towers}
            if seed is not None:
                nothing = self._no_context([1])
                columns = {
                    name: self._hide(column, nothing[context_key(name)], seed, 3)
                    for name, column in columns.items()
                }
            parts.append(self.context(columns))
        return parts

    def _hide(self, values: tf.Tensor, nothing: Any, seed: tf.Tensor | None, salt: int) -> tf.Tensor:
        """Returns the values, in training some of them replaced by `nothing`, to learn to do without."""
        if seed is None or not self.settings.id_dropout:
            return values
        shape = tf.concat([tf.shape(values)[:1], tf.ones(tf.rank(values) - 1, tf.int32)], axis=0)
        keep = tf.random.stateless_uniform(shape, seed + salt) >= self.settings.id_dropout
        return tf.where(keep, values, nothing)

    def _no_context(self, shape: Any) -> dict[str, tf.Tensor]:
        return self.encode_context(
            {feature.name: _absent(feature, shape) for feature in self.context_features}
        )


class RankingModel(tfrs.Model):
    """The network with its tasks: one `tfrs.tasks.Ranking` a target."""

    def __init__(self, network: RankingNetwork, seed: int) -> None:
        super().__init__()
        self.network = network
        self.settings = network.settings
        self.seed = seed
        self.tasks = {target.name: _task(target) for target in self.settings.targets}
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False, name="bad_step")

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Returns the targets' losses, weighted and summed; events without a label have no part in it."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.step]) if training else None
        outputs = self.network(inputs, seed=seed)
        loss = tf.constant(0.0)
        for column, target in enumerate(self.settings.targets):
            labels = inputs[label_key(target)]
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


class PriorTables(tf.keras.layers.Layer):
    """A prior in the graph. Its tables are variables, for a graph with large constants cannot be saved."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(trainable=False)
        self.mean = prior.mean
        self.scale = float(prior.train.std()) or 1.0
        self.item_bias, self.user, self.item = (
            tf.Variable(table, trainable=False, dtype=tf.float32, name=name)
            for name, table in (("item_bias", prior.item_bias), ("user", prior.user), ("item", prior.item))
        )

    def call(self, rows: list[tf.Tensor]) -> tf.Tensor:
        """Returns the prior `[n]` of user and item rows `[n]`."""
        user, item = rows
        product = tf.reduce_sum(tf.gather(self.user, user) * tf.gather(self.item, item), axis=1)
        return self.mean + tf.gather(self.item_bias, item) + product


@dataclass(frozen=True)
class Start:
    """Where a target's raw output begins, `offset + slope * prior`, the unit of the rest, and the range."""

    offset: float
    slope: float
    scale: float
    least: float
    most: float

    @classmethod
    def of(cls, target: Target, events: Events, prior: Prior | None) -> "Start":
        """Returns the prior for ratings, its logistic regression for binary targets, else the mean."""
        column = labels(target, events)
        there = np.isfinite(column)
        known = column[there].astype(np.float64)
        if not len(known):
            raise UserError(
                f"no training event carries the label of ranking target {target.name!r} "
                f"(column {target.column!r}); map that column, "
                "choose another target, or set ranking.enabled=false"
            )
        least, most = float(known.min()), float(known.max())
        if target.kind == "binary":
            prior_of = np.zeros(len(known)) if prior is None else prior.train[there]
            return cls(*_logistic(prior_of, known), 1.0, 0.0, 1.0)
        scale = float(known.std()) or 1.0
        if prior is not None and target.column == "rating":
            return cls(0.0, 1.0, scale, least, most)
        return cls(float(known.mean()), 0.0, scale, least, most)


def labels(target: Target, events: Events) -> Floats:
    """Returns a target's labels float32 `[events]`, NaN where an event has none."""
    known = {"rating": events.rating, "weight": events.weight} | dict(events.context)
    if target.column not in known:
        raise UserError(
            f"ranking target {target.name!r} reads column {target.column!r}"
            f"{did_you_mean(target.column, known)}"
        )
    try:
        column = np.asarray(known[target.column], dtype=np.float32)
    except ValueError:
        raise UserError(
            f"ranking target {target.name!r} reads column {target.column!r}, which holds no numbers"
        ) from None
    if target.kind == "regression":
        return column
    threshold = 0.5 if target.threshold is None else target.threshold
    return np.where(np.isfinite(column), column >= threshold, np.nan).astype(np.float32)


def label_key(target: Target) -> str:
    """Returns the input name of a target's labels."""
    return f"label_{target.name}"


def _task(target: Target) -> tfrs.tasks.Ranking:
    mean = tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE
    if target.kind == "binary":
        return tfrs.tasks.Ranking(loss=tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction=mean))
    return tfrs.tasks.Ranking(loss=tf.keras.losses.MeanSquaredError(reduction=mean))


def _logistic(inputs: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Returns offset and slope of the logistic regression of 0/1 labels on an input; 0 slope on constants."""
    share = (labels.sum() + 0.5) / (len(labels) + 1)
    if labels.min() == labels.max() or inputs.min() == inputs.max():
        return float(np.log(share / (1 - share))), 0.0
    fitted = LogisticRegression().fit(inputs[:, None], labels)
    return float(fitted.intercept_[0]), float(fitted.coef_[0, 0])


def _absent(feature: Feature, shape: Any) -> tf.Tensor:
    return tf.fill(shape, np.nan if feature.kind in ("number", "time") else "")
