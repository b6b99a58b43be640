"""What a data source hands over: interactions, corpora with features, and the schema that describes them."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from trainer.config import Settings
from trainer.errors import UserError

FeatureKind = Literal["category", "number", "bag", "text", "time"]
REQUIRED = ("user_id", "item_id")
RESERVED = ("user_id", "item_id", "timestamp", "rating", "weight")


class Feature(Settings):
    """One column with its kind.

    `category`: one label; `number`: a real number, missing allowed; `bag`: several labels (a list column);
    `text`: words; `time`: seconds since 1970-01-01 UTC.
    """

    name: str
    kind: FeatureKind


class Schema(Settings):
    """The features of users, of items and of the request (context), and the item column people read."""

    user: tuple[Feature, ...] = ()
    item: tuple[Feature, ...] = ()
    context: tuple[Feature, ...] = ()
    title: str | None = None


@dataclass(frozen=True)
class Interactions:
    """Events, one a row, in the order of the file.

    Columns: `user_id` and `item_id` (strings, never null or empty), `timestamp` (whole seconds since 1970
    UTC, int64; all null when the source has no time, and then the file order is the order of events),
    `rating` (float32, null where there is none), `weight` (float32, at least 0, 1 where nothing was said),
    and one column for each context feature.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        missing = [name for name in RESERVED if name not in self.frame.columns]
        if missing:
            raise ValueError(f"interactions lack the columns {missing}; there are {self.frame.columns}")
        for name in REQUIRED:
            bad = self.frame[name].is_null() | (self.frame[name] == "")
            if bad.any():
                raise UserError(f"row {int(bad.arg_max() or 0) + 1} of the interactions has an empty {name}")
        untimed = self.frame["timestamp"].is_null()
        if untimed.any() and not untimed.all():
            raise UserError(f"row {int(untimed.arg_max() or 0) + 1} has no timestamp, and others have")
        weight = self.frame["weight"]
        wrong = weight.is_null() | weight.is_nan() | (weight < 0)
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise UserError(f"row {row + 1} has weight {weight[row]}; a weight is a number of at least 0")

    def __len__(self) -> int:
        return self.frame.height

    @property
    def has_time(self) -> bool:
        """Returns whether the events carry timestamps."""
        return self.frame.height > 0 and self.frame["timestamp"].null_count() < self.frame.height

    @property
    def has_ratings(self) -> bool:
        """Returns whether any event carries a rating."""
        return self.frame["rating"].null_count() < self.frame.height


@dataclass(frozen=True)
class Corpus:
    """Users or items with their features, one a row: the id first, ids unique, missing features null."""

    frame: pl.DataFrame
    id_column: str

    def __post_init__(self) -> None:
        ids = self.frame[self.id_column]
        if ids.null_count() or (ids == "").any():
            raise UserError(f"the table of {self.id_column} has a row without an id")
        twice = ids.filter(ids.is_duplicated())
        if len(twice):
            raise UserError(
                f"{self.id_column} {twice[0]!r} stands in two rows of its table; an id has one row"
            )


@dataclass(frozen=True)
class Dataset:
    """A data source's whole answer.

    `validation` and `test` are there when the source brings a published split. `best_reachable` holds what
    a synthetic world knows of itself (metric name -> the score of its own truth).
    """

    name: str
    interactions: Interactions
    users: Corpus
    items: Corpus
    schema: Schema
    validation: Interactions | None = None
    test: Interactions | None = None
    best_reachable: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.interactions):
            raise UserError(f"data set {self.name!r} has no interactions")
        for column in REQUIRED:
            count = self.interactions.frame[column].n_unique()
            if count < 2:
                raise UserError(
                    f"data set {self.name!r} has {count} distinct {column}; a recommender needs at least 2"
                )
        for corpus, features in ((self.users, self.schema.user), (self.items, self.schema.item)):
            for feature in features:
                if feature.name not in corpus.frame.columns:
                    raise UserError(
                        f"feature {feature.name!r} is declared, but the table of {corpus.id_column} has "
                        f"the columns {', '.join(corpus.frame.columns)}"
                    )

    def fingerprint(self) -> str:
        """Returns a SHA-256 over all interactions and both corpora: same data, same fingerprint."""
        digest = hashlib.sha256()
        parts = [self.interactions.frame, self.users.frame, self.items.frame]
        parts += [part.frame for part in (self.validation, self.test) if part is not None]
        for frame in parts:
            digest.update(repr(frame.schema).encode())
            digest.update(frame.hash_rows(seed=0).to_numpy().tobytes())
        return digest.hexdigest()
