"""What TensorFlow Serving runs: the whole recommender as signatures over raw string ids.

Every input shares its first axis (the batch), so that server-side batching and row-format JSON work. Places that hold no item carry the
empty id and the lowest float32 score; an answer has up to `MOST_PLACES` places, and lists are cut where more are asked for. Ids never seen
are answered too: an unknown user by history, features or context, else by popularity, and `path` says by which; an unknown item in a
history or an exclude list is passed over.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import tensorflow as tf

from trainer.data.examples import Lists, Prepared
from trainer.data.request_names import CONTEXT, beside_wishes
from trainer.export.explain import Explainer, Question
from trainer.export.neighbours import MOST_NUMBERS, SimilarItems, SimilarUsers, query_table
from trainer.export.remembered import Remembered, Telling
from trainer.export.selection import (
    MOST_POPULARITY,
    POOL,
    Categories,
    Wish,
    allowed,
    diversified,
    filter_feature,
    finite,
    log_popularity,
)
from trainer.export.signatures import longest, traced
from trainer.index.top import LOWEST, Part, Top, best, in_turn, score_some
from trainer.ranking.cascade import Cascade, Request
from trainer.retrieval.inference import in_blocks
from trainer.retrieval.retriever import PATHS, Retriever
from trainer.settings import ExportSettings
from trainer.towers.features import missing
from trainer.towers.lookup import string_lookup

STRINGS = tf.TensorSpec([None], tf.string)
STRING_LISTS = tf.TensorSpec([None, None], tf.string)
COUNTS = tf.TensorSpec([None], tf.int32)
DIALS = tf.TensorSpec([None], tf.float32)

Answer = dict[str, tf.Tensor]


class ServingModel(tf.Module):
    """A retriever, its index, the stages after it, and the histories of known users, ready to export."""

    def __init__(
        self,
        retriever: Retriever,
        prepared: Prepared,
        histories: Lists,
        index: Any,
        cascade: Cascade,
        settings: ExportSettings,
    ) -> None:
        super().__init__()
        # Functions are not tracked: of the retriever only the parts that have a say are saved.
        queries = tf.function(retriever.queries, autograph=False)  # traced once for all signatures
        self.ask: Callable[..., tf.Tensor] = lambda *inputs: queries(*inputs)
        self.encode_context, self.path = retriever.encode_context, retriever.path
        self.with_towers = bool(retriever.tower_scale)
        self.telling: Telling = (lambda history: history) if self.with_towers else retriever.telling
        self.modelled = retriever.users  # newcomers have the rows after them, and a history alone
        self.cascade = cascade
        self.default_k = min(settings.default_k, len(prepared.items) - 1)
        self.user_lookup = string_lookup(prepared.users.values)
        self.item_lookup = string_lookup(prepared.items.values)
        self.item_ids = tf.constant(["", *prepared.items.values])
        self.item_titles = tf.constant(list(prepared.titles))
        disliked = prepared.negative_before_test.known().by_user(len(prepared.users))
        self.remembered = Remembered(histories, disliked, retriever.reads_times)
        tower = retriever.query_tower.context
        of_towers = {} if tower is None else {name: one.raw_spec for name, one in tower.towers.items()}
        self.context = cascade.context | of_towers
        self.explainer = Explainer(retriever)
        feature = filter_feature(prepared, settings.category)
        self.filters = None if feature is None else feature.name  # whose labels are categories
        self.categories = Categories.of(prepared, feature)
        self.popularity = tf.constant(log_popularity(prepared))
        vectors = in_blocks(retriever.candidates, len(prepared.items))
        users = query_table(retriever, prepared, histories)
        self.index = index.build_index(tf.constant(vectors), users.chosen)
        self.alike = SimilarItems(retriever, self.index, vectors)
        self.alike_users = (
            SimilarUsers(retriever, users, prepared) if settings.similar_users and users.fits else None
        )
        self.left_out: dict[str, str] = {}  # signatures that are asked for and not there, with the reason
        if settings.similar_users and not users.fits:
            self.left_out["similar_users"] = (
                f"the bundle has no signature similar_users: the vectors of {prepared.users.trained:,} users are "
                f"{prepared.users.trained * users.chosen[0].size:,} numbers, and a bundle carries up to {MOST_NUMBERS:,} "
                "(export.similar_users=false asks for none)"
            )

    @cached_property
    def signatures(self) -> dict[str, Callable[..., Any]]:
        """Returns the signatures by name, as traced functions."""
        user, history = {"user_id": STRINGS}, {"history": STRING_LISTS}
        items, lists = {"item_id": STRINGS}, {"k": COUNTS, "exclude": STRING_LISTS}
        wishes = {"allow": STRING_LISTS, "category": STRING_LISTS, "diversity": DIALS, "popularity": DIALS}
        taken = {**user, **history, **lists, **wishes}
        made = {
            "serving_default": traced(self.serving_default, **user),
            "recommend": traced(self.recommend, **user, **lists),
            "recommend_history": traced(self.recommend_history, **history, **lists),
            "recommend_with": traced(self.recommend_with, **taken),
            "retrieve": traced(self.retrieve, **user, **lists),
            "rank": traced(self.rank, **user, item_id=STRING_LISTS),
            "rank_with": traced(self.rank_with, **user, **history, item_id=STRING_LISTS),
            "explain": traced(self.explain, **user, **items, **history),
            "embed_users": traced(self.embed_users, **user),
            "embed_histories": traced(self.embed_histories, **history),
            "embed_items": traced(self.embed_items, **items),
            "similar_items": traced(self.similar_items, **items, k=COUNTS),
            "titles": traced(self.titles, **items),
            "history": traced(self.history, **user, k=COUNTS),
        }
        if self.context:
            free = {beside_wishes(name): spec for name, spec in self.context.items()}
            made["recommend_in_context"] = traced(self.recommend_in_context, **user, **lists, **self.context)
            made["recommend_with_context"] = traced(self.recommend_with, **taken, **free)
            made["rank_with_context"] = traced(
                self.rank_with, **user, **history, item_id=STRING_LISTS, **free
            )
        if self.alike_users is not None:
            made["similar_users"] = traced(self.similar_users, **user, k=COUNTS)
        return made

    def serving_default(self, user_id: tf.Tensor) -> Answer:
        """Recommends the default number of items to each user."""
        k = tf.fill(tf.shape(user_id), self.default_k)
        return self.recommend(user_id, k, tf.fill([tf.size(user_id), 0], ""))

    def recommend(self, user_id: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor) -> Answer:
        """Recommends `k` items to each user, none of their history and none of `exclude`."""
        return self._answer(self.request(user_id), k, exclude)

    def recommend_in_context(
        self, user_id: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor, **context: tf.Tensor
    ) -> Answer:
        """Recommends as `recommend` does, for a request whose context is known."""
        return self._answer(self.request(user_id, context), k, exclude)

    def recommend_history(self, history: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor) -> Answer:
        """Recommends from a history alone (oldest first), for users that the model has never seen."""
        return self._answer(Request(tf.zeros_like(k), self._present(history), {}), k, exclude)

    def recommend_with(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        k: tf.Tensor,
        exclude: tf.Tensor,
        allow: tf.Tensor,
        category: tf.Tensor,
        diversity: tf.Tensor,
        popularity: tf.Tensor,
        **context: tf.Tensor,
    ) -> Answer:
        """Recommends with every wish a request can have; what is "", 0 or NaN is no wish.

        A row's `history` stands for the one remembered; neither's items come back, and only items that it allows, by id and by
        category. `popularity`, cut to -1,000..1,000, times the log of an item's popularity is added to its score (below 0: less of the
        popular), and `diversity` (0 to 1) orders the best of the list so that it repeats itself less. All items are scored, whatever
        the index.
        """
        request = self.request(user_id, self._own_names(context), history)
        return self._answer(request, k, exclude, Wish(allow, category, diversity, popularity))

    def retrieve(self, user_id: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor) -> Answer:
        """Gives the `k` candidates of each user, as the first stage alone scores them."""
        request = self.request(user_id)
        return self._listed(self.candidates(request, exclude, self._width(k)), k) | {
            "path": self._path(request)
        }

    def rank(self, user_id: tf.Tensor, item_id: tf.Tensor) -> Answer:
        """Scores the given candidates for each user: by the ranking model, else by retrieval; unknown ones have the lowest."""
        return self._ranked(self.request(user_id), item_id)

    def rank_with(
        self, user_id: tf.Tensor, history: tf.Tensor, item_id: tf.Tensor, **context: tf.Tensor
    ) -> Answer:
        """Scores the given candidates as `rank` does, after a history that a request brings, and in its context."""
        return self._ranked(self.request(user_id, self._own_names(context), history), item_id)

    def explain(self, user_id: tf.Tensor, item_id: tf.Tensor, history: tf.Tensor) -> Answer:
        """Tells what pulled an item up: retrieval's score by part of the model, by event of the history and by feature.

        `part_score` sums to `score`. Of an event, `history_score` is the sum of its `history_part_score`, in the order of the parts.
        """
        request = self.request(user_id, {}, history)
        item, query = self._rows(self.item_lookup, item_id), self._queries(request)
        candidate = self.index.vectors.of(item)
        encoded = self._encoded(request)
        asked = Question(request.user, request.history, encoded, item, query, candidate, request.times)
        known = tf.cast(item > 0, tf.float32)
        parts = self.explainer.of_parts(asked) * known[:, None]
        of_history = self.explainer.of_history(asked) * known[:, None, None]
        events = request.history.to_tensor(0)
        return {
            "score": tf.where(item > 0, tf.reduce_sum(parts, axis=1), LOWEST),
            "path": self._path(request),
            "part": self._named(self.explainer.parts, item),
            "part_score": parts,
            "history": tf.gather(self.item_ids, events),
            "history_score": tf.reduce_sum(of_history, axis=2),
            "history_part_score": of_history,
            "feature": self._named(self.explainer.features, item),
            "feature_score": self.explainer.of_features(asked) * known[:, None],
        }

    def embed_users(self, user_id: tf.Tensor) -> Answer:
        """Gives the query vector of each user, or the vectors of their interests."""
        return {"embedding": self._queries(self.request(user_id))}

    def embed_histories(self, history: tf.Tensor) -> Answer:
        """Gives the query vector of each history, or the vectors of its interests."""
        rows = self._present(history)
        return {"embedding": self._queries(Request(tf.zeros([tf.shape(history)[0]], tf.int32), rows, {}))}

    def embed_items(self, item_id: tf.Tensor) -> Answer:
        """Gives the candidate vector of each item."""
        return {"embedding": self.index.vectors.of(self._rows(self.item_lookup, item_id))}

    def similar_items(self, item_id: tf.Tensor, k: tf.Tensor) -> Answer:
        """Gives the `k` items most like each item; unknown items get none.

        The cosine of the candidate vectors without popularity, each part weighed as in a score; of towers alone with euclidean
        similarity, the negated squared distance.
        """
        return self._listed(self.alike.top(self._rows(self.item_lookup, item_id), self._width(k)), k)

    def similar_users(self, user_id: tf.Tensor, k: tf.Tensor) -> Answer:
        """Gives the `k` users most like each user; unknown users get none.

        The cosine of the query vectors without popularity, each part weighed as in a score; of towers alone with euclidean
        similarity, the negated squared distance.
        """
        assert self.alike_users is not None
        rows, scores = self.alike_users.top(self._rows(self.user_lookup, user_id), longest(k))
        inside = (tf.range(tf.shape(rows)[1])[None, :] < k[:, None]) & (rows > 0)
        found = tf.gather(self.alike_users.ids, tf.where(inside, rows, 0))
        return {"user_id": found, "score": tf.where(inside, scores, LOWEST)}

    def titles(self, item_id: tf.Tensor) -> Answer:
        """Gives the title of each item, its id where it has none, and "" for an unknown one."""
        return {"title": tf.gather(self.item_titles, self._rows(self.item_lookup, item_id))}

    def history(self, user_id: tf.Tensor, k: tf.Tensor) -> Answer:
        """Gives each known user's last `k` items, the newest first."""
        newest = tf.reverse(self.remembered.history(self._rows(self.user_lookup, user_id)), [1])
        rows = newest[:, : longest(k)].to_tensor(0)
        inside = tf.range(tf.shape(rows)[1])[None, :] < k[:, None]
        return {"item_id": tf.gather(self.item_ids, tf.where(inside, rows, 0))}

    def _answer(self, request: Request, k: tf.Tensor, exclude: tf.Tensor, wish: Wish | None = None) -> Answer:
        width = self._width(k)
        fetch = self._at_most(tf.maximum(width, self.cascade.fetch))
        if wish is None:
            top = self.candidates(request, exclude, fetch)
        else:
            top = self._eligible(request, exclude, wish, self._at_most(tf.maximum(fetch, POOL)))
        top = self.cascade.order(request, top)
        if wish is not None:
            top = diversified(top, self.alike, wish.diversity, width)
        return self._listed((top[0][:, :width], top[1][:, :width]), k) | {"path": self._path(request)}

    def _ranked(self, request: Request, item_id: tf.Tensor) -> Answer:
        items = self._rows(self.item_lookup, item_id)
        if self.cascade.ranker is None:
            scores = score_some(self._queries(request), self.index.vectors.of(items))
        else:
            scores = self.cascade.deep(request, items)
        return {"score": tf.where(items > 0, scores, LOWEST)}

    def candidates(self, request: Request, exclude: tf.Tensor, k: tf.Tensor) -> Top:
        """Returns the first stage's rows and scores `[batch, k]`, without the history and without the ids of `exclude`."""
        top: Top = self.index.top(self._queries(request), self._excluded(request, exclude), k)
        return top

    def _eligible(self, request: Request, exclude: tf.Tensor, wish: Wish, k: tf.Tensor) -> Top:
        """Returns the first stage's rows and scores `[batch, k]` as `candidates` does, of what a wish allows, by its scores."""
        queries, excluded = self._queries(request), self._excluded(request, exclude)

        def some(part: Part) -> Top:
            own = Wish(part(wish.allow), part(wish.category), part(wish.diversity), part(wish.popularity))
            return best(self._wished(self.index.vectors.scores(part(queries)), own), part(excluded), k)

        return in_turn(some, tf.shape(queries)[0], self.index.vectors.items)

    def _wished(self, scores: tf.Tensor, wish: Wish) -> tf.Tensor:
        """Returns the scores with the dial of popularity, the lowest where an item is not asked for."""
        open_to = allowed(self._rows(self.item_lookup, wish.allow), wish.allow, len(self.item_ids))
        open_to &= self.categories.eligible(wish.category)
        dial = tf.clip_by_value(finite(wish.popularity), -MOST_POPULARITY, MOST_POPULARITY)[:, None]
        return tf.where(open_to, scores + dial * self.popularity, LOWEST)

    def _listed(self, top: Top, k: tf.Tensor) -> Answer:
        rows, scores = top
        inside = (tf.range(tf.shape(rows)[1])[None, :] < k[:, None]) & (rows > 0)
        return {
            "item_id": tf.gather(self.item_ids, tf.where(inside, rows, 0)),
            "score": tf.where(inside, scores, LOWEST),
        }

    def _width(self, k: tf.Tensor) -> tf.Tensor:
        """Returns how many items the lists of a request have at most."""
        return self._at_most(longest(k))

    def _at_most(self, k: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(k, 0, len(self.item_ids) - 1)

    def request(
        self,
        user_id: tf.Tensor,
        context: Mapping[str, tf.Tensor] | None = None,
        history: tf.Tensor | None = None,
    ) -> Request:
        """Returns what users ask; a row's `history` of ids, where any of them tells something, stands for the one remembered."""
        row = self._rows(self.user_lookup, user_id)
        user = tf.where(row < self.modelled, row, 0)
        given = None if history is None else self._present(history)
        return self.remembered.request(row, user, context or {}, given, self.telling)

    def _queries(self, request: Request) -> tf.Tensor:
        return self.ask(request.user, request.history, self._encoded(request), request.times)

    def _path(self, request: Request) -> tf.Tensor:
        found = self.path(request.user, request.history, self._encoded(request))
        return tf.gather(tf.constant(PATHS), found)

    def _own_names(self, context: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the context columns by their own names, which in a request with wishes may have a prefix."""
        return {
            name if name in self.context else name.removeprefix(CONTEXT): column
            for name, column in context.items()
        }

    def _encoded(self, request: Request) -> dict[str, tf.Tensor]:
        """Returns the context as the towers read it, missing where the request has none."""
        if not self.with_towers:  # only they read the context
            return {}
        shape = tf.shape(request.user)
        absent = {name: missing(spec, shape) for name, spec in self.context.items()}
        return self.encode_context(absent | dict(request.context))

    def _excluded(self, request: Request, exclude: tf.Tensor) -> tf.RaggedTensor:
        excluded = [request.history, self._present(exclude), *([] if request.had is None else [request.had])]
        return tf.concat(excluded, axis=1)

    def _present(self, ids: tf.Tensor) -> tf.RaggedTensor:
        rows = self._rows(self.item_lookup, ids)
        return tf.ragged.boolean_mask(rows, rows > 0).with_row_splits_dtype(tf.int64)

    @staticmethod
    def _named(names: list[str], item: tf.Tensor) -> tf.Tensor:
        return tf.tile(tf.constant([names], tf.string, [1, len(names)]), [tf.size(item), 1])

    @staticmethod
    def _rows(lookup: tf.keras.layers.StringLookup, ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(lookup(ids), tf.int32)
