"""The two towers. Rows of the vocabularies go in, vectors of the same dimension come out on both sides."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.examples import Prepared
from trainer.errors import UserError
from trainer.input_pipeline import context_key
from trainer.memory import require
from trainer.registry import build
from trainer.settings import RetrievalSettings
from trainer.towers.dimension import dimension_of
from trainer.towers.features import OTHERS, ContextFeatures, StaticFeatures, shared_layers
from trainer.towers.similarity import candidate_side, query_side


def dense_layers(widths: tuple[int, ...], dimension: int) -> list[tf.keras.layers.Layer]:
    """Returns hidden layers of the given widths and a linear one to `dimension`; none at all for no widths."""
    if not widths:
        return []
    hidden = [tf.keras.layers.Dense(width, activation="relu") for width in widths]
    return [*hidden, tf.keras.layers.Dense(dimension)]


# Within a graph the draws are scaled where they stand; outside, three tables would be in memory at once.
_uniform = tf.function(lambda shape, seed: tf.random.stateless_uniform(shape, seed, -0.05, 0.05))


def drawn(shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
    """Returns the first vectors of a table, float32 `shape`, uniform from -.05 to .05 as Keras draws them."""
    del dtype
    return _uniform(tf.constant(shape), tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32))


class IdEmbedding(tf.keras.layers.Layer):
    """Embeddings of trained rows; row 0 serves ids never seen, and every row beyond the trained ones.

    `instead`: a table that stands for the trained one while it is set (what a graph made of it).
    """

    def __init__(self, trained: int, dimension: int, l2: float = 0.0, max_norm: float | None = None) -> None:
        super().__init__()
        self.trained = trained
        self.l2 = l2
        self.max_norm = max_norm
        self.instead: tf.Tensor | tf.Variable | None = None
        self.embedding = tf.keras.layers.Embedding(trained + 1, dimension, embeddings_initializer=drawn)

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[..., dimension]` of rows `[...]`; adds the batch's share of the L2 penalty to the losses."""
        rows = tf.where(rows > self.trained, 0, rows)
        vectors = self.limited(
            self.embedding(rows) if self.instead is None else tf.gather(self.instead, rows)
        )
        if self.l2:
            # of a graph, of what it starts from (He et al. 2020)
            trained = vectors if self.instead is None else self.limited(self.embedding(rows))
            self.add_loss(self.l2 * tf.reduce_mean(tf.reduce_sum(tf.square(trained), axis=-1)))
        return vectors

    def limited(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]`, those longer than `max_norm` shortened."""
        return vectors if self.max_norm is None else tf.clip_by_norm(vectors, self.max_norm, axes=-1)

    def start_from(self, table: npt.NDArray[np.floating]) -> None:
        """Sets the rows to those of `table` `[trained + 1, dimension]`, scaled to the length that random rows have."""
        self.embedding.build(None)
        random = self.embedding.get_weights()[0]
        scale = np.linalg.norm(random, axis=1).mean() / max(np.linalg.norm(table, axis=1).mean(), 1e-12)
        self.embedding.set_weights([(table * scale).astype(np.float32)])


def id_embedding(settings: RetrievalSettings, trained: int, dimension: int) -> IdEmbedding:
    """Returns a tower's id embedding as the settings regularise it; raises `UserError` where it is larger than the memory."""
    what = f"an embedding of {trained:,} ids in {dimension:,} dimensions"
    require(4.0 * (trained + 1) * dimension, what, "set a smaller retrieval.embedding_dimension")
    return IdEmbedding(trained, dimension, settings.l2, settings.max_norm)


def fusion(settings: RetrievalSettings, dimension: int, names: list[str]) -> Any:
    """Returns the layer that makes one vector of a tower's parts."""
    part = settings.fusion
    return build("fusion", part.name, part.settings, "retrieval.fusion", dimension=dimension, names=names)


class CandidateTower(tf.keras.layers.Layer):
    """Item rows to vectors: id embedding and item features fused, dense layers, each where set."""

    def __init__(self, settings: RetrievalSettings, prepared: Prepared) -> None:
        super().__init__()
        dimension, trained = dimension_of(settings, prepared), prepared.items.trained
        self.ids = id_embedding(settings, trained, dimension)
        schema = prepared.schema.item if settings.features else ()
        self.shared = shared_layers(prepared, dimension) if settings.features else {}
        self.features = (
            StaticFeatures(schema, prepared.item_features, trained, dimension, self.shared)
            if schema
            else None
        )
        names = ["id", *(self.features.names if self.features else ())]
        self.fusion: Any = fusion(settings, dimension, names) if schema else None
        self.dense = dense_layers(settings.layers, dimension)
        self.similarity = settings.similarity

    @property
    def is_table(self) -> bool:
        """Returns whether the tower is only an embedding table."""
        return self.features is None and not self.dense

    def embed(self, rows: tf.Tensor, ids: tf.Tensor | None = None) -> tf.Tensor:
        """Returns what the history's encoder reads `[..., dimension]`; `ids` stands for `rows` in the id embedding (id dropout)."""
        return self.join(self.parts(rows, ids))

    def parts(self, rows: tf.Tensor, ids: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns what is fused, by name: the `id` and each feature, each `[..., dimension]`."""
        parts = {"id": self.ids(rows if ids is None else ids)}
        return parts if self.features is None else parts | self.features.parts(rows)

    def join(self, parts: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the vectors `[..., dimension]` that the parts make."""
        vectors = parts["id"] if self.features is None else self.fusion(parts)
        for layer in self.dense:
            vectors = layer(vectors)
        return vectors

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns candidate vectors of item rows int32 `[...]`."""
        return candidate_side(self.embed(rows), self.similarity)


class QueryTower(tf.keras.layers.Layer):
    """User row, history and context to query vectors: whichever of them is there is fused, then dense layers.

    The history is embedded by the candidate tower, so both sides read an item alike.
    """

    def __init__(
        self, settings: RetrievalSettings, prepared: Prepared, candidate_tower: CandidateTower
    ) -> None:
        super().__init__()
        dimension, trained = dimension_of(settings, prepared), prepared.users.trained
        self.candidate_tower = candidate_tower
        self.ids = id_embedding(settings, trained, dimension) if settings.user_id else None
        schema = prepared.schema.user if settings.features else ()
        shared = candidate_tower.shared
        self.features = (
            StaticFeatures(schema, prepared.user_features, trained, dimension, shared) if schema else None
        )
        context = prepared.schema.context if settings.features else ()
        taken = [*OTHERS, *(feature.name for feature in schema)]
        self.context = (
            ContextFeatures(context, prepared.train.context, dimension, shared, taken) if context else None
        )
        encoder = settings.encoder
        self.encoder: Any = (
            build("encoder", encoder.name, encoder.settings, "retrieval.encoder")
            if settings.history
            else None
        )
        self.reads_times: bool = getattr(self.encoder, "reads_times", False)
        if self.reads_times and not prepared.timed:
            raise UserError(
                f"retrieval.encoder {encoder.settings} reads when events were, and the data has no times"
            )
        self.bias = self.add_weight(name="bias", shape=(dimension,), initializer="uniform")
        named = [("id", settings.user_id), ("history", settings.history)]
        names = [name for name, there in named if there]
        names += [name for part in (self.features, self.context) if part is not None for name in part.names]
        self.fusion: Any = fusion(settings, dimension, names) if names else None
        self.dense = dense_layers(settings.layers, dimension)
        self.similarity = settings.similarity

    def call(self, inputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns query vectors `[batch, D]`, or `[batch, interests, D]` from an encoder of several interests.

        `inputs`: `user` int32 `[batch]`, `history` int32 `[batch, length]` (right-padded with 0), `times` int64 where they are known
        (of all events or, 0, of some), and the encoded context columns.
        """
        read = self.encoder is not None
        encoded = self.encode(self.candidate_tower.embed(inputs["history"]), inputs) if read else None
        return self.fuse(inputs, encoded)

    def encode(self, vectors: tf.Tensor, inputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns the encoded history of its events' vectors `[batch, length, dimension]`; `reads_times` gives the encoder `times`."""
        given = [inputs["times"]] if self.reads_times and "times" in inputs else []
        return self.encoder(vectors, inputs["history"] > 0, *given)

    def fuse(self, inputs: Mapping[str, Any], encoded: tf.Tensor | None) -> tf.Tensor:
        """Returns query vectors from an encoded history `[batch, dimension]` or `[batch, interests, dimension]` and the other inputs.

        `user_id_row` in the inputs stands for `user` in the id embedding (id dropout).
        """
        return self.join(self.parts(inputs, encoded), tf.size(inputs["user"]))

    def parts(self, inputs: Mapping[str, Any], encoded: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Returns what is fused, by name: `id`, `history` and each feature, all of as many axes."""
        user = inputs["user"]
        parts = {}
        if self.ids is not None:
            parts["id"] = self.ids(inputs.get("user_id_row", user))
        if encoded is not None:
            parts["history"] = encoded
        if self.features is not None:
            parts |= self.features.parts(user)
        if self.context is not None:
            parts |= self.context.parts({name: inputs[context_key(name)] for name in self.context.towers})
        if encoded is not None and encoded.shape.rank == 3:
            parts = {name: _each(part, encoded) for name, part in parts.items()}
        return parts

    def join(self, parts: Mapping[str, tf.Tensor], batch: tf.Tensor) -> tf.Tensor:
        """Returns the query vectors that the parts make; of no parts `batch` times the same."""
        vectors = self.bias + (self.fusion(parts) if parts else tf.zeros([batch, 1]))
        for layer in self.dense:
            vectors = layer(vectors)
        return query_side(vectors, self.similarity)


def _each(part: tf.Tensor, interests: tf.Tensor) -> tf.Tensor:
    """Returns a part `[batch, dimension]` once for each of the interests `[batch, interests, dimension]`."""
    return part if part.shape.rank == 3 else part[:, None, :] + tf.zeros_like(interests)
