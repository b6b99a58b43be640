"""The two towers. Rows of the vocabularies go in, vectors of the same dimension come out on both sides."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.config import RetrievalSettings
from trainer.data.examples import Prepared
from trainer.features import ContextFeatures, StaticFeatures
from trainer.input_pipeline import context_key
from trainer.registry import build


def dense_layers(widths: tuple[int, ...], dimension: int) -> list[tf.keras.layers.Layer]:
    """Returns hidden layers of the given widths and a linear one to `dimension`; none at all for no widths."""
    if not widths:
        return []
    hidden = [tf.keras.layers.Dense(width, activation="relu") for width in widths]
    return [*hidden, tf.keras.layers.Dense(dimension)]


class IdEmbedding(tf.keras.layers.Layer):
    """Embeddings of trained rows; row 0 serves ids never seen, and every row beyond the trained ones."""

    def __init__(self, trained: int, dimension: int, l2: float) -> None:
        super().__init__()
        self.trained = trained
        self.l2 = l2
        self.embedding = tf.keras.layers.Embedding(trained + 1, dimension)

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[..., dimension]` of rows `[...]`; adds the batch's share of the L2 penalty to the losses."""
        vectors = self.embedding(tf.where(rows > self.trained, 0, rows))
        if self.l2:
            self.add_loss(self.l2 * tf.reduce_mean(tf.reduce_sum(tf.square(vectors), axis=-1)))
        return vectors


class CandidateTower(tf.keras.layers.Layer):
    """Item rows to vectors: id embedding + item features, dense layers, L2 normalisation, each where set."""

    def __init__(self, settings: RetrievalSettings, prepared: Prepared) -> None:
        super().__init__()
        dimension, trained = settings.embedding_dimension, prepared.items.trained
        self.ids = IdEmbedding(trained, dimension, settings.l2)
        schema = prepared.schema.item if settings.features else ()
        self.features = StaticFeatures(schema, prepared.item_features, trained, dimension) if schema else None
        self.dense = dense_layers(settings.layers, dimension)
        self.normalise = settings.normalise

    @property
    def is_table(self) -> bool:
        """Returns whether the tower before normalisation is only an embedding table."""
        return self.features is None and not self.dense

    def embed(self, rows: tf.Tensor, ids: tf.Tensor | None = None) -> tf.Tensor:
        """Returns vectors before normalisation; `ids` stands for `rows` in the id embedding (id dropout)."""
        vectors = self.ids(rows if ids is None else ids)
        if self.features is not None:
            vectors += self.features(rows)
        for layer in self.dense:
            vectors = layer(vectors)
        return vectors

    def call(self, rows: tf.Tensor, ids: tf.Tensor | None = None) -> tf.Tensor:
        """Returns candidate vectors `[..., dimension]` of item rows int32 `[...]`."""
        vectors = self.embed(rows, ids)
        return tf.math.l2_normalize(vectors, axis=-1) if self.normalise else vectors


class QueryTower(tf.keras.layers.Layer):
    """User row, history and context to a query vector: whichever of them is there is summed, then dense layers.

    The history is embedded by the candidate tower, so both sides read an item alike.
    """

    def __init__(
        self, settings: RetrievalSettings, prepared: Prepared, candidate_tower: CandidateTower
    ) -> None:
        super().__init__()
        dimension, trained = settings.embedding_dimension, prepared.users.trained
        self.candidate_tower = candidate_tower
        self.ids = IdEmbedding(trained, dimension, settings.l2) if settings.user_id else None
        schema = prepared.schema.user if settings.features else ()
        self.features = StaticFeatures(schema, prepared.user_features, trained, dimension) if schema else None
        schema = prepared.schema.context if settings.features else ()
        self.context = ContextFeatures(schema, prepared.train.context, dimension) if schema else None
        encoder = settings.encoder
        self.encoder = (
            build("encoder", encoder.name, encoder.settings, "retrieval.encoder")
            if settings.history
            else None
        )
        self.bias = self.add_weight(name="bias", shape=(dimension,), initializer="uniform")
        self.dense = dense_layers(settings.layers, dimension)
        self.normalise = settings.normalise

    def call(self, inputs: Mapping[str, Any], history_vectors: tf.Tensor | None = None) -> tf.Tensor:
        """Returns query vectors `[batch, dimension]`.

        `inputs`: `user` int32 `[batch]`, `history` int32 `[batch, length]` (right-padded with 0), and the encoded context columns.
        `history_vectors` `[batch, length, dimension]` saves embedding the history when the caller has done it.
        """
        user, history = inputs["user"], inputs["history"]
        vectors = self.bias + tf.zeros([tf.size(user), 1])
        if self.encoder is not None:
            if history_vectors is None:
                history_vectors = self.candidate_tower.embed(history)
            vectors += self.encoder(history_vectors, history > 0)
        if self.ids is not None:
            vectors += self.ids(inputs.get("user_id_row", user))
        if self.features is not None:
            vectors += self.features(user)
        if self.context is not None:
            vectors += self.context({name: inputs[context_key(name)] for name in self.context.towers})
        for layer in self.dense:
            vectors = layer(vectors)
        return tf.math.l2_normalize(vectors, axis=-1) if self.normalise else vectors
