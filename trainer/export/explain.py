"""Why an item stands where it does: what each part of the model, each event of the history and each feature adds to its score.

A score is a sum over the towers and the blocks, and a block's share is a sum over the history, so those numbers are exact. Within the
towers nothing is a sum: there an event, or a feature, counts for what the score loses without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from trainer.index.top import score_some
from trainer.input_pipeline import context_key
from trainer.retrieval.retriever import Retriever
from trainer.towers.similarity import candidate_side

TOWERS = "towers"


@dataclass(frozen=True)
class Question:
    """A user row, a history (ragged item rows, oldest first) and an encoded context, each `[batch]`, and the item in question."""

    user: tf.Tensor
    history: tf.RaggedTensor
    context: Mapping[str, tf.Tensor]
    item: tf.Tensor
    query: tf.Tensor  # [batch, D] or [batch, interests, D]
    candidate: tf.Tensor  # [batch, D]
    times: tf.RaggedTensor | None = None  # of the history


class Explainer(tf.Module):
    """Explains the scores of a retriever: `parts` are the towers and the blocks by name, `features` what the towers read."""

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        self.blocks = retriever.blocks
        self.towers = TowerExplainer(retriever) if retriever.tower_scale else None
        widths = [int(layer.block.candidates.shape[1]) for layer in self.blocks]
        of_towers = int(retriever.candidates(tf.constant([0])).shape[1]) - sum(widths)
        self.widths = [of_towers, *widths] if self.towers else widths
        self.parts = [*([TOWERS] if self.towers else []), *(layer.block.name for layer in self.blocks)]
        self.features = self.towers.features if self.towers else []

    def of_parts(self, asked: Question) -> tf.Tensor:
        """Returns what each part adds to the score `[batch, parts]`: the score is their sum."""
        query = asked.query
        if query.shape.rank == 3:  # one interest answers, the same for all parts
            best = tf.argmax(tf.linalg.matvec(query, asked.candidate), axis=1)
            query = tf.gather(query, best, batch_dims=1)
        products = tf.split(query * asked.candidate, self.widths, axis=1)
        return tf.stack([tf.reduce_sum(product, axis=1) for product in products], axis=1)

    def of_history(self, asked: Question) -> tf.Tensor:
        """Returns what each event adds in each part `[batch, events, parts]`, padded right with 0."""
        candidates = tf.split(asked.candidate, self.widths, axis=1)
        found = []
        if self.towers is not None:
            found.append(self.towers.without_each_event(asked, candidates.pop(0)))
        for layer, candidate in zip(self.blocks, candidates, strict=True):
            found.append(layer.contributions(asked.history, candidate).to_tensor(0.0))
        return tf.stack(found, axis=2)

    def of_features(self, asked: Question) -> tf.Tensor:
        """Returns what the score loses without each of `features` `[batch, features]`."""
        if self.towers is None:
            return tf.zeros([tf.size(asked.user), 0])
        return self.towers.without_each_feature(asked)


class TowerExplainer(tf.Module):
    """What the towers' share of a score loses without an event or a feature."""

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        self.query_tower = retriever.query_tower
        self.length = retriever.history_length
        # Functions: of the retriever only what is used is saved.
        self.weight, self.recent = retriever.tower_weight, retriever.recent
        self.absent = retriever.absent

    @property
    def features(self) -> list[str]:
        """Returns the names of what the towers read, of the query's side and of the item's."""
        query, candidate = (
            self._query_parts(tf.zeros([1], tf.int32), tf.zeros([1, self.length], tf.int32), self.absent),
            self.query_tower.candidate_tower.parts(tf.zeros([1], tf.int32)),
        )
        return [*(f"query.{name}" for name in query), *(f"item.{name}" for name in candidate)]

    def without_each_event(self, asked: Question, candidate: tf.Tensor) -> tf.Tensor:
        """Returns the losses `[batch, events]`, 0 for events that the towers do not read."""
        length = self.length
        place = tf.range(length)
        others = tf.where(place[None, :] < place[:, None], place[None, :], place[None, :] + 1)

        def copies(events: tf.RaggedTensor) -> tf.Tensor:
            recent = self.recent(events)
            shorter = tf.gather(tf.pad(recent, [[0, 0], [0, 1]]), others, axis=1)  # [batch, left out, length]
            return tf.reshape(tf.concat([recent[:, None], shorter], axis=1), [-1, length])

        user, context, vectors = (
            tf.nest.map_structure(lambda column: tf.repeat(column, length + 1, axis=0), given)
            for given in (asked.user, dict(asked.context), candidate)
        )
        times = None if asked.times is None else copies(asked.times)
        parts = self._query_parts(user, copies(asked.history), context, times)
        scores = self._scores(self.query_tower.join(parts, tf.size(user)), vectors)
        scores = tf.reshape(scores, [-1, length + 1])
        lost = (scores[:, :1] - scores[:, 1:]) * self._weight(asked)
        lengths = tf.cast(asked.history.row_lengths(), tf.int32)[:, None]  # the towers read the last events
        column = tf.range(tf.reduce_max(tf.concat([lengths[:, 0], [0]], axis=0)))[None, :]
        read = column - tf.maximum(lengths - length, 0)
        picked = tf.gather(lost, tf.clip_by_value(read, 0, length - 1), batch_dims=1)
        return tf.where((read >= 0) & (column < lengths), picked, 0.0)

    def without_each_feature(self, asked: Question) -> tf.Tensor:
        """Returns the losses `[batch, features]`."""
        candidate, batch = self.query_tower.candidate_tower, tf.size(asked.user)
        recent, no_context = self.recent(asked.history), self._no_context(asked)
        times = None if asked.times is None else self.recent(asked.times)
        whole = self._query_parts(asked.user, recent, asked.context, times)
        blank = self._query_parts(tf.zeros_like(asked.user), tf.zeros_like(recent), no_context)
        own, no_item = candidate.parts(asked.item), candidate.parts(tf.zeros_like(asked.item))

        def score(query: Mapping[str, tf.Tensor], item: Mapping[str, tf.Tensor]) -> tf.Tensor:
            vectors = candidate_side(candidate.join(item), candidate.similarity)
            return self._scores(self.query_tower.join(query, batch), vectors)

        full = score(whole, own)
        lost = [full - score({**whole, name: blank[name]}, own) for name in whole]
        lost += [full - score(whole, {**own, name: no_item[name]}) for name in own]
        return tf.stack(lost, axis=1) * self._weight(asked)

    def _query_parts(
        self, user: tf.Tensor, recent: tf.Tensor, context: Mapping[str, Any], times: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        tower = self.query_tower
        inputs = {"user": user, "history": recent} | {context_key(name): c for name, c in context.items()}
        inputs |= {} if times is None else {"times": times}
        encoded = None
        if tower.encoder is not None:
            encoded = tower.encode(tower.candidate_tower.embed(recent), inputs)
        return tower.parts(inputs, encoded)

    def _no_context(self, asked: Question) -> dict[str, tf.Tensor]:
        batch = tf.size(asked.user)
        return {name: tf.repeat(column, batch, axis=0) for name, column in self.absent.items()}

    @staticmethod
    def _scores(queries: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        return score_some(queries, vectors[:, None])[:, 0]

    def _weight(self, asked: Question) -> tf.Tensor:
        return self.weight(asked.user, asked.history, asked.context)[:, None]
