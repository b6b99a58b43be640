"""The retrieval model under training: the towers of a `Retriever` on the retrieval task, one step at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.examples import Prepared
from trainer.encoders.pooling import Pooling
from trainer.errors import UserError
from trainer.fitted import FittedModel
from trainer.input_pipeline import Batch
from trainer.registry import build
from trainer.retrieval import losses
from trainer.retrieval.dislikes import Dislikes
from trainer.retrieval.negatives import Hard, Sampler
from trainer.retrieval.retriever import Retriever
from trainer.retrieval.task import LEAST_TEMPERATURE, RetrievalTask
from trainer.settings import RetrievalSettings
from trainer.towers.similarity import candidate_side


class RetrievalModel(FittedModel):
    """Two towers and their loss. Batches hold single events with their histories, or whole sequences where the encoder reads those."""

    def __init__(self, settings: RetrievalSettings, prepared: Prepared, seed: int) -> None:
        super().__init__()
        tf.keras.utils.set_random_seed(seed)
        self.settings = settings
        self.seed = seed
        self.retriever = Retriever(settings, prepared)
        self.candidate_tower = self.retriever.candidate_tower
        self.query_tower = self.retriever.query_tower
        self.encoder: Any = self.query_tower.encoder
        counts = np.bincount(prepared.train.item, minlength=len(prepared.items))
        counts[0] = 0
        negatives = settings.negatives
        self.sampler: Sampler = build(
            "negatives", negatives.name, negatives.settings, "retrieval.negatives", counts=counts
        )
        if isinstance(self.sampler, Hard):
            self.sampler.prepare(len(prepared.users))
        if self.by_sequence:
            self._check_sequences()
        self.log_temperature = tf.Variable(
            np.log(settings.temperature), dtype=tf.float32, trainable=settings.learn_temperature
        )
        bounded = settings.similarity == "cosine" and settings.temperature >= LEAST_TEMPERATURE
        self.task = RetrievalTask(
            losses.wrap(settings.loss.name, settings.loss.settings, len(prepared.items) - 1),
            self.sampler.in_batch and not self.by_sequence,
            bounded and not settings.learn_temperature,
        )
        self.corrected = settings.loss.name == "softmax"
        self.items = len(prepared.items)
        lists = prepared.train.by_user(len(prepared.users))
        self.positives = tf.RaggedTensor.from_row_splits(lists.items, lists.offsets, validate=False)
        self.dislikes = (
            Dislikes(prepared.negative, len(prepared.users), settings.dislike_weight)
            if len(prepared.negative) and settings.dislike_weight
            else None
        )

    @property
    def by_sequence(self) -> bool:
        """Returns whether a batch is whole sequences, every position predicted in one pass."""
        return hasattr(self.encoder, "predict_each")

    def _check_sequences(self) -> None:
        """Raises `UserError` about settings that do not go with an encoder of whole sequences."""
        if not self.sampler.extra:
            raise UserError(
                "retrieval.negatives.name=in_batch: the other positions of a sequence are the user's own items, and no negatives; "
                "take uniform, popularity or mixed"
            )

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Returns the weighted mean loss of a batch; notes the first step whose loss was not finite.

        Temperature and sampling correction (Yi et al. 2019) are folded into the vectors, as factors of the query and as one more
        column: scores / temperature - log(probability) comes out of the one product, without a pass over the score matrix.
        """
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.step])
        with self.retriever.embedding.step():
            read = self._read_sequences if self.by_sequence else self._read_events
            asked = read(inputs, seed, training)
            places, size, queries = asked.places, tf.size(asked.positives), self._chosen(asked)
            queries = queries * tf.exp(-self.log_temperature)
            positives, negatives = asked.vectors[:size], asked.vectors[size:]
            against: Any = 0.0
            if self.dislikes is not None:
                against = self.dislikes.loss(asked.user, queries, positives, seed + 4, self._candidates)
        if training:
            self.sampler.after(asked.positives)
        if self.corrected:
            queries = tf.concat([queries, tf.ones([size, 1])], axis=1)
            among = size if self.task.in_batch else 0  # positives that are candidates of others
            correction = tf.math.log(self.sampler.probability(asked.rows, among))[:, None]
            positives, negatives = (
                tf.concat([vectors, -of], axis=1)
                for vectors, of in ((positives, correction[:size]), (negatives, correction[size:]))
            )
        counted = tf.concat(
            [tf.fill([size], int(self.task.in_batch)), tf.ones_like(asked.rows[size:])], axis=0
        )
        counts = tf.math.unsorted_segment_sum(counted, places, tf.reduce_max(places) + 1)
        mask = None if self.corrected and not self.settings.mask_positives else self._mask(asked)
        loss = self.task(queries, positives, negatives, tf.gather(counts, places[:size]), mask) + against
        loss = tf.reduce_sum(loss * asked.weight) / tf.maximum(tf.cast(size, tf.float32), 1.0)
        if training:
            self.note(loss)
        return loss

    def _read_events(self, inputs: Batch, seed: tf.Tensor, training: bool) -> "Asked":
        """Returns queries of single events, each from the history before it."""
        item, history, encoder = inputs["item"], inputs["history"], self.encoder
        negatives = self.sampler.draw(tf.cast(seed, tf.int32), inputs["user"])
        candidates = tf.concat([item, negatives], axis=0)
        rows = candidates if encoder is None else tf.concat([candidates, tf.reshape(history, [-1])], axis=0)
        distinct, places = self._embed(rows, seed, training)
        places, of_history = places[: tf.size(candidates)], places[tf.size(candidates) :]
        encoded = None if encoder is None else self._encode(distinct, of_history, inputs)
        vectors = tf.gather(distinct, places)
        queries = self.query_tower.fuse(self._drop_user(inputs, seed, training), encoded)
        vectors = candidate_side(vectors, self.settings.similarity)
        return Asked(
            queries,
            inputs["user"],
            item,
            candidates,
            vectors,
            places,
            inputs["weight"],
        )

    def _encode(self, distinct: tf.Tensor, places: tf.Tensor, inputs: Batch) -> tf.Tensor:
        """Returns encoded histories, whose events are at `places` (flat) in `distinct` `[n, dimension]`."""
        mask = inputs["history"] > 0
        places = tf.reshape(places, tf.shape(mask))
        if isinstance(self.encoder, Pooling):
            return self.encoder.pool(distinct, places, mask, *self._times(inputs))
        return self.query_tower.encode(tf.gather(distinct, places), inputs)

    def _read_sequences(self, inputs: Batch, seed: tf.Tensor, training: bool) -> "Asked":
        """Returns queries of every position that the encoder predicts, each row of it one query."""
        sequence, encoder = inputs["sequence"], self.encoder
        negatives = self.sampler.draw(tf.cast(seed, tf.int32), inputs["user"])
        rows = tf.concat([negatives, tf.reshape(sequence, [-1])], axis=0)
        distinct, places = self._embed(rows, seed, training)
        vectors = tf.gather(distinct, places)
        of_negatives, of_sequence = tf.split(vectors, [tf.size(negatives), tf.size(sequence)])
        shape = tf.shape(sequence)
        of_sequence = tf.reshape(of_sequence, [shape[0], shape[1], vectors.shape[-1]])
        predictions, asked = encoder.predict_each(
            of_sequence, sequence > 0, tf.cast(seed, tf.int32), *self._times(inputs)
        )
        where = tf.where(asked)
        at = {name: tf.gather_nd(column, where) for name, column in inputs.items() if name != "user"}
        at["user"] = tf.gather(inputs["user"], where[:, 0])
        queries = self.query_tower.fuse(self._drop_user(at, seed, training), tf.gather_nd(predictions, where))
        vectors = tf.concat([tf.gather_nd(of_sequence, where), of_negatives], axis=0)
        in_sequence = tf.reshape(places[tf.size(negatives) :], shape)
        places = tf.concat([tf.gather_nd(in_sequence, where), places[: tf.size(negatives)]], axis=0)
        return Asked(
            queries,
            at["user"],
            at["sequence"],
            tf.concat([at["sequence"], negatives], axis=0),
            candidate_side(vectors, self.settings.similarity),
            places,
            at["weight"],
        )

    def _times(self, inputs: Batch) -> list[tf.Tensor]:
        """Returns when the events were, in a list, or nothing where the encoder does not ask."""
        return [inputs["times"]] if self.query_tower.reads_times else []

    def _chosen(self, asked: "Asked") -> tf.Tensor:
        """Returns one query vector an example: of several interests the one that answers for the positive."""
        if asked.queries.shape.rank == 2:
            return asked.queries
        positives = asked.vectors[: tf.size(asked.positives)]
        choose = getattr(self.encoder, "choose", nearest)
        return choose(asked.queries, positives)

    def _candidates(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the vectors of item rows as queries are compared with them."""
        return candidate_side(self.candidate_tower.embed(rows), self.settings.similarity)

    def _mask(self, asked: "Asked") -> tf.Tensor:
        """Returns which candidates count for each query: not the positive's item again, and with `mask_positives` no item of the user's."""
        size = tf.size(asked.positives)
        others = asked.places if self.task.in_batch else asked.places[size:]
        if self.settings.mask_positives:
            users, row = tf.unique(asked.user)
            owned = tf.gather(self.positives, users)
            column = tf.tensor_scatter_nd_max(
                tf.zeros([self.items], tf.int32), asked.rows[:, None], asked.places + 1
            )
            owned = tf.stack(
                [tf.cast(owned.value_rowids(), tf.int32), tf.gather(column, owned.flat_values)], axis=1
            )
            shape = [tf.size(users), tf.reduce_max(asked.places) + 2]  # places count what is not asked too
            hits = tf.scatter_nd(owned, tf.ones_like(owned[:, 0]), shape)
            mask = tf.gather(tf.gather(hits, others + 1, axis=1) == 0, row)
        else:
            mask = asked.places[:size, None] != others[None, :]
        return tf.linalg.set_diag(mask, tf.ones([size], tf.bool)) if self.task.in_batch else mask

    def _embed(self, rows: tf.Tensor, seed: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the candidate tower's vectors of the distinct rows, each computed once, and the place of each of `rows` among them."""
        distinct, places = tf.unique(rows)
        ids = distinct
        if training and self.settings.id_dropout and not self.candidate_tower.is_table:
            ids = self._dropped(distinct, seed + 1)
        vectors = self.candidate_tower.embed(distinct, ids)
        if training and self.settings.dropout:
            seed = tf.cast(seed + 3, tf.int32)
            vectors = tf.nn.experimental.stateless_dropout(vectors, self.settings.dropout, seed)
        return vectors, places

    def _drop_user(self, inputs: Batch, seed: tf.Tensor, training: bool) -> Batch:
        if not (training and self.settings.id_dropout):
            return inputs
        return inputs | {"user_id_row": self._dropped(inputs["user"], seed + 2)}

    def _dropped(self, rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        keep = tf.random.stateless_uniform(tf.shape(rows), seed) >= self.settings.id_dropout
        return tf.where(keep, rows, 0)


@dataclass(frozen=True)
class Asked:
    """What a batch asks, all that the loss needs: `n` queries, then candidates, the queries' positives first."""

    queries: tf.Tensor  # [n, D] or [n, interests, D]
    user: tf.Tensor  # [n]
    positives: tf.Tensor  # [n] item rows
    rows: tf.Tensor  # [n + negatives] item rows
    vectors: tf.Tensor  # [n + negatives, D]
    places: tf.Tensor  # [n + negatives] equal where the items are
    weight: tf.Tensor  # [n]


def nearest(interests: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Returns of each query's interests `[n, interests, D]` the one with the largest product with its positive `[n, D]`."""
    best = tf.argmax(tf.einsum("nhd,nd->nh", interests, positive), axis=1)
    return tf.gather(interests, best, batch_dims=1)
