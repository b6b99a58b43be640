"""Rows that cannot be read, to a line and a value: the file is read once more for them, line by line."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trainer.data.reading.layout import ROW, Layout, collect, content, scan, separator, text
from trainer.data.reading.quotes import MEND, check_span
from trainer.errors import UserError

NOT_UTF8 = "not UTF-8; convert it first, from Windows: iconv -f WINDOWS-1252 -t UTF-8 old.csv > new.csv"


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used. `line` counts from 1; in a Parquet file it is the row."""

    path: Path
    line: int
    reason: str
    value: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reason} ({self.value!r})"


def unreadable(path: Path, layout: Layout, error: Exception) -> UserError:
    """Returns the error of a person for one of a library: the first line of it, and what may be wrong."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, pl.exceptions.NoDataError):
        return UserError(f"{path} is empty")
    parsed = isinstance(error, pl.exceptions.PolarsError)  # else it could not even be unpacked
    hint = f"; {MEND}" if parsed and layout.of(path) == "csv" else ""
    return UserError(f"{path} cannot be read as {layout.of(path)}: {reason[:200]}{hint}")


def spoilt_or_raise(
    path: Path, layout: Layout, error: pl.exceptions.PolarsError, skip: bool
) -> tuple[Bad, ...]:
    """Returns the rows behind an error, where they are to be skipped and are not all there is wrong."""
    spoilt = tuple(_spoilt(path, layout))
    if not spoilt:
        raise unreadable(path, layout, error) from None
    if not skip:
        raise UserError(str(spoilt[0])) from None
    return spoilt


def records(path: Path, layout: Layout, last: int | None = None) -> Iterator[tuple[int, int, list[str]]]:
    """Yields the number, the last line and the fields of each record of a CSV file, headers left out."""
    quote = layout.quote
    reader = csv.reader(
        text(path),
        delimiter=separator(path, layout),
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )
    first = -1 if layout.has_header else 0
    for number, fields in enumerate(reader, first):
        if last is not None and number > last:
            return
        yield number, reader.line_num, fields


def _spoilt(path: Path, layout: Layout) -> Iterator[Bad]:
    """Yields the rows that polars cannot read. `line` is that of the record."""
    if layout.of(path) == "jsonl":
        for number, written in enumerate(content(path).splitlines(), 1):
            reason = _json_problem(written)
            if reason:
                yield Bad(path, number, reason, written[:80].decode("utf-8", "replace"))
    elif layout.of(path) == "csv":
        width: int | None = None
        mark, last = separator(path, layout), 0
        for _, line, fields in records(path, layout):
            check_span(path, last + 1, line - last)
            last = line
            width = len(fields) if width is None else width
            record = mark.join(fields)
            shown = record[:80].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            if len(fields) > width:
                yield Bad(path, line, f"{len(fields)} fields where there are {width} columns", shown)
            elif any("\udc80" <= letter <= "\udcff" for letter in record):
                yield Bad(path, line, NOT_UTF8, shown)


def _json_problem(text: bytes) -> str | None:
    try:
        if text.strip() and not isinstance(json.loads(text), dict):
            return "not a JSON object"
    except UnicodeDecodeError:
        return NOT_UTF8
    except json.JSONDecodeError as error:
        return f"not JSON, {error.msg}"
    return None


def without_spoilt(path: Path, layout: Layout, spoilt: Sequence[Bad]) -> pl.DataFrame:
    """Returns what is left of a file without its spoilt rows."""
    bad = {row.line for row in spoilt}
    if layout.of(path) == "jsonl":
        kept = [
            (n, record)
            for n, record in enumerate(content(path).splitlines())
            if n + 1 not in bad and record.strip()
        ]
        if not kept:
            raise UserError(f"{path} has no row that can be read")
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(record for _, record in kept)), infer_schema_length=None)
        return frame.with_columns(pl.Series(ROW, [n for n, _ in kept], dtype=pl.UInt32))
    numbers = [number for number, line, _ in records(path, layout) if line in bad]
    scanned = scan(path, layout, encoding="utf8-lossy", truncate_ragged_lines=True)
    return collect(scanned, None, every=layout.of(path) == "csv").filter(~pl.col(ROW).is_in(numbers))
