"""Integer events, histories and evaluation cases: what models, baselines and the evaluator all read.

Users and items are rows of their vocabularies (0 = unknown); nothing here knows a string id.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse

from trainer.data.interactions import Schema
from trainer.data.vocabulary import Vocabulary

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def offsets_of(lengths: npt.NDArray[np.integer]) -> Longs:
    """Returns where lists of these lengths begin, end to end, and last where they end `[lists + 1]`."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def by_time(user: npt.NDArray[np.integer], timestamp: Longs) -> npt.NDArray[np.integer]:
    """Returns the places of events by user, then time, equals in their order."""
    keys = pl.DataFrame({"user": user, "timestamp": timestamp})
    return keys.select(pl.arg_sort_by(["user", "timestamp"], maintain_order=True)).to_series().to_numpy()


@dataclass(frozen=True)
class Lists:
    """Lists of items end to end: list `i` is `items[offsets[i]:offsets[i + 1]]`, oldest event first."""

    offsets: Longs  # [lists + 1]
    items: Ints  # [events]
    timestamps: Longs  # [events], seconds; the event's order number where the data has no time
    weights: Floats | None = None  # [events]; None: all alike

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Longs:
        """Returns the number of events of each list `[lists]`."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Longs:
        """Returns the list that each event stands in `[events]`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: npt.NDArray[np.integer]) -> "Lists":
        """Returns the lists `rows`, in that order."""
        return self.spans(self.offsets[rows], self.lengths[rows])

    def spans(self, starts: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> "Lists":
        """Returns lists of as many events as `lengths` say, each from the event `starts` on."""
        offsets = offsets_of(lengths)
        return self.cut(offsets, np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]))

    def cut(self, offsets: Longs, places: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> "Lists":
        """Returns lists of the events `places`, which begin at `offsets`."""
        weights = None if self.weights is None else self.weights[places]
        return Lists(offsets, self.items[places], self.timestamps[places], weights)

    def matrix(self, columns: int) -> scipy.sparse.csr_matrix:
        """Returns the lists as counts `[lists, columns]`; the unknown (column 0) is left out."""
        return self.matrix_of(np.ones(len(self.items), np.float32), columns)

    def matrix_of(self, values: Floats, columns: int) -> scipy.sparse.csr_matrix:
        """Returns `values` `[events]` summed by list and item `[lists, columns]`, without column 0."""
        known = np.where(self.items == 0, np.float32(0), values)
        # Copied, for summing sorts the matrix's own arrays in place, and the lists must keep their order.
        matrix = scipy.sparse.csr_matrix((known, self.items, self.offsets), (len(self), columns), copy=True)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix

    def padded(self, length: int) -> tuple[Ints, Longs]:
        """Returns items and timestamps `[lists, length]` of each list's last events, padded right with 0."""
        kept = np.minimum(self.lengths, length)
        column = np.arange(length)
        inside = column < kept[:, None]
        places = np.where(inside, (self.offsets[1:] - kept)[:, None] + column, 0)
        if not len(self.items):
            return np.zeros(inside.shape, np.int32), np.zeros(inside.shape, np.int64)
        return (
            np.where(inside, self.items[places], 0).astype(np.int32),
            np.where(inside, self.timestamps[places], 0).astype(np.int64),
        )


@dataclass(frozen=True)
class Events:
    """Events sorted by user, then time, equals in file order. All arrays are `[events]`."""

    user: Ints
    item: Ints
    timestamp: Longs  # seconds, or the file order where the data has no time
    rating: Floats  # NaN where there is none
    weight: Floats
    # raw values, strings or numbers
    context: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> "Events":
        """Returns the events `rows`, in that order."""
        context = {name: column[rows] for name, column in self.context.items()}
        return Events(
            self.user[rows],
            self.item[rows],
            self.timestamp[rows],
            self.rating[rows],
            self.weight[rows],
            context,
        )

    def merged(self, later: "Events") -> "Events":
        """Returns these events and `later` ones by user and time, at one moment these first; without context."""
        names = ("user", "item", "timestamp", "rating", "weight")
        columns: list[Any] = [np.concatenate([getattr(self, name), getattr(later, name)]) for name in names]
        both = Events(*columns)
        return both.take(by_time(both.user, both.timestamp))

    def known(self) -> "Events":
        """Returns the events of known users with known items."""
        return self.take((self.user > 0) & (self.item > 0))

    def by_user(self, users: int) -> Lists:
        """Returns one list a user row `[users]`, its events in order."""
        counts = np.bincount(self.user, minlength=users)
        differ = len(self) > 0 and self.weight.min() != self.weight.max()
        return Lists(offsets_of(counts), self.item, self.timestamp, self.weight if differ else None)


@dataclass(frozen=True)
class Cases:
    """Evaluation queries: who asks, what they did before, and what they did next. First axis `[cases]`.

    `history` holds all that the model may know (and that is masked in its answer); `disliked` what is masked
    beside it, for nobody wants again what they disliked; `positives` what it should find. A positive that is
    outside the corpus has item row 0: nobody can find it, and it counts as missed.
    """

    user: Ints
    history: Lists
    positives: Lists
    timestamp: Longs  # the moment of the request: the first positive's
    context: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)  # the first positive's
    disliked: Lists | None = None
    dropped: int = 0  # positives left out because their user had them before

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.integer]) -> "Cases":
        """Returns the cases `rows`, in that order."""
        context = {name: column[rows] for name, column in self.context.items()}
        return Cases(
            self.user[rows],
            self.history.take(rows),
            self.positives.take(rows),
            self.timestamp[rows],
            context,
            None if self.disliked is None else self.disliked.take(rows),
            self.dropped,
        )

    def at_most(self, most: int, seed: int = 0) -> "Cases":
        """Returns the cases, or where there are more than `most` a fixed sample of so many, in their order."""
        if len(self) <= most:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)))


def no_events() -> Events:
    """Returns events of nobody."""
    rows, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return Events(rows, rows, np.zeros(0, np.int64), floats, floats)


@dataclass(frozen=True)
class Prepared:
    """A data set ready to train on. `train` is what retrieval learns from; rows are the vocabularies'."""

    schema: Schema
    users: Vocabulary
    items: Vocabulary
    # raw, by row of `users`, row 0 missing
    user_features: Mapping[str, npt.NDArray[np.generic] | list[list[str]]]
    # raw, by row of `items`, row 0 missing
    item_features: Mapping[str, npt.NDArray[np.generic] | list[list[str]]]
    titles: tuple[str, ...]  # by row of `items`; the id where there is no title
    train: Events
    validation: Cases
    test: Cases
    rated_train: Events  # what ranking learns from: every event, those of dislikes with a weight below 0
    rated_validation: Events
    rated_test: Events
    ordered: bool  # whether histories are the past of an event (else: the user's other events)
    before_test: Events  # `train` with the validation positives: what users had done when the test began
    everything: Events  # the test positives too; `newcomers` have the rows after those of `users`, `new_items` after `items`
    best_reachable: Mapping[str, float] = field(default_factory=dict)
    timed: bool = True  # whether the events carry times; else their order may mean nothing
    # Pairs of the training part that the user dislikes, one event each, sorted by user; the weight says how strongly.
    negative: Events = field(default_factory=no_events)
    negative_before_test: Events = field(default_factory=no_events)
    negative_everything: Events = field(default_factory=no_events)
    liked: npt.NDArray[np.bool_] | None = None  # which events of `rated_train` are positives; None: not known

    newcomers: tuple[str, ...] = ()  # users whom training has not seen
    new_items: Mapping[str, str] = field(default_factory=dict)  # items that it has not seen, to their titles

    def without_context(self, columns: Collection[str]) -> "Prepared":
        """Returns the data without some columns among the features of the request."""
        context = tuple(feature for feature in self.schema.context if feature.name not in columns)
        return replace(self, schema=self.schema.model_copy(update={"context": context}))

    def with_test(self) -> "Prepared":
        """Returns what is served once the test is over: `before_test` holds its events too, and the vocabularies who was new in it."""
        return replace(
            self,
            users=Vocabulary((*self.users.values, *self.newcomers), self.users.trained),
            items=Vocabulary((*self.items.values, *self.new_items), self.items.trained),
            item_features={
                name: _with_missing(column, len(self.new_items))
                for name, column in self.item_features.items()
            },
            titles=(*self.titles, *self.new_items.values()),
            before_test=self.everything,
            negative_before_test=self.negative_everything,
        )


def _with_missing(
    column: npt.NDArray[np.generic] | list[list[str]], count: int
) -> npt.NDArray[np.generic] | list[list[str]]:
    """Returns a column by row with `count` more rows, missing as row 0 is."""
    if isinstance(column, list):
        return column + column[:1] * count
    return np.concatenate([column, np.repeat(column[:1], count, axis=0)])
