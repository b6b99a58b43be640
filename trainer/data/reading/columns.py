"""Raw columns to typed ones, each with a mask of the rows whose value cannot be understood."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from trainer.data.interactions import FeatureKind

Kind = FeatureKind | Literal["id", "timestamp", "rating", "weight"]

BETWEEN = r"[\s,;|]+"  # what stands between the numbers of a vector in a text

WHOLE = r"\.0+$"  # the end of a decimal number that is whole

LISTED = r"(?s)^\[(.*)\]$"  # a list as Python and JSON write it

# What `to_datetime` is asked for, one after the other, until all is read; no zone means UTC.
TIME_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f UTC",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S%.f UTC",
    "%Y-%m-%dT%H:%M%#z",
    "%Y%m%dT%H%M%S%#z",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
)

NO_TIME = "not a time (ISO 8601, seconds to nanoseconds since 1970, or days such as 20240131)"

MISSING = (
    "null",
    "nan",
    "none",
    "nil",
    "na",
    "n/a",
    "<na>",
    "undefined",
    r"\n",
)  # no value, written as a word

UNREAD = (pl.Binary, pl.Struct, pl.Duration, pl.Time, pl.Object)  # types that no kind is read from
MOST = 1e15  # of a rating or a weight: squares of larger ones leave the range of single precision
NUMERIC = ("number", "count", "rating", "weight")
DECIMAL_COMMA = r"^\s*[-+]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?\s*$"
DAYS_FIRST = r"^\s*\d{1,2}[./-]\d{1,2}[./-](19|20)\d{2}(\s.*)?$"
DATES = "whether the day or the month comes first is not guessed: write 2024-01-31, with T12:00:00 behind it for the time"
COMMAS = "decimal commas are not read: write 1.50 for 1,50"

ENOUGH = 20  # repeated rows of keys whose value is not the most common one: with fewer, `follows` says no
SAME = 0.98  # share of those rows with their key's value
CLEARLY = 0.9  # how far that share must be on the way from what chance would give to 1


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


def as_text(column: pl.Series) -> pl.Series:
    """Returns labels or ids as strings, "" as null; whole floats as integers, for gaps make floats."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        if ((column == column.floor()) & (column.abs() < 2**63)).all():
            column = column.cast(pl.Int64)
    text = column.cast(pl.String)
    if column.dtype.is_decimal() and text.drop_nulls().str.contains(WHOLE).all():
        text = text.str.replace(WHOLE, "")
    return text.set(text == "", None)


def without_missing(column: pl.Series) -> pl.Series:
    """Returns texts without spaces around them, null for the words that stand for no value."""
    bare = column.str.strip_chars()
    return bare.set(bare.str.to_lowercase().is_in(MISSING).fill_null(False), None)


def decimal_commas(column: pl.Series) -> bool:
    """Returns whether all values are numbers, some of them with a decimal comma: `1,50`."""
    if column.dtype != pl.String:
        return False
    known = as_text(column).drop_nulls()
    return bool(known.str.contains(DECIMAL_COMMA).all() and known.str.contains(",", literal=True).any())


def days_first(column: pl.Series) -> bool:
    """Returns whether all values are dates of which the day, or the month, comes first: `31.01.2024 12:00`."""
    known = as_text(column).drop_nulls() if column.dtype == pl.String else pl.Series([], dtype=pl.String)
    return len(known) > 0 and bool(known.str.contains(DAYS_FIRST).all())


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


def follows(values: pl.Series, keys: pl.Series) -> bool:
    """Returns whether a column belongs to a key, such as the item: nearly always the same for one key, not the same for all.

    There must be enough rows of the same key to tell, and for a column that nearly always says one thing, enough
    rows of keys with another.
    """
    if isinstance(values.dtype, pl.List | pl.Array):
        return False
    frame = pl.DataFrame({"key": keys, "value": values}).drop_nulls()
    if not frame.height:
        return False
    of_pairs = frame.group_by("key", "value").len().sort("len")
    of_keys = of_pairs.group_by("key").agg(
        most=pl.col("len").last(), rows=pl.col("len").sum(), value=pl.col("value").last()
    )
    shares = frame["value"].value_counts(sort=True).with_columns(pl.col("count") / frame.height)
    others = of_keys.filter(pl.col("value") != shares["value"][0])
    if int((others["rows"] - 1).sum()) < ENOUGH:
        return False
    same = float((of_keys["most"] - 1).sum()) / int((of_keys["rows"] - 1).sum())
    by_chance = float((shares["count"] ** 2).sum())
    return same >= SAME and same - by_chance >= CLEARLY * (1 - by_chance)


def epoch_seconds(column: pl.Series) -> pl.Series:
    """Returns whole seconds since 1970 UTC, of what `epoch_milliseconds` reads."""
    return epoch_milliseconds(column) // 1000


def epoch_milliseconds(column: pl.Series) -> pl.Series:
    """Returns milliseconds since 1970 UTC, null where there is no time to be read.

    Takes dates and times, ISO texts, and numbers in seconds, milli-, micro- or nanoseconds: the unit is
    seen from the middle of the column. Where most numbers are days such as 20240131, all are read as days.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("ms")).dt.epoch("ms")
    if column.dtype.is_numeric():
        return _from_number(column)
    text = as_text(column).str.strip_chars()
    number = text.cast(pl.Float64, strict=False)
    read, known = number.len() - number.null_count(), text.len() - text.null_count()
    return _from_number(number) if 2 * read >= known else _from_text(text)


def written_as_days(column: pl.Series) -> bool:
    """Returns whether most values are days written as whole numbers, such as 20240131."""
    number = column if column.dtype.is_numeric() else as_text(column)
    known = number.cast(pl.Float64, strict=False).fill_nan(None).drop_nulls()
    return bool(len(known)) and 2 * _days(known).null_count() < len(known)


def _days(number: pl.Series) -> pl.Series:
    """Returns days written as whole numbers from 1900 to 2100, null where a number is no such day."""
    inside = number.is_between(19_000_101, 21_001_231) & (number == number.floor())
    if not inside.any():
        return pl.Series(number.name, [None], dtype=pl.Date).new_from_index(0, len(number))
    return number.set(~inside, None).cast(pl.Int64).cast(pl.String).str.to_date("%Y%m%d", strict=False)


def _from_number(column: pl.Series) -> pl.Series:
    number = column.cast(pl.Float64).fill_nan(None)
    if written_as_days(number):
        return _days(number).cast(pl.Datetime("ms")).dt.epoch("ms")
    middle = abs(float(number.abs().median() or 0))  # type: ignore[arg-type]
    steps = next((1000**power for power, least in ((3, 1e17), (2, 1e14), (1, 1e11)) if middle >= least), 1)
    return (number * 1000 / steps).floor().cast(pl.Int64, strict=False)


def _from_text(text: pl.Series) -> pl.Series:
    read = pl.Series(text.name, [None], dtype=pl.Int64).new_from_index(0, len(text))
    for form in TIME_FORMATS:
        if read.null_count() == text.null_count():
            break
        left = text.to_frame("text").with_columns(read=read)
        parsed = (
            pl.col("text").str.to_datetime(form, strict=False, time_zone="UTC", time_unit="ms").dt.epoch("ms")
        )
        read = left.select(pl.coalesce("read", parsed)).to_series()
    return read


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
