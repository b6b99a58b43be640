"""What turns users and items into vectors: the part of the retrieval model that is exported."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.blocks.block import Block, BlockLayer
from trainer.data.examples import Prepared
from trainer.input_pipeline import context_key
from trainer.registry import build
from trainer.settings import RetrievalSettings
from trainer.towers.features import missing
from trainer.towers.similarity import between_candidates
from trainer.towers.tower import CandidateTower, QueryTower

# What a query is made of, the strongest first: a user of the training part, else a history, else a user's features, else the request's
# context; for whoever brings none of them, how popular the items are.
PATHS = ("popularity", "context", "features", "history", "known")


class Retriever(tf.Module):
    """The towers, and beside them the blocks that a factorisation gave.

    The vector of either side is its tower's output followed by the blocks', each scaled: one inner product scores all. Where the encoder
    gives several interests there are several query vectors, and an item's score is the largest of theirs. No loss and no optimizer here.
    """

    def __init__(self, settings: RetrievalSettings, prepared: Prepared) -> None:
        super().__init__()
        self.history_length = 1  # events that the encoder reads; the fit sets it
        self.similarity = settings.similarity
        self.users, self.users_trained = len(prepared.users), prepared.users.trained
        self.candidate_tower = CandidateTower(settings, prepared)
        self.query_tower = QueryTower(settings, prepared, self.candidate_tower)
        users, items, train = self.query_tower.ids, self.candidate_tower.ids, prepared.train
        kind = settings.embedding
        given = {"users": users, "items": items, "pairs": (train.user, train.item)}
        self.embedding = build("embedding", kind.name, kind.settings, "retrieval.embedding", **given)
        self._start(settings, prepared)
        self.tower_scale = 1.0
        self.blocks: list[BlockLayer] = []

    def _start(self, settings: RetrievalSettings, prepared: Prepared) -> None:
        """Gives the id embeddings what `retrieval.start` makes of the training events."""
        items, users = self.candidate_tower.ids, self.query_tower.ids
        tables = build(
            "start",
            settings.start.name,
            settings.start.settings,
            "retrieval.start",
            prepared=prepared,
            dimension=int(items.embedding.output_dim),
        )
        if tables is None:
            return
        items.start_from(tables.items[: items.trained + 1])
        if users is not None and tables.users is not None:
            users.start_from(tables.users[: users.trained + 1])

    def combine(self, tower_scale: float, blocks: Sequence[Block]) -> None:
        """Sets the weight of the towers (0 leaves them out) and the blocks beside them."""
        self.tower_scale = tower_scale
        self.blocks = [BlockLayer(block) for block in blocks]

    def queries(
        self,
        user: tf.Tensor,
        history: tf.RaggedTensor,
        context: Mapping[str, tf.Tensor],
        times: tf.RaggedTensor | None = None,
    ) -> tf.Tensor:
        """Returns query vectors `[batch, D]` or `[batch, interests, D]` of user rows, full histories (oldest first) and encoded context.

        `times`: when the histories' events were, in seconds, 0 where that is not known; only some encoders ask (`reads_times`).
        """
        parts = [block.queries(history) for block in self.blocks]
        if self.tower_scale:
            inputs = {"user": user, "history": self.recent(history)} | {
                context_key(name): column for name, column in context.items()
            }
            if self.reads_times and times is not None:
                inputs["times"] = self.recent(times)
            of_towers, weight = self.query_tower(inputs), self.tower_weight(user, history, context)
            shape = tf.concat([tf.shape(user), tf.ones([of_towers.shape.rank - 1], tf.int32)], axis=0)
            of_towers *= tf.reshape(weight, shape)
            if self.prior is not None:
                parts[-1] = tf.where(weight[:, None] == 0, self.prior.scale or 1.0, parts[-1])
            if of_towers.shape.rank == 3:
                parts = [tf.repeat(part[:, None, :], of_towers.shape[1], axis=1) for part in parts]
            parts.insert(0, of_towers)
        return tf.concat(parts, axis=-1)

    @property
    def reads_times(self) -> bool:
        """Returns whether the towers ask when the events of a history were."""
        return bool(self.tower_scale) and self.query_tower.reads_times

    def recent(self, events: tf.RaggedTensor) -> tf.Tensor:
        """Returns the last events of each list, those that the encoder reads, `[batch, history_length]`, padded right with 0."""
        return events[:, -self.history_length :].to_tensor(0, shape=[None, self.history_length])

    @property
    def prior(self) -> Block | None:
        """Returns the block that asks nothing of the query, where there is one: how popular the items are."""
        last = self.blocks[-1].block if self.blocks else None
        return last if last is not None and last.constant else None

    def tower_weight(
        self, user: tf.Tensor, history: tf.RaggedTensor, context: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns the weight of the towers `[batch]`: none where a query brings nothing, and popularity can answer instead."""
        if self.prior is None:
            return tf.fill(tf.shape(user), self.tower_scale)
        return tf.where(self.path(user, history, context) == 0, 0.0, self.tower_scale)

    def path(self, user: tf.Tensor, history: tf.RaggedTensor, context: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns which of `PATHS` answers int32 `[batch]`; the arguments are those of `queries`."""
        found = tf.zeros_like(user)
        if self.tower_scale:
            for name, column in context.items():
                apart = tf.abs(tf.cast(column - self.absent[name], tf.float32))
                given = tf.reduce_any(apart > 1e-4, axis=1)
                found = tf.where(given, PATHS.index("context"), found)
            if self.query_tower.features is not None:
                found = tf.where(user > self.users_trained, PATHS.index("features"), found)
        told = history if self.tower_scale else self.telling(history)
        found = tf.where(told.row_lengths() > 0, PATHS.index("history"), found)
        return tf.where((user > 0) & (user <= self.users_trained), PATHS.index("known"), found)

    def telling(self, history: tf.RaggedTensor) -> tf.RaggedTensor:
        """Returns the events of the histories that some block knows: without towers, the others say nothing."""
        known = [tf.gather(layer.known, history.values) for layer in self.blocks if not layer.block.constant]
        told = tf.reduce_any(tf.stack(known or [tf.zeros_like(history.values, tf.bool)]), axis=0)
        return tf.ragged.boolean_mask(history, history.with_values(told))

    @cached_property
    def absent(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the encoded columns `[1, width]` of a context that is missing."""
        tower = self.query_tower.context
        towers = {} if tower is None else tower.towers
        with tf.init_scope():
            return {name: one.encode(missing(one.raw_spec, [1])).numpy() for name, one in towers.items()}

    def candidates(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns candidate vectors `[n, D]` of item rows `[n]`, outside any graph."""
        parts = [block.candidates(rows) for block in self.blocks]
        if self.tower_scale:
            parts.insert(0, self.candidate_tower(rows))
        return tf.concat(parts, axis=1)

    def similar(self, candidates: tf.Tensor) -> tf.Tensor:
        """Returns candidate vectors `[n, D]` as queries `[n, D]` for their own neighbours.

        A product with a candidate vector, over that one's `lengths`, is how much the two are alike: towers alone are compared by their own
        similarity (of dot products, the cosine), with blocks beside them the cosine is taken, of each part times the root of its weight, so
        that it counts as in a score. Popularity has no say in what is alike.
        """
        if self.by_distance:
            queries = between_candidates(candidates[:, : -1 if self.blocks else None], self.similarity)
            return tf.pad(queries, [[0, 0], [0, candidates.shape[1] - queries.shape[1]]])
        weights = self._weights(candidates.shape[1])
        return tf.math.l2_normalize(candidates * tf.sqrt(weights), axis=1) * tf.sqrt(weights)

    def lengths(self, candidates: tf.Tensor) -> tf.Tensor:
        """Returns what the products with candidate vectors `[n, D]` are divided by `[n]`, see `similar`."""
        if self.by_distance:
            return tf.ones_like(candidates[:, 0])
        return tf.maximum(tf.norm(candidates * tf.sqrt(self._weights(candidates.shape[1])), axis=1), 1e-6)

    def points(self, queries: tf.Tensor) -> tf.Tensor:
        """Returns what of query vectors `[n, D]` tells two users apart: each part times the root of its weight, without popularity.

        Users are compared by the cosine of this; where items are compared by distance, so are users, and this is the towers' point.
        """
        weights = self._weights(queries.shape[1])
        if self.by_distance:
            width = int(queries.shape[1]) - (3 if self.blocks else 2)
            return queries[:, :width] / weights[:width]
        return queries * tf.where(weights > 0, tf.math.rsqrt(weights), 0.0)  # they carry the weight itself

    @property
    def by_distance(self) -> bool:
        """Returns whether items are compared by their distance: of towers with that similarity, and no factorised block beside them."""
        alone = bool(self.tower_scale) and len(self.blocks) == int(self.prior is not None)
        return alone and self.similarity == "euclidean"

    def _weights(self, dimension: int) -> tf.Tensor:
        """Returns what each of a candidate vector's numbers weighs `[dimension]` where two are compared."""
        blocks = [layer.block for layer in self.blocks]
        widths = [block.candidates.shape[1] for block in blocks]
        scales = np.repeat([0.0 if block.constant else block.scale for block in blocks], widths)
        towers = np.full(dimension - sum(widths), self.tower_scale)
        if self.similarity == "euclidean":
            towers *= 2.0  # as it has the product of two points
            towers[-2:] = 0.0  # the squared length and the 1 beside it are no direction
        return tf.constant(np.concatenate([towers, scales]), tf.float32)

    def unheard(self, prepared: Prepared) -> list[str]:
        """Returns a line where the towers have no weight: why, and which columns only they would read."""
        schema = prepared.schema
        read = [feature.name for side in (schema.user, schema.item, schema.context) for feature in side]
        measured = len(prepared.validation) > 0
        if self.tower_scale or (measured and not read):
            return []
        cold, items = len(prepared.items.values) - prepared.items.trained, len(prepared.items.values)
        alike = f", and the {cold:,} of {items:,} items without events score alike" if cold else ""
        why = "validation gave the towers no weight"
        if not measured:
            why = "no user has events enough for a case of validation, so the towers have no weight"
        have = "has" if len(read) == 1 else "have"
        said = f": {', '.join(read)} {have} no say in what is retrieved{alike}" if read else ""
        return [why + said]

    def encode_context(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the encoded context columns `[batch, width]` of raw ones `[batch]`."""
        tower = self.query_tower.context
        return {} if tower is None else tower.encode({name: raw[name] for name in tower.towers})

    def describe(self) -> list[dict[str, Any]]:
        """Returns what the vectors consist of, part by part, for the metrics file."""
        parts: list[dict[str, Any]] = (
            [{"name": "towers", "scale": self.tower_scale}] if self.tower_scale else []
        )
        for block in (layer.block for layer in self.blocks if layer.block.scale):
            half_life = block.half_life if np.isfinite(block.half_life) else None
            rank = int(block.candidates.shape[1])
            parts.append(
                {"name": block.name, "scale": float(block.scale), "rank": rank, "half_life_events": half_life}
            )
        return parts
