"""Raw columns to typed ones, each with a mask of the rows whose value cannot be understood."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from trainer.data.interactions import FeatureKind
from trainer.data.reading.texts import COMMAS, as_text, decimal_commas, without_missing
from trainer.data.reading.times import NO_TIME, epoch_milliseconds, epoch_seconds

Kind = FeatureKind | Literal["id", "timestamp", "rating", "weight"]

BETWEEN = r"[\s,;|]+"  # what stands between the numbers of a vector in a text


LISTED = r"(?s)^\[(.*)\]$"  # a list as Python and JSON write it


UNREAD = (pl.Binary, pl.Struct, pl.Duration, pl.Time, pl.Object)  # types that no kind is read from
MOST = 1e15  # of a rating or a weight: squares of larger ones leave the range of single precision
NUMERIC = ("number", "count", "rating", "weight")


@dataclass(frozen=True)
class Typed:
    """A column after conversion. `bad` marks the rows that were not understood, for the `reason`."""

    values: pl.Series
    bad: pl.Series
    reason: str


def convert(column: pl.Series, kind: Kind, bag_separator: str = "|") -> Typed:
    """Returns the column as its kind asks; missing values stay null, but a missing weight is 1."""
    if kind in ("bag", "ids"):
        return _good(as_bag(column, bag_separator))
    typed = _CONVERTERS[kind](column)
    commas = kind in NUMERIC and typed.bad.any() and decimal_commas(column)
    return replace(typed, reason=f"{typed.reason}; {COMMAS}") if commas else typed


def readable(dtype: pl.DataType, kind: Kind | None = None) -> bool:
    """Returns whether columns of a type can be read as `kind`, or as any kind where it is None; lists of lists cannot."""
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        flat = isinstance(inner, pl.DataType) and not inner.is_nested() and readable(inner, kind and "id")
        return flat and kind in (None, "bag", "ids", "vector")
    return not (
        isinstance(dtype, UNREAD) or (kind in NUMERIC and isinstance(dtype, pl.Categorical | pl.Enum))
    )


def as_bag(column: pl.Series, separator: str) -> pl.Series:
    """Returns lists of labels: list columns as they are, strings parted at the separator; empty ones null.

    Strings written as Python's and JSON's lists are, `['a', 'b']`, are parted at their commas.
    """
    if not isinstance(column.dtype, pl.List | pl.Array):
        text = column.cast(pl.String).str.strip_chars()
        inside = text.str.extract(LISTED)
        labels = inside.str.split(",").list.eval(pl.element().str.strip_chars(" \t\n'\""))
        parted = pl.when(inside.is_not_null()).then(labels).otherwise(text.str.split(separator))
        column = pl.select(parted).to_series()
    frame = column.cast(pl.List(pl.String)).alias("bag").to_frame()
    clean = pl.col("bag").list.eval(pl.element().str.strip_chars().filter(pl.element() != ""))
    return frame.select(pl.when(clean.list.len() > 0).then(clean)).to_series()


def as_vectors(column: pl.Series) -> pl.Series:
    """Returns lists of float32: list columns, or texts like `0.1 0.2`, `[0.1, 0.2]`; null where nothing stands.

    What is no number becomes null inside its list.
    """
    if not isinstance(column.dtype, pl.List | pl.Array):
        text = as_text(column).str.strip_chars(" \t[]()")
        column = text.set(text == "", None).str.replace_all(BETWEEN, " ").str.split(" ")
    frame = column.cast(pl.List(pl.Float32), strict=False).alias("vector").to_frame()
    return frame.select(pl.when(pl.col("vector").list.len() > 0).then("vector")).to_series()


def _id(column: pl.Series) -> Typed:
    text = as_text(column)
    broken = text.str.contains("\n").fill_null(False)
    if broken.any():
        return Typed(
            text, text.is_null() | broken, "empty, or over several lines: is a quotation mark left open?"
        )
    return Typed(text, text.is_null(), "empty")


def _timestamp(column: pl.Series) -> Typed:
    """Returns milliseconds; where any event has a time, all must."""
    times = epoch_milliseconds(column)
    absent = as_text(column).is_null() if column.dtype == pl.String else column.is_null()
    if absent.all():
        return _good(times)
    return Typed(times, times.is_null(), NO_TIME)


def _time(column: pl.Series) -> Typed:
    seconds = epoch_seconds(column)
    return Typed(seconds.cast(pl.Float64), seconds.is_null() & _written(column), NO_TIME)


def _number(column: pl.Series) -> Typed:
    """Returns numbers; `true` and `false` are 1 and 0."""
    said = column
    if column.dtype == pl.String:
        said = without_missing(column).str.to_lowercase().replace({"true": "1", "false": "0"})
    number = said.cast(pl.Float64, strict=False)
    bad = (number.is_null() & _written(said)) | number.is_infinite().fill_null(False)
    return Typed(number.fill_nan(None), bad, "not a number")


def _count(column: pl.Series) -> Typed:
    number = _number(column)
    below = (number.values < 0).fill_null(False)
    return Typed(number.values, number.bad | below, "a count is a number of at least 0")


def _vector(column: pl.Series) -> Typed:
    """Returns vectors; a row is bad that has not as many numbers as most, or one that is not finite."""
    vectors = as_vectors(column)
    lengths = vectors.list.len()
    width = lengths.drop_nulls().mode(maintain_order=True).first()
    hole = pl.element().is_null() | pl.element().is_nan() | pl.element().is_infinite()
    bad = (lengths != width) | vectors.list.eval(hole).list.any()
    return Typed(vectors, bad.fill_null(False), f"not {width or 0!s} finite numbers, as most rows have")


def _rating(column: pl.Series) -> Typed:
    number = _number(column)
    bad = number.bad | (number.values.abs() > MOST).fill_null(False)
    return Typed(number.values.cast(pl.Float32), bad, f"not a number from -{MOST:g} to {MOST:g}")


def _weight(column: pl.Series) -> Typed:
    said = column.str.strip_chars() if column.dtype == pl.String else column
    number = said.cast(pl.Float64, strict=False)
    unread = number.is_null() & _written(column)
    bad = unread | (number.is_nan() | (number > MOST) | (number < 0)).fill_null(False)
    return Typed(number.fill_null(1).cast(pl.Float32), bad, f"a weight is a number from 0 to {MOST:g}")


def _written(column: pl.Series) -> pl.Series:
    """Returns where something stands in the column."""
    if column.dtype == pl.String:
        return (column.str.strip_chars() != "").fill_null(False)
    return column.is_not_null()


def _label(column: pl.Series) -> Typed:
    return _good(as_text(column))


def _good(values: pl.Series) -> Typed:
    return Typed(values, pl.Series([False]).new_from_index(0, len(values)), "")


_CONVERTERS: dict[Kind, Callable[[pl.Series], Typed]] = {
    "id": _id,
    "timestamp": _timestamp,
    "rating": _rating,
    "weight": _weight,
    "category": _label,
    "text": _label,
    "number": _number,
    "count": _count,
    "vector": _vector,
    "time": _time,
}
