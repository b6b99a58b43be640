"""The retrieval model: two towers, and one inner product between what they and the blocks beside them give."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer import losses
from trainer.blocks import Block, BlockLayer
from trainer.config import RetrievalSettings
from trainer.data.examples import Prepared
from trainer.input_pipeline import Batch, context_key
from trainer.negatives import Sampler
from trainer.registry import build
from trainer.towers import CandidateTower, QueryTower


class Retriever(tf.Module):
    """What turns users and items into vectors: the towers, and beside them the blocks that a factorisation gave.

    The vector of either side is its tower's output followed by the blocks', each scaled: one inner product scores all. This is the part
    that is exported; it knows no loss and no optimizer.
    """

    def __init__(self, settings: RetrievalSettings, prepared: Prepared) -> None:
        super().__init__()
        self.history_length = 1  # events that the encoder reads; the fit sets it
        self.candidate_tower = CandidateTower(settings, prepared)
        self.query_tower = QueryTower(settings, prepared, self.candidate_tower)
        self.tower_scale = 1.0
        self.blocks: list[BlockLayer] = []

    def combine(self, tower_scale: float, blocks: Sequence[Block]) -> None:
        """Sets the weight of the towers (0 leaves them out) and the blocks beside them."""
        self.tower_scale = tower_scale
        self.blocks = [BlockLayer(block) for block in blocks]

    def queries(
        self, user: tf.Tensor, history: tf.RaggedTensor, context: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns query vectors `[batch, D]`: user rows `[batch]`, full histories (oldest first), encoded context columns."""
        parts = [block.queries(history) for block in self.blocks]
        if self.tower_scale:
            recent = history[:, -self.history_length :].to_tensor(0, shape=[None, self.history_length])
            inputs = {"user": user, "history": recent} | {
                context_key(name): column for name, column in context.items()
            }
            parts.insert(0, self.tower_scale * self.query_tower(inputs))
        return tf.concat(parts, axis=1)

    def candidates(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns candidate vectors `[n, D]` of item rows `[n]`, outside any graph."""
        parts = [block.candidates(rows) for block in self.blocks]
        if self.tower_scale:
            parts.insert(0, self.candidate_tower(rows))
        return tf.concat(parts, axis=1)

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


class RetrievalModel(tfrs.Model):
    """The towers of a `Retriever` under training on `tfrs.tasks.Retrieval`."""

    def __init__(self, settings: RetrievalSettings, prepared: Prepared, seed: int) -> None:
        super().__init__()
        tf.keras.utils.set_random_seed(seed)
        self.settings = settings
        self.seed = seed
        self.retriever = Retriever(settings, prepared)
        self.candidate_tower = self.retriever.candidate_tower
        self.query_tower = self.retriever.query_tower
        counts = np.bincount(prepared.train.item, minlength=len(prepared.items))
        counts[0] = 0
        self.sampler: Sampler = build(
            "negatives",
            settings.negatives.name,
            settings.negatives.settings,
            "retrieval.negatives",
            counts=counts,
        )
        self.task = tfrs.tasks.Retrieval(loss=losses.wrap(settings.loss.name, settings.loss.settings))
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False, name="bad_step")

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Returns the weighted mean loss of a batch; notes the first step whose loss was not finite.

        Temperature and sampling correction (Yi et al. 2019) are folded into the vectors, as factors of the query and as one more
        column: scores / temperature - log(probability) comes out of the one product, without a pass over the score matrix.
        """
        seed = tf.stack([tf.constant(self.seed, tf.int64), self.step])
        negatives = self.sampler.draw(tf.cast(seed, tf.int32))
        candidates = tf.concat([inputs["item"], negatives], axis=0)
        candidate_vectors, history_vectors = self._vectors(
            candidates, inputs["history"], seed if training else None
        )
        queries = self.query_tower(self._drop_user(inputs, seed, training), history_vectors)
        correction = tf.math.log(self.sampler.probability(candidates, tf.size(inputs["item"])))
        loss = self.task(
            tf.concat([queries / self.settings.temperature, tf.ones([tf.size(inputs["item"]), 1])], axis=1),
            tf.concat([candidate_vectors, -correction[:, None]], axis=1),
            compute_metrics=False,
        )
        loss = losses.without_repeats(loss, repeats(inputs["item"], candidates))
        loss = tf.reduce_mean(loss * inputs["weight"])
        self._note(loss, training)
        return loss

    def _vectors(
        self, candidates: tf.Tensor, history: tf.Tensor, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns candidate vectors `[n, dimension]` and, for the encoder, the history's `[batch, length, dimension]`."""
        if self.query_tower.encoder is None:
            vectors, of_history = self._embed(candidates, seed), None
        else:
            rows = tf.concat([candidates, tf.reshape(history, [-1])], axis=0)
            split = [tf.size(candidates), tf.size(history)]
            vectors, of_history = tf.split(self._embed(rows, seed), split)
            of_history = tf.reshape(of_history, [-1, history.shape[1], vectors.shape[-1]])
        if self.candidate_tower.normalise:
            vectors = tf.math.l2_normalize(vectors, axis=-1)
        return vectors, of_history

    def _embed(self, rows: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Returns vectors of rows, each distinct row passing through the tower once."""
        distinct, places = tf.unique(rows)
        ids = distinct
        if seed is not None and self.settings.id_dropout and not self.candidate_tower.is_table:
            ids = self._dropped(distinct, seed + 1)
        return tf.gather(self.candidate_tower.embed(distinct, ids), places)

    def _drop_user(self, inputs: Batch, seed: tf.Tensor, training: bool) -> Batch:
        if not (training and self.settings.id_dropout):
            return inputs
        return inputs | {"user_id_row": self._dropped(inputs["user"], seed + 2)}

    def _dropped(self, rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        keep = tf.random.stateless_uniform(tf.shape(rows), seed) >= self.settings.id_dropout
        return tf.where(keep, rows, 0)

    def _note(self, loss: tf.Tensor, training: bool) -> None:
        if not training:
            return
        bad = ~tf.math.is_finite(loss) & (self.bad_step < 0)
        self.bad_step.assign(tf.where(bad, self.step, self.bad_step))
        self.step.assign_add(1)


def repeats(positives: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Returns how often each of `positives` `[batch]` stands among `candidates` `[n]`, which hold it once already, beyond that."""
    distinct, places, counts = tf.unique_with_counts(candidates)
    del distinct
    return tf.gather(counts, places[: tf.size(positives)]) - 1
