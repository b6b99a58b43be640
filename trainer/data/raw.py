"""Feature columns to raw values: what a layer of `trainer.towers.features` encodes, and what a request would send."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.data.interactions import Corpus, Dataset, Feature, FeatureKind
from trainer.data.vocabulary import Vocabulary
from trainer.errors import UserError

Column = npt.NDArray[np.generic]


@dataclass(frozen=True)
class RawFeatures:
    """Reads the features of one data set."""

    users: Vocabulary
    items: Vocabulary
    widths: Mapping[str, int]  # numbers of each vector of the context

    @classmethod
    def of(cls, dataset: Dataset, users: Vocabulary, items: Vocabulary) -> "RawFeatures":
        """Returns the reader, or raises `UserError` where tables or lists hold ids of another data set."""
        for corpus, features, known in (
            (dataset.users, dataset.schema.user, users),
            (dataset.items, dataset.schema.item, items),
        ):
            if features:
                _check_table(corpus, known)
        parts = [
            part.frame
            for part in (dataset.interactions, dataset.validation, dataset.test)
            if part is not None
        ]
        tables = (
            ([dataset.users.frame], dataset.schema.user),
            ([dataset.items.frame], dataset.schema.item),
            (parts, dataset.schema.context),
        )
        for frames, features in tables:
            for feature in features:
                if feature.of is not None:
                    lists = pl.concat([_lists(frame[feature.name]) for frame in frames])
                    _check_related(feature, lists, users if feature.of == "user" else items)
        vectors = [feature.name for feature in dataset.schema.context if feature.kind == "vector"]
        widths = {name: max(_width(frame[name]) for frame in parts) for name in vectors}
        return cls(users, items, widths)

    def column(self, column: pl.Series, feature: Feature) -> Column:
        """Returns a context feature's raw values, one for each event."""
        return raw_column(self._related(column, feature), feature.kind, self.widths.get(feature.name))

    def table(self, corpus: Corpus, features: Sequence[Feature]) -> dict[str, Column | list[list[str]]]:
        """Returns the raw columns of users or items by vocabulary row; row 0 and ids not in the table are missing."""
        table = by_row(corpus, self.users if corpus.id_column == "user_id" else self.items)
        columns: dict[str, Column | list[list[str]]] = {}
        for feature in features:
            column = self._related(table[feature.name], feature)
            if feature.kind in ("bag", "ids") and isinstance(column.dtype, pl.List):
                bags = column.cast(pl.List(pl.String)).to_list()
                columns[feature.name] = [[label for label in bag or () if label] for bag in bags]
            else:
                columns[feature.name] = raw_column(column, feature.kind)
        return columns

    def _related(self, column: pl.Series, feature: Feature) -> pl.Series:
        """Returns a column of lists of ids with only those of the data set; other columns as they are."""
        if feature.of is None:
            return column
        known = pl.Series((self.users if feature.of == "user" else self.items).values, dtype=pl.String)
        ids = _lists(column).to_frame().with_row_index("row")
        kept = ids.explode("ids").filter(pl.col("ids").is_in(known.implode()))
        lists = kept.group_by("row", maintain_order=True).agg("ids")
        return ids.select("row").join(lists, on="row", how="left", maintain_order="left")["ids"]


def raw_column(column: pl.Series, kind: FeatureKind, width: int | None = None) -> Column:
    """Returns raw values `[rows]`: float64 with NaN, or strings with "" where missing; bags and ids joined by '|'.

    Vectors are float32 `[rows, width]`, NaN where missing; `width` None: as wide as those that are there.
    """
    if kind == "vector":
        return _vectors(column, width or _width(column))
    if kind in ("number", "count", "time"):
        return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if isinstance(column.dtype, pl.List):
        column = column.list.join("|")
    column = column.cast(pl.String).fill_null("")
    labels = column.unique(maintain_order=True)
    rows = column.cast(pl.Enum(labels)).to_physical().to_numpy()
    values: Column = np.array([*labels.to_list(), ""], dtype=object)[rows]
    return values


def by_row(corpus: Corpus, vocabulary: Vocabulary) -> pl.DataFrame:
    """Returns the table in the order of the vocabulary's rows, nulls where it has no row."""
    rows = pl.DataFrame({corpus.id_column: pl.Series(["", *vocabulary.values], dtype=pl.String)})
    return rows.join(corpus.frame, on=corpus.id_column, how="left", maintain_order="left")


def _vectors(column: pl.Series, width: int) -> Column:
    vectors = column.cast(pl.List(pl.Float32))
    there = vectors.is_not_null().to_numpy()
    values = np.full((len(there), width), np.nan, np.float32)
    values[there] = vectors.drop_nulls().explode().to_numpy().reshape(-1, width)
    return values


def _width(column: pl.Series) -> int:
    first = column.drop_nulls()[:1]
    return len(first[0]) if len(first) else 1


def _lists(column: pl.Series) -> pl.Series:
    return column.cast(pl.List(pl.String)).alias("ids")


def _check_table(corpus: Corpus, known: Vocabulary) -> None:
    trained = pl.Series(known.values[: known.trained], dtype=pl.String)
    if not corpus.frame[corpus.id_column].is_in(trained.implode()).any():
        raise UserError(
            f"the table of {corpus.id_column}s has a row for none of the {len(trained)} of the training events, like "
            f"{trained[0]!r}; are they ids of another data set?"
        )


def _check_related(feature: Feature, lists: pl.Series, known: Vocabulary) -> None:
    listed = lists.explode().drop_nulls().unique(maintain_order=True)
    if len(listed) and not known.encode(listed).any():
        raise UserError(
            f"{feature.name!r} lists {feature.of}s like {listed[0]!r}, and none of them is one of this data set, "
            f"like {known.values[0]!r}; are they ids of another one?"
        )
