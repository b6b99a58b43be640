"""What turns users and items into vectors: the part of the retrieval model that is exported."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.blocks import Block, BlockLayer
from trainer.config import RetrievalSettings
from trainer.data.examples import Prepared
from trainer.errors import UserError
from trainer.input_pipeline import context_key
from trainer.registry import build
from trainer.similarity import between_candidates
from trainer.towers import CandidateTower, QueryTower


class Retriever(tf.Module):
    """The towers, and beside them the blocks that a factorisation gave.

    The vector of either side is its tower's output followed by the blocks', each scaled: one inner product scores all. Where the encoder
    gives several interests there are several query vectors, and an item's score is the largest of theirs. No loss and no optimizer here.
    """

    def __init__(self, settings: RetrievalSettings, prepared: Prepared) -> None:
        super().__init__()
        self.history_length = 1  # events that the encoder reads; the fit sets it
        self.similarity = settings.similarity
        self.candidate_tower = CandidateTower(settings, prepared)
        self.query_tower = QueryTower(settings, prepared, self.candidate_tower)
        users, items, train = self.query_tower.ids, self.candidate_tower.ids, prepared.train
        kind = settings.embedding
        if kind.name != "table" and users is None:
            raise UserError(
                f"retrieval.embedding.name={kind.name} needs users' ids; set retrieval.user_id=true"
            )
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
        self, user: tf.Tensor, history: tf.RaggedTensor, context: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns query vectors `[batch, D]` or `[batch, interests, D]` of user rows `[batch]`, full histories (oldest first), encoded context."""
        parts = [block.queries(history) for block in self.blocks]
        if self.tower_scale:
            recent = history[:, -self.history_length :].to_tensor(0, shape=[None, self.history_length])
            inputs = {"user": user, "history": recent} | {
                context_key(name): column for name, column in context.items()
            }
            of_towers = self.tower_scale * self.query_tower(inputs)
            if of_towers.shape.rank == 3:
                parts = [tf.repeat(part[:, None, :], of_towers.shape[1], axis=1) for part in parts]
            parts.insert(0, of_towers)
        return tf.concat(parts, axis=-1)

    def candidates(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns candidate vectors `[n, D]` of item rows `[n]`, outside any graph."""
        parts = [block.candidates(rows) for block in self.blocks]
        if self.tower_scale:
            parts.insert(0, self.candidate_tower(rows))
        return tf.concat(parts, axis=1)

    def similar(self, candidates: tf.Tensor) -> tf.Tensor:
        """Returns candidate vectors `[n, D]` as queries for their own neighbours: by the towers' similarity, else by cosine."""
        return between_candidates(candidates, "cosine" if self.blocks else self.similarity)

    def encode_context(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the encoded context columns `[batch, width]` of raw ones `[batch]`."""
        tower = self.query_tower.context
        return {} if tower is None else tower.encode({name: raw[name] for name in tower.towers})

    def describe(self) -> list[dict[str, Any]]:
        """Returns what the vectors consist of, part by part, for the metrics file."""
        parts: list[dict[str, Any]] = (
            [{"name": "towers", "scale": self.tower_scale}] if self.tower_scale else []
        )
        for layer in self.blocks:
            block = layer.block
            half_life = block.half_life if np.isfinite(block.half_life) else None
            rank = int(block.candidates.shape[1])
            parts.append(
                {"name": block.name, "scale": float(block.scale), "rank": rank, "half_life_events": half_life}
            )
        return parts
