"""A quotation mark that is opened and not closed makes one long field of what follows, and its rows are gone: told, not lost."""

import logging
from pathlib import Path

import polars as pl

from trainer.errors import UserError

logger = logging.getLogger("trainer")

# lines that one row may go over: a long review does not, what an open quotation mark swallows does
LONGEST = 100
MEND = (
    "is a quotation mark left open, or inside a field? There it is written twice "
    """(where it is written \\": sed 's/\\\\"/""/g' old.csv > new.csv); quote = "" reads marks as they are"""
)


def check_quotes(path: Path, scanned: pl.LazyFrame, rows: int, lines: int, has_header: bool) -> None:
    """Says which rows of a CSV file go over several lines; raises `UserError` where one does over more than `LONGEST`.

    `scanned` are its columns, all texts; `rows` how many records they are, `lines` how many lines the file has.
    """
    if lines <= rows + has_header:
        return
    breaks = pl.sum_horizontal(pl.all().str.count_matches("\n").fill_null(0))
    inside = scanned.select(breaks.alias("inside")).collect()["inside"]
    row = inside.arg_max()
    if row is None or not inside[row]:
        return
    line = int(has_header) + row + int(inside[:row].sum()) + 1
    check_span(path, line, int(inside[row]) + 1)
    logger.info(
        "%d of %d rows of %s have fields in quotes over several lines, the longest from line %d over %d",
        (inside > 0).sum(),
        len(inside),
        path,
        line,
        inside[row] + 1,
    )


def check_span(path: Path, first: int, lines: int) -> None:
    """Raises `UserError` where a row that begins on a line would go over more than `LONGEST`."""
    if lines > LONGEST:
        raise UserError(f"{path}: one row would go from line {first:,} over {lines:,} lines; {MEND}")
