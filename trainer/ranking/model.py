"""The ranking model: how much a user will like an item, for one target or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.data.examples import Floats, Ints, Prepared
from trainer.fitted import FittedModel
from trainer.input_pipeline import Batch, context_key
from trainer.ranking.past import Past
from trainer.ranking.targets import Start, label_key
from trainer.registry import build
from trainer.settings import Part, RankingSettings, Target
from trainer.towers.features import ContextFeatures, StaticFeatures, missing, shared_layers, within
from trainer.towers.tower import IdEmbedding


@dataclass(frozen=True)
class Prior:
    """A model in closed form that the network starts from: `mean + item_bias[i] + <user[u], item[i]>`.

    Row 0 of each table is the unknown's. `train` holds, for every training event, what the model would say
    had it not seen that event's rating or label: what the network learns from then looks like what it will meet.
    `column` is what it predicts, in its unit; None where that is the label 0 or 1 of a binary target.
    """

    mean: float
    item_bias: Floats  # [items]
    user: Floats  # [users, rank]
    item: Floats  # [items, rank]
    train: Floats  # [training events]
    column: str | None = "rating"

    def predict(self, user: Ints, item: Ints, block: int = 1_000_000) -> Floats:
        """Returns predictions `[n]` of user and item rows `[n]`."""
        found = np.empty(len(user), np.float32)
        for first in range(0, len(user), block):
            u, i = user[first : first + block], item[first : first + block]
            taste = np.einsum("nd,nd->n", self.user[u], self.item[i])
            found[first : first + block] = self.mean + self.item_bias[i] + taste
        return found


class RankingNetwork(tf.keras.Model):
    """A network over id embeddings, features, the prior and the history, added to where each target starts.

    Its heads start at zero, so the untrained network is its start: the prior, where it is of the target. This is the part
    that is exported; it knows no loss and no optimizer. Of a history it reads the last `history_length` events.
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
        self.history_length = 1
        prepared = prepared.without_context(settings.outcomes)
        dimension, schema = settings.embedding_dimension, prepared.schema
        self.user_ids = user_ids or IdEmbedding(prepared.users.trained, dimension, settings.l2)
        self.item_ids = item_ids or IdEmbedding(prepared.items.trained, dimension, settings.l2)
        self.user_features = self.item_features = self.context = None
        shared = shared_layers(prepared, dimension)
        if schema.user:
            self.user_features = StaticFeatures(
                schema.user, prepared.user_features, prepared.users.trained, dimension, shared
            )
        if schema.item:
            self.item_features = StaticFeatures(
                schema.item, prepared.item_features, prepared.items.trained, dimension, shared
            )
        if schema.context:
            self.context = ContextFeatures(schema.context, prepared.rated_train.context, dimension, shared)
        given = {"layers": settings.layers, "dropout": settings.dropout}
        self.network = _part("network", settings.network, **given)
        self.heads = _part("heads", settings.heads, targets=len(settings.targets))
        self.history = _part("history", settings.history)
        self.prior = None if prior is None else PriorTables(prior)
        started, column = (None, None) if prior is None else (prior.train, prior.column)
        self.starts = [Start.of(target, prepared.rated_train, started, column) for target in settings.targets]

    def call(self, inputs: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns raw outputs `[batch, targets]` (logits if binary) of `user`, `item` and context columns.

        `history` int32 `[batch, length]`, oldest first and padded right with 0, is needed where histories are
        read. `prior` `[batch]`, where given, stands for the tables' own (leave-one-out values in training). A
        `seed` int64 `[2]` turns dropout on.
        """
        prior = None
        if self.prior is not None:
            prior = inputs["prior"] if "prior" in inputs else self.prior([inputs["user"], inputs["item"]])
        vectors = self.network(self._parts(inputs, prior, seed), seed=seed)
        outputs = self.heads(vectors) * tf.constant([start.scale for start in self.starts])
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
        """Returns one score `[batch]`: the targets' predictions times their `score_weight`, summed."""
        weights = tf.constant([target.score_weight for target in self.settings.targets])
        return tf.linalg.matvec(self.predictions(inputs), weights)

    def serve(
        self,
        user: tf.Tensor,
        item: tf.Tensor,
        history: tf.RaggedTensor | tf.Tensor | None = None,
        context: Mapping[str, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Returns scores `[n]` of user and item rows int32 `[n]`.

        `history`: what each user did before, item rows int32, oldest first, ragged `[n, None]` or padded
        `[n, length]` with 0 anywhere. `context`: raw columns `[n]` by name. What is not given is taken for
        missing.
        """
        inputs = {"user": user, "item": item} | self._raw_context(context or {}, tf.shape(user))
        if self.history is not None:
            inputs["history"] = self._latest(tf.zeros_like(user)[:, None] if history is None else history)
        return self.score(inputs)

    def encode_context(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the encoded context columns, keyed as inputs, of raw ones `[batch]`."""
        if self.context is None:
            return {}
        encoded = self.context.encode({name: raw[name] for name in self.context.towers})
        return {context_key(name): column for name, column in encoded.items()}

    def _parts(self, inputs: Batch, prior: tf.Tensor | None, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        user, item = inputs["user"], inputs["item"]
        parts = {
            "user": self.user_ids(self._hide(user, 0, seed, 1)),
            "item": self.item_ids(self._hide(item, 0, seed, 2)),
        }
        if prior is not None and self.prior is not None:
            parts["prior"] = (prior[:, None] - self.prior.mean) / self.prior.scale
        if self.user_features is not None:
            parts |= self._features("user_features", self.user_features, user)
        if self.item_features is not None:
            parts |= self._features("item_features", self.item_features, item)
        if self.context is not None:
            columns = {name: inputs[context_key(name)] for name in self.context.towers}
            if seed is not None:
                nothing = self._raw_context({}, [1])
                columns = {
                    name: self._hide(column, nothing[context_key(name)], seed, 3)
                    for name, column in columns.items()
                }
            parts |= self._features("context", self.context, columns)
        if self.history is not None:
            candidate = [parts["item"]]
            if self.item_features is not None:
                described = [part for name, part in parts.items() if name.startswith("item_features")]
                candidate.append(tf.add_n(described))
            past = self._hide(inputs["history"], 0, seed, 4)
            parts["history"] = self._read(past, item, tf.concat(candidate, axis=1))
        return parts

    def _features(
        self, name: str, features: StaticFeatures | ContextFeatures, inputs: Any
    ) -> dict[str, tf.Tensor]:
        """Returns the vectors of a side's features by name, or their sum where the network takes them together."""
        if not self.network.apart:
            return {name: features(inputs)}
        return {f"{name}.{part}": vectors for part, vectors in features.parts(inputs).items()}

    def _read(self, history: tf.Tensor, item: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
        """Returns what the history says; the candidate itself is passed over, lest it recognises its own event.

        Vectors of length 1 are read: embeddings start near 0, and of their products next to nothing is learned.
        """
        # Batches share many events: each is embedded once.
        rows, places = tf.unique(tf.reshape(history, [-1]))
        events = [self.item_ids(rows)]
        if self.item_features is not None:
            events.append(self.item_features(rows))
        vectors = tf.math.l2_normalize(tf.concat(events, axis=1), axis=1)
        vectors = tf.gather(vectors, tf.reshape(places, tf.shape(history)))
        mask = (history > 0) & (history != item[:, None])
        return self.history(vectors, mask, tf.math.l2_normalize(candidate, axis=1))

    def _latest(self, history: tf.RaggedTensor | tf.Tensor) -> tf.Tensor:
        """Returns the last known events `[n, history_length]` of each history, padded right with 0."""
        known = tf.ragged.boolean_mask(history, history > 0)
        return known[:, -self.history_length :].to_tensor(0, shape=[None, self.history_length])

    def _hide(self, values: tf.Tensor, nothing: Any, seed: tf.Tensor | None, salt: int) -> tf.Tensor:
        """Returns the values, in training some of them replaced by `nothing`, to learn to do without."""
        if seed is None or not self.settings.id_dropout:
            return values
        shape = tf.concat([tf.shape(values)[:1], tf.ones(tf.rank(values) - 1, tf.int32)], axis=0)
        keep = tf.random.stateless_uniform(shape, seed + salt) >= self.settings.id_dropout
        return tf.where(keep, values, nothing)

    def _raw_context(self, known: Mapping[str, tf.Tensor], shape: Any) -> dict[str, tf.Tensor]:
        """Returns the encoded context of raw columns, missing where they are not `known`."""
        if self.context is None:
            return {}
        specs = {name: tower.raw_spec for name, tower in self.context.towers.items()}
        return self.encode_context(
            {name: known.get(name, missing(spec, shape)) for name, spec in specs.items()}
        )


class RankingModel(FittedModel):
    """The network with its tasks: one `tfrs.tasks.Ranking` a target."""

    def __init__(self, network: RankingNetwork, seed: int, past: Past | None = None) -> None:
        """Reads histories of `past`, where the network reads any."""
        super().__init__()
        self.network = network
        self.past = past
        self.settings = network.settings
        self.seed = seed
        self.tasks = {target.name: _task(target) for target in self.settings.targets}

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Returns the targets' losses, weighted and summed: of each the mean over the events that carry its label.

        A squared error is in units of the target's spread, so that seconds and clicks count alike.
        """
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.step]) if training else None
        outputs = self.network(inputs, seed=seed)
        loss = self.mixed([self.sums(inputs, outputs)])
        if training:
            self.note(loss)
        return loss

    def sums(self, inputs: Batch, outputs: tf.Tensor) -> tf.Tensor:
        """Returns each target's summed loss and weight `[targets, 2]`, of the events that carry its label."""
        found = []
        for column, (target, start) in enumerate(
            zip(self.settings.targets, self.network.starts, strict=True)
        ):
            labels = inputs[label_key(target)]
            there = tf.math.is_finite(labels)
            weight = inputs["weight"] * tf.cast(there, tf.float32)
            total = self.tasks[target.name](
                labels=tf.where(there, labels / start.scale, 0.0)[:, None],
                predictions=outputs[:, column : column + 1] / start.scale,
                sample_weight=weight[:, None],
                compute_metrics=False,
            )
            found.append(tf.stack([total, tf.reduce_sum(weight)]))
        return tf.stack(found)

    def mixed(self, sums: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the loss of one or several batches of their `sums`; a target that no event carries adds nothing."""
        total = tf.add_n(list(sums))
        weights = tf.constant([target.weight for target in self.settings.targets])
        return tf.reduce_sum(weights * tf.math.divide_no_nan(total[:, 0], total[:, 1]))


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
        """Returns the prior `[n]` of user and item rows `[n]`; rows beyond the tables are unknown."""
        user, item = rows[0], within(rows[1], self.item)
        product = tf.reduce_sum(tf.gather(self.user, user) * tf.gather(self.item, item), axis=1)
        return self.mean + tf.gather(self.item_bias, item) + product


def _task(target: Target) -> tfrs.tasks.Ranking:
    total = tf.keras.losses.Reduction.SUM
    if target.kind == "binary":
        return tfrs.tasks.Ranking(loss=tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction=total))
    return tfrs.tasks.Ranking(loss=tf.keras.losses.MeanSquaredError(reduction=total))


def _part(place: str, part: Part, **given: Any) -> Any:
    return build(f"ranking_{place}", part.name, part.settings, f"ranking.{place}", **given)
