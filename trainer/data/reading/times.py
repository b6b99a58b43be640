"""Times as they are written by other programs, to moments since 1970."""

import polars as pl

from trainer.data.reading.texts import as_text

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
