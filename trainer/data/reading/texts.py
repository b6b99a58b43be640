"""Texts as they are written by other programs: labels, words for no value, commas in numbers."""

import polars as pl

WHOLE = r"\.0+$"  # the end of a decimal number that is whole
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
DECIMAL_COMMA = r"^\s*[-+]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?\s*$"
DAYS_FIRST = r"^\s*\d{1,2}[./-]\d{1,2}[./-](19|20)\d{2}(\s.*)?$"
DATES = "whether the day or the month comes first is not guessed: write 2024-01-31, with T12:00:00 behind it for the time"
COMMAS = "decimal commas are not read: write 1.50 for 1,50"


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
