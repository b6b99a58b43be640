"""What a data source hands over: interactions, corpora with features, and the schema that describes them."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import polars as pl
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trainer.errors import UserError
from trainer.registry import did_you_mean
from trainer.settings import Settings

FeatureKind = Literal["category", "number", "count", "bag", "ids", "text", "vector", "time"]
REQUIRED = ("user_id", "item_id")
RESERVED = ("user_id", "item_id", "timestamp", "rating", "weight")


LIMITS = {
    "text": 16,
    "bag": 16,
    "ids": 50,
}  # words, labels and ids of a row that are read, unless settings say


class FeatureSettings(Settings):
    """What a column is.

    `category`: one label; `number`: a real number; `count`: a number of at least 0 that is read by its logarithm (clicks,
    views); `bag`: several labels (a list column); `ids`: several ids of users or items (friends, a basket), those that the
    data set does not know are passed over; `text`: words; `vector`: the numbers that any model made of a text or a
    picture, equally many in each row; `time`: seconds since 1970-01-01 UTC. Any may be missing in a row.
    """

    kind: FeatureKind
    # Features of one such name, on whichever side, are read by one layer: the same word has the same vector in both.
    shares: str | None = None
    # of a text: letters of the pieces that are read beside its words; 0: none
    ngrams: int = Field(0, ge=0, le=8)
    of: Literal["user", "item"] | None = None  # of ids: whose they are; None: of the table that they stand in
    # how many words of a text, labels of a bag, or ids are read, the first ones; None: 16, of ids 50
    limit: int | None = Field(None, ge=1, le=1_000)

    @model_validator(mode="after")
    def _fitting(self) -> "FeatureSettings":
        if self.ngrams and self.kind != "text":
            raise ValueError(f"ngrams are of texts, and this is of kind {self.kind!r}")
        if self.of and self.kind != "ids":
            raise ValueError(f"of={self.of!r} is for ids, and this is of kind {self.kind!r}")
        if self.limit is not None and self.kind not in LIMITS:
            raise ValueError(f"limit is of {', '.join(LIMITS)}, and this is of kind {self.kind!r}")
        return self

    @property
    def most(self) -> int:
        """How many words, labels or ids of a row are read; of other kinds there is one value."""
        return self.limit or LIMITS.get(self.kind, 1)


def _from_kind(value: Any) -> Any:
    """Returns the settings of a feature of which only the kind is given."""
    if not isinstance(value, str):
        return value
    if value not in get_args(FeatureKind):
        near = did_you_mean(value, get_args(FeatureKind))
        raise PydanticCustomError("kind", "no such kind of feature{near}", {"near": near})
    return {"kind": value}


Declared = Annotated[FeatureSettings, BeforeValidator(_from_kind)]  # a kind alone, or a table with settings


class Feature(FeatureSettings):
    """One column with what it is."""

    name: str


class Schema(Settings):
    """The features of users, of items and of the request (context), and the item column people read."""

    user: tuple[Feature, ...] = ()
    item: tuple[Feature, ...] = ()
    context: tuple[Feature, ...] = ()
    title: str | None = None

    @model_validator(mode="after")
    def _shared_alike(self) -> "Schema":
        first: dict[str, Feature] = {}
        for feature in (*self.user, *self.item, *self.context):
            if feature.shares is None:
                continue
            other = first.setdefault(feature.shares, feature)
            if (other.kind, other.ngrams, other.most) != (feature.kind, feature.ngrams, feature.most):
                raise UserError(
                    f"features {other.name!r} and {feature.name!r} share {feature.shares!r}: they need the same kind, the "
                    "same ngrams and the same limit"
                )
        return self


@dataclass(frozen=True)
class Interactions:
    """Events, one a row, in the order of the file.

    Columns: `user_id` and `item_id` (strings, never null or empty), `timestamp` (whole seconds since 1970
    UTC, int64; all null when the source has no time, and then the file order is the order of events),
    `rating` (float32, null where there is none), `weight` (float32, at least 0, 1 where nothing was said),
    `behaviour` (strings: view, purchase, ...) where the source tells events apart, and one column for each context
    feature.
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

        parts = [part for part in (self.interactions, self.validation, self.test) if part is not None]
        for name, frames, features in (
            ("user_id", [self.users.frame], self.schema.user),
            ("item_id", [self.items.frame], self.schema.item),
            ("interactions", [part.frame for part in parts], self.schema.context),
        ):
            _check_vectors(name, frames, (feature.name for feature in features if feature.kind == "vector"))

    def fingerprint(self) -> str:
        """Returns a SHA-256 over all interactions and both corpora: same data, same fingerprint."""
        digest = hashlib.sha256()
        parts = [self.interactions.frame, self.users.frame, self.items.frame]
        parts += [part.frame for part in (self.validation, self.test) if part is not None]
        for frame in parts:
            digest.update(repr(frame.schema).encode())
            digest.update(frame.hash_rows(seed=0).to_numpy().tobytes())
        return digest.hexdigest()


def _check_vectors(table: str, frames: Iterable[pl.DataFrame], columns: Iterable[str]) -> None:
    """Raises `UserError` for a vector of another length than the first of its column, or with a number that is none."""
    frames = list(frames)
    for name in columns:
        width = 0
        for frame in frames:
            vectors = frame[name].cast(pl.List(pl.Float32))
            lengths = vectors.list.len().fill_null(0).to_numpy()
            width = width or int(lengths[lengths > 0][:1].sum())
            hole = pl.element().is_null() | pl.element().is_nan() | pl.element().is_infinite()
            broken = vectors.list.eval(hole).list.any().fill_null(False).to_numpy()
            bad = (vectors.is_not_null().to_numpy() & (lengths != width)) | broken
            if bad.any():
                row = int(bad.argmax())
                what = "one that is missing or not finite" if broken[row] else f"{lengths[row]} numbers"
                which = f"{table} {frame[table][row]!r}" if table in frame.columns else f"event {row + 1}"
                raise UserError(f"the vector {name!r} of {which} has {what}; it takes {width} finite numbers")
