"""Three stages in one call: candidates are retrieved, ranked lightly, then the best of those deeply.

A score is retrieval's, standardised over a query's candidates, plus what each stage says, standardised too, times the stage's weight. A
stage reorders the head of the list that it is given; what it does not see follows in the order it came in. A stage of weight 0 keeps the
order, and is left out of the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.index.top import LOWEST, Top
from trainer.settings import CascadeSettings


class Ranker(Protocol):
    """What the stages need of a ranking model."""

    prior: Any  # a cheap score of user and item rows, or None
    starts: Any  # how each target follows from it
    settings: Any
    context: Any  # the layer of the context columns, or None

    def serve(
        self,
        user: tf.Tensor,
        item: tf.Tensor,
        history: tf.Tensor | None = None,
        context: Mapping[str, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Returns scores `[n]` of user rows `[n]` and item rows `[n]`."""
        ...


@dataclass(frozen=True)
class Request:
    """Who asks: user rows `[batch]`, histories (ragged item rows, oldest first) and raw context columns `[batch]`.

    `times` are those of the histories in seconds, 0 where not known; None where no part of the model asks. `had` is what no
    answer repeats beside the histories: what is remembered of a user whose request brings another history.
    """

    user: tf.Tensor
    history: tf.RaggedTensor
    context: Mapping[str, tf.Tensor]
    times: tf.RaggedTensor | None = None
    had: tf.RaggedTensor | None = None


@dataclass(frozen=True)
class Weights:
    """What the stages' scores add to retrieval's; 0: nothing."""

    light: float = 0.0
    deep: float = 0.0


class Cascade(tf.Module):
    """The stages after retrieval, over a ranking model, or none."""

    def __init__(
        self, ranker: Ranker | None, settings: CascadeSettings, weights: Weights | None = None
    ) -> None:
        super().__init__()
        self.ranker = ranker
        self.settings = settings
        self.weights = weights or Weights()

    @property
    def fetch(self) -> int:
        """Returns how many candidates are to be retrieved: 0 where no stage follows."""
        return self.settings.retrieve if self.weights.light or self.weights.deep else 0

    def order(self, request: Request, top: Top) -> Top:
        """Returns retrieved rows and scores `[batch, n]`, best first, in the order that the stages give them."""
        if not self.fetch:
            return top
        top = standardised_top(top, self.settings.retrieve)
        if self.weights.light:
            rows = top[0][:, : self.settings.retrieve]
            top = reordered(top, self.light(request, rows), self.weights.light)
        if self.weights.deep:
            rows = top[0][:, : self.settings.prerank]
            top = reordered(top, self.deep(request, rows), self.weights.deep)
        return top

    @property
    def context(self) -> dict[str, tf.TensorSpec]:
        """Returns the raw context columns that the ranking model reads."""
        layer = None if self.ranker is None else self.ranker.context
        return {} if layer is None else {name: tower.raw_spec for name, tower in layer.towers.items()}

    @property
    def has_light(self) -> bool:
        """Returns whether the ranking model has a cheap part."""
        return self.ranker is not None and self.ranker.prior is not None and bool(self._sense)

    def light(self, request: Request, rows: tf.Tensor) -> tf.Tensor:
        """Returns the cheap part of the ranking model, its prior in closed form, for item rows `[batch, n]`."""
        assert self.ranker is not None
        user = tf.repeat(request.user, tf.shape(rows)[1])
        scores = self.ranker.prior([user, tf.reshape(rows, [-1])])
        return tf.reshape(scores, tf.shape(rows)) * self._sense

    def deep(self, request: Request, rows: tf.Tensor) -> tf.Tensor:
        """Returns the ranking model's scores for item rows `[batch, n]`."""
        assert self.ranker is not None
        width = tf.shape(rows)[1]
        length = int(getattr(self.ranker, "history_length", 1))
        recent = request.history[:, -length:].to_tensor(0, shape=[None, length])
        user, history, *context = (
            tf.repeat(column, width, axis=0) for column in (request.user, recent, *request.context.values())
        )
        given = dict(zip(request.context, context, strict=True))
        scores = self.ranker.serve(user, tf.reshape(rows, [-1]), history, given)
        return tf.reshape(scores, tf.shape(rows))

    @property
    def _sense(self) -> float:
        """Returns 1 where the served score rises with the prior, -1 where it falls."""
        assert self.ranker is not None
        pairs = zip(self.ranker.settings.targets, self.ranker.starts, strict=True)
        return float(np.sign(sum(target.score_weight * start.slope for target, start in pairs)))


def standardised(scores: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Returns scores `[batch, n]` less their mean over their spread, row by row, of the places that are `there`; 0 elsewhere."""
    mean, spread = _moments(scores, there)
    return tf.where(there, (scores - mean) / spread, 0.0)


def standardised_top(top: Top, width: int) -> Top:
    """Returns a list with scores in the unit that its first `width` places have."""
    rows, scores = top
    mean, spread = _moments(scores[:, :width], rows[:, :width] > 0)
    return rows, tf.where(rows > 0, (scores - mean) / spread, LOWEST)


def reordered(top: Top, values: tf.Tensor, weight: float | tf.Tensor) -> Top:
    """Returns a list whose first places are ordered by score plus `weight` times their standardised `values` `[batch, head]`.

    The places behind them follow, their scores moved so that they stay below.
    """
    rows, scores = top
    head = tf.shape(values)[1]
    there = rows[:, :head] > 0
    old = scores[:, :head]
    new = tf.where(there, old + weight * standardised(values, there), LOWEST)
    fall = _least(new, there) - _least(old, there)
    found, places = tf.math.top_k(new, k=head)
    behind = tf.where(rows[:, head:] > 0, scores[:, head:] + fall, LOWEST)
    rows = tf.concat([tf.gather(rows[:, :head], places, batch_dims=1), rows[:, head:]], axis=1)
    return rows, tf.concat([found, behind], axis=1)


def _moments(scores: tf.Tensor, there: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    number = tf.maximum(tf.reduce_sum(tf.cast(there, tf.float32), axis=1, keepdims=True), 1.0)
    mean = tf.reduce_sum(tf.where(there, scores, 0.0), axis=1, keepdims=True) / number
    square = tf.reduce_sum(tf.where(there, tf.square(scores - mean), 0.0), axis=1, keepdims=True)
    spread = tf.sqrt(square / number)
    return mean, tf.where(spread > 1e-6, spread, 1.0)


def _least(scores: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    least = tf.reduce_min(tf.where(there, scores, tf.float32.max), axis=1, keepdims=True)
    return tf.where(tf.reduce_any(there, axis=1, keepdims=True), least, 0.0)
