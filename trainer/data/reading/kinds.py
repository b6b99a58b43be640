"""What kind of feature a column looks like, and whether it is one of the event or of its item."""

import numpy as np
import polars as pl

from trainer.data.interactions import FeatureKind
from trainer.data.reading.columns import BETWEEN, LISTED, as_bag, as_vectors, readable
from trainer.data.reading.texts import as_text, decimal_commas, without_missing
from trainer.data.reading.times import epoch_seconds, written_as_days

EARLIEST, LATEST = 315_532_800, 4_102_444_800  # 1980 and 2100: seconds between them look like times
RIGHT_TIMES = (
    "a time is ISO 8601 (2024-01-31T12:30:00), seconds to nanoseconds since 1970, in one unit in all rows, "
    "or a day such as 20240131"
)
SHORTEST_VECTOR = 3  # numbers from which a text of numbers is a vector
ENOUGH = 20  # repeated rows of keys whose value is not the most common one: with fewer, `follows` says no
SAME = 0.98  # share of those rows with their key's value
CLEARLY = 0.9  # how far that share must be on the way from what chance would give to 1
SKEW = 10.0  # a count's maximum is at least this much above its median
# Behaviours that speak against an item, and are read as dislikes.
DISLIKES = (
    "dislike",
    "skip",
    "hide",
    "block",
    "report",
    "downvote",
    "thumbs_down",
    "not_interested",
    "unlike",
    "remove_from_cart",
    "remove",
    "return",
    "refund",
)


def kind_of(column: pl.Series) -> tuple[FeatureKind | None, str]:
    """Returns the kind that values suggest (none for ids, empty columns and types not read), and the separator of a bag."""
    if not readable(column.dtype):
        return None, "|"
    known = (column if isinstance(column.dtype, pl.List | pl.Array) else as_text(column)).drop_nulls()
    if not len(known):
        return None, "|"
    if isinstance(known.dtype, pl.List | pl.Array):
        return ("vector" if _like_vectors(known) else "bag"), "|"
    if column.dtype.is_temporal():
        return "time", "|"
    if column.dtype == pl.Boolean:
        return "category", "|"
    told = without_missing(known).drop_nulls() if known.dtype == pl.String else known
    number = told.cast(pl.Float64, strict=False)
    if len(told) and not number.null_count():
        if like_times(known):
            return "time", "|"
        return ("count" if _like_counts(number) else "number"), "|"
    if not epoch_seconds(known).null_count():
        return "time", "|"
    if decimal_commas(known):
        return None, "|"
    if _like_vectors(known):
        return "vector", "|"
    if bool(known.str.contains(LISTED).all()) and _repeats(known, ","):
        return "bag", "|"
    for mark in ("|", ","):
        if known.str.contains(mark, literal=True).mean() > 0.05 and _repeats(known, mark):  # type: ignore[operator]
            return "bag", mark
    distinct = known.n_unique() / len(known)
    if known.str.count_matches(r"\S+").mean() > 1.5 and distinct > 0.2:  # type: ignore[operator]
        return "text", "|"
    return ("category" if distinct <= 0.5 or len(known) < 20 else None), "|"


def like_times(known: pl.Series) -> bool:
    """Returns whether all values are moments between 1980 and 2100, or days written as numbers."""
    seconds = epoch_seconds(known)
    inside = written_as_days(known) or bool(seconds.is_between(EARLIEST, LATEST).all())
    return not seconds.null_count() and inside


def strange_times(seconds: pl.Series, written: pl.Series | None = None) -> list[str]:
    """Returns what is to be said of events' times outside 1980 to 2100: they are in another unit, or not as read."""
    rows = (~seconds.is_between(EARLIEST, LATEST)).fill_null(False).arg_true()
    if not len(rows):
        return []
    first = int(rows[0])
    arrived = "" if written is None else f" from {str(written[first])!r}"
    return [
        f"{len(rows):,} of {len(seconds):,} times lie before {day(EARLIEST)} or after {day(LATEST)}, "
        f"the first is read as {day(seconds[first])}{arrived}: {RIGHT_TIMES}"
    ]


def day(seconds: int) -> str:
    """Returns the day of a moment, of any year."""
    return str(np.datetime64(seconds, "s").astype("datetime64[D]"))


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


def _repeats(known: pl.Series, mark: str) -> bool:
    """Returns whether the parts between the marks are labels: few words each, and used again."""
    labels = as_bag(known, mark).explode().drop_nulls()
    words = labels.str.count_matches(r"\S+").mean()
    return labels.n_unique() <= max(len(labels) / 2, 3) and float(words or 0) < 3  # type: ignore[arg-type]


def _like_counts(number: pl.Series) -> bool:
    """Returns whether numbers are whole, none below 0, and a few of them very large: clicks, views, sales."""
    whole = bool((number == number.floor()).all()) and float(number.min() or 0) >= 0  # type: ignore[arg-type]
    most, middle = float(number.max() or 0), float(number.median() or 0)  # type: ignore[arg-type]
    return whole and most >= SKEW * (middle + 1)


def _like_vectors(known: pl.Series) -> bool:
    """Returns whether texts or lists hold equally many numbers each, not all of them whole."""
    if isinstance(known.dtype, pl.List | pl.Array):
        return known.dtype.inner.is_float() and known.cast(pl.List(pl.Float64)).list.len().n_unique() == 1
    if not known[:100].str.contains(BETWEEN).all():
        return False
    vectors = as_vectors(known)
    numbers = vectors.explode()
    equal = vectors.list.len().n_unique() == 1 and int(vectors.list.len()[0]) >= SHORTEST_VECTOR
    return equal and not numbers.null_count() and bool((numbers != numbers.floor()).any())
