"""Who can be evaluated: what gives every item a score, and what gives only the top of its list."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.examples import Cases, Floats, Ints
from trainer.data.vocabulary import Vocabulary
from trainer.errors import UserError

NO_SCORE = np.float32(-np.inf)


@runtime_checkable
class Scorer(Protocol):
    """A model that gives every item a score."""

    def scores(self, cases: Cases) -> Floats:
        """Returns scores `[cases, rows of the item vocabulary]`, higher is better, -inf: never recommended.

        Column 0, the unknown, is ignored. The evaluator writes into the array and has done with it before
        the next call, so a scorer may hand out one buffer over and over; a read-only array is copied.
        """
        ...


@runtime_checkable
class TopK(Protocol):
    """A model that gives only the top of its list: an exported bundle, or a server."""

    def top(self, cases: Cases, k: int) -> tuple[Ints, Floats]:
        """Returns item rows and scores `[cases, k]`, best first; row 0 fills a list that is shorter."""
        ...


@runtime_checkable
class Factored(Scorer, Protocol):
    """A scorer whose scores are products, which the evaluator computes a thread a core, each with its cases."""

    def vectors(self, cases: Cases) -> Floats:
        """Returns query vectors `[cases, dimension]` or `[cases, interests, dimension]`."""
        ...

    def product(self, vectors: Floats) -> Floats:
        """Returns the scores `[cases, rows]` of some query vectors, to write into; called from several threads."""
        ...


class FactorScorer:
    """Inner products of query and candidate vectors, by TensorFlow: its kernels take half the time of NumPy's BLAS.

    `candidates` is `[rows, dimension]` by row of the item vocabulary; `queries` returns the vectors
    `[cases, dimension]` of some cases, or `[cases, interests, dimension]`, and then an item's score is its
    best interest's.
    """

    def __init__(self, queries: Callable[[Cases], Floats], candidates: Floats) -> None:
        self._queries = queries
        self._candidates = tf.constant(np.ascontiguousarray(candidates.T, np.float32))  # [dimension, rows]

    def scores(self, cases: Cases) -> Floats:
        """Returns the scores `[cases, rows]`."""
        return self.product(self.vectors(cases))

    def vectors(self, cases: Cases) -> Floats:
        """Returns query vectors `[cases, dimension]` or `[cases, interests, dimension]`."""
        return np.asarray(self._queries(cases), np.float32)

    def product(self, vectors: Floats) -> Floats:
        """Returns the scores `[cases, rows]` of query vectors: of several interests, the best one's."""
        interests = vectors[:, None] if vectors.ndim == 2 else vectors
        found = tf.linalg.matmul(interests[:, 0], self._candidates)
        for interest in range(1, interests.shape[1]):
            found = tf.maximum(found, tf.linalg.matmul(interests[:, interest], self._candidates))
        return np.asarray(_Memory(found))


class _Memory:
    """The memory of a tensor that nobody else has, to write into.

    NumPy's own view of a tensor is read-only, and a copy takes as long as the product.
    """

    def __init__(self, tensor: tf.Tensor) -> None:
        self._view = np.asarray(memoryview(tensor))  # keeps the memory as long as the array made of this
        seen = self._view.__array_interface__
        self.__array_interface__ = {**seen, "data": (seen["data"][0], False)}


@dataclass(frozen=True)
class Asked:
    """Requests in raw ids: users ("" for an unknown one), their histories oldest first, the requests' context."""

    users: list[str]
    histories: list[list[str]]
    context: Mapping[str, npt.NDArray[np.generic]]


class IdLists:
    """A bundle or server behind ids: `ask` gets requests and k.

    It returns, for each request, item ids and scores, best first and without the history's items. Items that are `newer` than all that
    is evaluated are passed over.
    """

    def __init__(
        self,
        ask: Callable[[Asked, int], tuple[Sequence[Sequence[str]], Sequence[Sequence[float]]]],
        users: Vocabulary,
        items: Vocabulary,
        newer: Iterable[str] = (),
    ) -> None:
        self._ask, self._users, self._items = ask, users, items
        self._row = dict.fromkeys(newer, 0) | {value: row for row, value in enumerate(items.values, start=1)}

    def top(self, cases: Cases, k: int) -> tuple[Ints, Floats]:
        """Returns item rows and scores `[cases, k]`; raises `UserError` for an id outside the item vocabulary."""
        ids = self._items.decode(cases.history.items)
        histories = [
            [item for item in ids[start:end] if item] for start, end in pairwise(cases.history.offsets)
        ]
        names, scores = self._ask(Asked(self._users.decode(cases.user), histories, cases.context), k)
        rows = np.zeros((len(cases), k), np.int32)
        values = np.full((len(cases), k), NO_SCORE, np.float32)
        for case, (some, their) in enumerate(zip(names, scores, strict=True)):
            unknown = next((name for name in some if name not in self._row), None)
            if unknown is not None:
                raise UserError(f"the bundle recommends item {unknown!r}, which this data set does not hold")
            rows[case, : len(some)] = [self._row[name] for name in some]
            values[case, : len(some)] = their
        return rows, values
