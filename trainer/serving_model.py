"""What TensorFlow Serving runs: the whole recommender as signatures over raw string ids.

Every input shares its first axis (the batch), so that server-side batching and row-format JSON work. Places that hold no item carry the
empty id and the lowest float32 score. Ids never seen are answered too: an unknown user by the model's unknown-user vector, an unknown
item in a history or an exclude list is passed over.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.data.examples import Lists, Prepared
from trainer.retriever import Retriever
from trainer.train_retrieval import in_blocks

STRINGS = tf.TensorSpec([None], tf.string)
STRING_LISTS = tf.TensorSpec([None, None], tf.string)
COUNTS = tf.TensorSpec([None], tf.int32)


class Ranker(Protocol):
    """What `rank` needs of a ranking model."""

    def serve(self, user: tf.Tensor, item: tf.Tensor) -> tf.Tensor:
        """Returns scores `[n]` of user rows `[n]` and item rows `[n]`."""
        ...


class ServingModel(tf.Module):
    """A retriever, its index, an optional ranking model, and the histories of known users, ready to export."""

    def __init__(
        self,
        retriever: Retriever,
        prepared: Prepared,
        histories: Lists,
        index: Any,
        ranker: Ranker | None,
        default_k: int,
    ) -> None:
        super().__init__()
        # Functions are not tracked: of the retriever only the parts that have a say are saved.
        self.ask, self.encode_context = retriever.queries, retriever.encode_context
        self.with_towers = bool(retriever.tower_scale)
        self.parts = [*retriever.blocks, *([retriever.query_tower] if self.with_towers else [])]
        self.ranker = ranker
        self.default_k = min(default_k, len(prepared.items) - 1)
        self.user_lookup = tf.keras.layers.StringLookup(vocabulary=list(prepared.users.values))
        self.item_lookup = tf.keras.layers.StringLookup(vocabulary=list(prepared.items.values))
        self.item_ids = tf.constant(["", *prepared.items.values])
        self.item_titles = tf.constant(list(prepared.titles))
        self.offsets = tf.constant(histories.offsets)
        self.history_items = tf.constant(histories.items)
        tower = retriever.query_tower.context
        self.context = {} if tower is None else {one.name: one.kind for one in prepared.schema.context}
        self.context_specs = (
            {} if tower is None else {name: one.raw_spec for name, one in tower.towers.items()}
        )
        self.index = index.build_index(tf.constant(in_blocks(retriever.candidates, len(prepared.items))))

    @cached_property
    def signatures(self) -> dict[str, Callable[..., Any]]:
        """Returns the signatures by name, as traced functions."""
        lists = {"k": COUNTS, "exclude": STRING_LISTS}
        made = {
            "serving_default": self._trace(self.serving_default, user_id=STRINGS),
            "recommend": self._trace(self.recommend, user_id=STRINGS, **lists),
            "recommend_history": self._trace(self.recommend_history, history=STRING_LISTS, **lists),
            "rank": self._trace(self.rank, user_id=STRINGS, item_id=STRING_LISTS),
            "embed_users": self._trace(self.embed_users, user_id=STRINGS),
            "embed_histories": self._trace(self.embed_histories, history=STRING_LISTS),
            "embed_items": self._trace(self.embed_items, item_id=STRINGS),
            "similar_items": self._trace(self.similar_items, item_id=STRINGS, k=COUNTS),
            "titles": self._trace(self.titles, item_id=STRINGS),
            "history": self._trace(self.history, user_id=STRINGS, k=COUNTS),
        }
        if self.context:
            specs = {"user_id": STRINGS, **lists, **self.context_specs}
            made["recommend_in_context"] = self._trace(self.recommend_in_context, **specs)
        return made

    def serving_default(self, user_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Recommends the default number of items to each user."""
        k = tf.fill(tf.shape(user_id), self.default_k)
        return self.recommend(user_id, k, tf.fill([tf.size(user_id), 0], ""))

    def recommend(self, user_id: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        """Recommends `k` items to each user, none of their history and none of `exclude`."""
        user = self._rows(self.user_lookup, user_id)
        history = self._known_history(user)
        return self._answer(self._queries(user, history, {}), history, k, exclude)

    def recommend_in_context(
        self, user_id: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor, **context: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Recommends as `recommend` does, for a request whose context is known."""
        user = self._rows(self.user_lookup, user_id)
        history = self._known_history(user)
        return self._answer(self._queries(user, history, context), history, k, exclude)

    def recommend_history(self, history: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        """Recommends from a history alone (oldest first), for users that the model has never seen."""
        rows = self._present(history)
        return self._answer(self._queries(tf.zeros_like(k), rows, {}), rows, k, exclude)

    def rank(self, user_id: tf.Tensor, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores the given candidates for each user: the ranking model's first target, else the retrieval score."""
        user, items = self._rows(self.user_lookup, user_id), self._rows(self.item_lookup, item_id)
        if self.ranker is None:
            queries = self._queries(user, self._known_history(user), {})
            scores = tf.einsum("bd,bnd->bn", queries, tf.gather(self.index.vectors, items))
        else:
            users = tf.repeat(user, tf.shape(items)[1])
            scores = tf.reshape(self.ranker.serve(users, tf.reshape(items, [-1])), tf.shape(items))
        return {"score": tf.where(item_id == "", tf.float32.min, scores)}

    def embed_users(self, user_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives the query vector of each user."""
        user = self._rows(self.user_lookup, user_id)
        return {"embedding": self._queries(user, self._known_history(user), {})}

    def embed_histories(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives the query vector of each history."""
        rows = self._present(history)
        return {"embedding": self._queries(tf.zeros([tf.shape(history)[0]], tf.int32), rows, {})}

    def embed_items(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives the candidate vector of each item."""
        return {"embedding": tf.gather(self.index.vectors, self._rows(self.item_lookup, item_id))}

    def similar_items(self, item_id: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives the `k` items whose candidate vectors have the highest cosine with each item's; unknown items get none."""
        rows = self._rows(self.item_lookup, item_id)
        unit = tf.math.l2_normalize(self.index.vectors, axis=1)
        scores = tf.matmul(tf.gather(unit, rows), unit, transpose_b=True)
        columns = tf.range(len(self.item_ids))[None, :]
        barred = (columns == rows[:, None]) | (columns == 0) | (rows[:, None] == 0)
        scores = tf.where(barred, tf.float32.min, scores)
        found, places = tf.math.top_k(scores, k=self._width(k))
        return self._listed(tf.where(found > tf.float32.min, places, 0), found, k)

    def titles(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives the title of each item, its id where it has none, and "" for an unknown one."""
        return {"title": tf.gather(self.item_titles, self._rows(self.item_lookup, item_id))}

    def history(self, user_id: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives each known user's last `k` items, the newest first."""
        newest = tf.reverse(self._known_history(self._rows(self.user_lookup, user_id)), [1])
        rows = newest.to_tensor(0)[:, : tf.reduce_max(tf.concat([k, [0]], axis=0))]
        inside = tf.range(tf.shape(rows)[1])[None, :] < k[:, None]
        return {"item_id": tf.gather(self.item_ids, tf.where(inside, rows, 0))}

    def _answer(
        self, queries: tf.Tensor, history: tf.RaggedTensor, k: tf.Tensor, exclude: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        excluded = tf.concat([history, self._present(exclude)], axis=1)
        rows, scores = self.index.top(queries, excluded, self._width(k))
        return self._listed(rows, scores, k)

    def _listed(self, rows: tf.Tensor, scores: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        inside = (tf.range(tf.shape(rows)[1])[None, :] < k[:, None]) & (rows > 0)
        return {
            "item_id": tf.gather(self.item_ids, tf.where(inside, rows, 0)),
            "score": tf.where(inside, scores, tf.float32.min),
        }

    def _width(self, k: tf.Tensor) -> tf.Tensor:
        asked = tf.reduce_max(tf.concat([k, [0]], axis=0))
        return tf.clip_by_value(asked, 0, len(self.item_ids) - 1)

    def _queries(
        self, user: tf.Tensor, history: tf.RaggedTensor, context: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        if not self.with_towers:  # only they read the context
            return self.ask(user, history, {})
        raw = {name: context.get(name, self._absent(kind, user)) for name, kind in self.context.items()}
        return self.ask(user, history, self.encode_context(raw))

    @staticmethod
    def _absent(kind: str, user: tf.Tensor) -> tf.Tensor:
        if kind in ("number", "time"):
            return tf.fill(tf.shape(user), np.nan)
        return tf.fill(tf.shape(user), "")

    def _known_history(self, user: tf.Tensor) -> tf.RaggedTensor:
        starts, ends = tf.gather(self.offsets, user), tf.gather(self.offsets, user + 1)
        places = tf.ragged.range(starts, ends, row_splits_dtype=tf.int64)
        return places.with_flat_values(tf.gather(self.history_items, places.flat_values))

    def _present(self, ids: tf.Tensor) -> tf.RaggedTensor:
        rows = self._rows(self.item_lookup, ids)
        return tf.ragged.boolean_mask(rows, rows > 0).with_row_splits_dtype(tf.int64)

    @staticmethod
    def _rows(lookup: tf.keras.layers.StringLookup, ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(lookup(ids), tf.int32)

    @staticmethod
    def _trace(function: Callable[..., Any], **specs: tf.TensorSpec) -> Any:
        named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
        return tf.function(function).get_concrete_function(**named)
