"""Tables on disk to raw frames, and rows that cannot be read to a file, a line and a value.

The fast path is polars alone. Only when it fails, or when a row turns out bad, is the file read again line
by line to say where.
"""

import csv
import glob
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import polars as pl

from trainer.data.quotes import MEND, check_quotes, check_span
from trainer.errors import UserError
from trainer.settings import Settings

Format = Literal["csv", "parquet", "jsonl", "adjacency"]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
SEPARATORS = "\t,;|"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # what compressed files begin with
NOT_UTF8 = "not UTF-8; convert it first, from Windows: iconv -f WINDOWS-1252 -t UTF-8 old.csv > new.csv"
FIELD = (
    2**31 - 1
)  # characters that a field may have: what an open quotation mark makes of the rest of a file is told
ROW = "__row__"  # number of the record in its file, from 0


class Layout(Settings):
    """How the files of a table are written. What is not said is seen from the file's name and first line."""

    format: Literal["auto", "csv", "tsv", "parquet", "jsonl", "adjacency"] = "auto"
    separator: str | None = None  # one character; None: seen from the first line
    has_header: bool = True  # without one, the columns are called column_1, column_2, ...
    quote: str = '"'  # "" where the file does not quote

    def of(self, path: Path) -> Format:
        """Returns the format of one file."""
        if self.format == "auto":
            return SUFFIXES.get(suffix(path), "csv")
        return "csv" if self.format == "tsv" else self.format


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used. `line` counts from 1; in a Parquet file it is the row."""

    path: Path
    line: int
    reason: str
    value: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reason} ({self.value!r})"


@dataclass(frozen=True)
class Raw:
    """A file's columns as they stand (CSV: all strings), with `ROW`, and the rows that could not be read."""

    path: Path
    layout: Layout
    frame: pl.DataFrame
    spoilt: tuple[Bad, ...] = ()


def find(path: str, besides: Iterable[str | None] = ()) -> list[Path]:
    """Returns the files of a path, a folder (all tables in it, but not those of `besides`) or a glob, sorted.

    Raises `UserError` where there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        others = {Path(other).expanduser().resolve() for other in besides if other}
        inside = (
            p for p in place.rglob("*") if p.is_file() and suffix(p) in SUFFIXES and p.resolve() not in others
        )
        found = sorted(p for p in inside if not p.name.startswith((".", "_")))
        if not found:
            raise UserError(f"the folder {place} holds no table ({', '.join(SUFFIXES)}){_instead(place)}")
        return found
    if place.is_file():
        return [place]
    if any(mark in path for mark in "*?["):
        anchor = Path(place.anchor)
        found = sorted(p for p in anchor.glob(str(place.relative_to(anchor))) if p.is_file())
        if found:
            return found
        raise UserError(f"no file matches {place}")
    raise UserError(f"there is no file {place}")


def _instead(folder: Path) -> str:
    there = sorted(p.name for p in folder.iterdir() if p.is_file())
    if {"u.data", "ratings.dat"} & set(there):
        return f"; MovieLens's own is read by data.source.name=movielens data.source.path={folder}"
    listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
    return f"; a file of another name may be given by itself: {listed}" if there else ""


def names(path: Path, layout: Layout, skip: bool = False) -> list[str]:
    """Returns the columns of a file, in its order."""
    if layout.of(path) == "adjacency":
        return ["user", "item"]
    try:
        return _scan(path, layout).collect_schema().names()
    except pl.exceptions.PolarsError as error:
        spoilt = _spoilt_or_raise(path, layout, error, skip)
        return [name for name in _readable(path, layout, None, spoilt).columns if name != ROW]


def read(path: Path, layout: Layout, columns: Sequence[str], skip: bool) -> Raw:
    """Returns the named columns of a file; with `skip`, rows that cannot be read are set apart."""
    if layout.of(path) == "adjacency":
        return Raw(path, layout, _adjacency(path, layout))
    try:
        raw = _read(path, layout, columns, skip)
        if layout.of(path) == "csv" and layout.quote:
            scanned = _scan(path, layout, encoding="utf8-lossy", truncate_ragged_lines=True)
            check_quotes(path, scanned, len(raw.frame) + len(raw.spoilt), _count(path), layout.has_header)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, layout, error) from None
    return raw


def _read(path: Path, layout: Layout, columns: Sequence[str], skip: bool) -> Raw:
    try:
        return Raw(path, layout, _collect(_scan(path, layout), columns))
    except pl.exceptions.PolarsError as error:
        spoilt = _spoilt_or_raise(path, layout, error, skip)
        return Raw(path, layout, _readable(path, layout, columns, spoilt), spoilt)


def lines(raw: Raw, rows: Sequence[int]) -> list[int]:
    """Returns the line on which each of the records `rows` (ascending) ends."""
    wanted = list(rows)
    form = raw.layout.of(raw.path)
    if form != "csv":
        return [row + 1 for row in wanted]
    found = {number: line for number, line, _ in _records(raw.path, raw.layout, wanted[-1])} if wanted else {}
    return [found.get(row, row + 1) for row in wanted]


def suffix(path: Path) -> str:
    """Returns the ending of a file's name, without that of its packing."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix.lower()


def _scan(path: Path, layout: Layout, **extra: Any) -> pl.LazyFrame:
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    form = layout.of(path)
    source = _literal(path)
    if form == "parquet":
        return pl.scan_parquet(source)
    if form == "jsonl":
        return pl.scan_ndjson(source, infer_schema_length=None)
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(
                f"{path} is not UTF-8: it looks like UTF-16; convert it first: iconv -f UTF-16 -t UTF-8 old.csv > new.csv"
            )
    return pl.scan_csv(
        source,
        separator=separator(path, layout),
        has_header=layout.has_header,
        quote_char=layout.quote or None,
        infer_schema=False,
        with_column_names=None if layout.has_header else _numbered,
        **extra,
    )


def _literal(path: Path) -> str:
    """Returns a path as polars reads it, which takes a `[` or `*` in a name for a pattern."""
    return glob.escape(str(path))


def _numbered(columns: list[str]) -> list[str]:
    return [f"column_{number}" for number in range(1, len(columns) + 1)]


def separator(path: Path, layout: Layout) -> str:
    """Returns the character between the fields of a CSV file: declared, or seen from its first line."""
    if layout.separator is not None:
        return layout.separator
    if layout.format == "tsv" or suffix(path) in (".tsv", ".tab"):
        return "\t"
    first = next(text(path, 1), "")
    counts = {mark: first.count(mark) for mark in SEPARATORS if mark in first}
    if "," in counts:
        return ","
    return max(counts, key=lambda mark: counts[mark], default=" " if " " in first.strip() else ",")


def text(path: Path, count: int | None = None) -> Iterator[str]:
    """Yields the lines of a file, or the first of them, unpacked; what is not UTF-8 is escaped (in zstd: replaced)."""
    if _begins(path, ZSTD):  # only polars unpacks it
        scanned = _written(path)
        listed = (scanned if count is None else scanned.head(count)).collect().to_series().fill_null("")
        yield from (f"{line}\n" for line in listed)
        return
    with io.TextIOWrapper(_open(path), "utf-8-sig", "surrogateescape", newline="") as file:
        yield from islice(file, count)


def _written(path: Path) -> pl.LazyFrame:
    """Returns one column, the lines of a file as they are written; what is not UTF-8 is replaced."""
    return pl.scan_csv(
        _literal(path),
        has_header=False,
        separator="\x01",
        quote_char=None,
        infer_schema=False,
        encoding="utf8-lossy",
    )


def _count(path: Path) -> int:
    return int(_written(path).select(pl.len()).collect().item())


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Returns the bytes of a file, unpacked where gzip packed it."""
    return gzip.open(path) if _begins(path, GZIP) else path.open("rb")


def _content(path: Path) -> bytes:
    with _open(path) as file:
        return file.read()


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _collect(scanned: pl.LazyFrame, columns: Sequence[str] | None) -> pl.DataFrame:
    chosen = scanned if columns is None else scanned.select(columns)
    return chosen.with_row_index(ROW).collect()


def _adjacency(path: Path, layout: Layout) -> pl.DataFrame:
    """Returns one row for each item of lines `user item item ...`; a user without items has none."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    try:
        whole = pl.read_csv(
            _literal(path), has_header=False, separator="\x01", quote_char=None, infer_schema=False
        )
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, layout, error) from None
    line = pl.col(whole.columns[0])
    if layout.separator in (None, " ", "\t"):
        line = line.str.strip_chars().str.replace_all(r"\s+", " ")
    split = line.str.split(layout.separator or " ") if layout.separator != "\t" else line.str.split(" ")
    listed = whole.with_row_index(ROW).select(
        ROW, user=split.list.first(), item=split.list.slice(1), count=split.list.len()
    )
    return listed.filter(pl.col("count") > 1).select(ROW, "user", "item").explode("item")


def _unreadable(path: Path, layout: Layout, error: pl.exceptions.PolarsError) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, pl.exceptions.NoDataError):
        return UserError(f"{path} is empty")
    hint = f"; {MEND}" if layout.of(path) == "csv" else ""
    return UserError(f"{path} cannot be read as {layout.of(path)}: {reason[:200]}{hint}")


def _spoilt_or_raise(
    path: Path, layout: Layout, error: pl.exceptions.PolarsError, skip: bool
) -> tuple[Bad, ...]:
    """Returns the rows behind an error, where they are to be skipped and are not all there is wrong."""
    spoilt = tuple(_spoilt(path, layout))
    if not spoilt:
        raise _unreadable(path, layout, error) from None
    if not skip:
        raise UserError(str(spoilt[0])) from None
    return spoilt


def _records(path: Path, layout: Layout, last: int | None = None) -> Iterator[tuple[int, int, list[str]]]:
    """Yields the number, the last line and the fields of each record of a CSV file, headers left out."""
    quote = layout.quote
    csv.field_size_limit(FIELD)
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
        for number, written in enumerate(_content(path).splitlines(), 1):
            reason = _json_problem(written)
            if reason:
                yield Bad(path, number, reason, written[:80].decode("utf-8", "replace"))
    elif layout.of(path) == "csv":
        width: int | None = None
        mark, last = separator(path, layout), 0
        for _, line, fields in _records(path, layout):
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


def _readable(
    path: Path, layout: Layout, columns: Sequence[str] | None, spoilt: Sequence[Bad]
) -> pl.DataFrame:
    """Returns what is left of a file without its spoilt rows."""
    bad = {row.line for row in spoilt}
    if layout.of(path) == "jsonl":
        kept = [
            (n, record)
            for n, record in enumerate(_content(path).splitlines())
            if n + 1 not in bad and record.strip()
        ]
        if not kept:
            raise UserError(f"{path} has no row that can be read")
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(record for _, record in kept)), infer_schema_length=None)
        chosen = frame if columns is None else frame.select(columns)
        return chosen.with_columns(pl.Series(ROW, [n for n, _ in kept], dtype=pl.UInt32))
    numbers = [number for number, line, _ in _records(path, layout) if line in bad]
    scanned = _scan(path, layout, encoding="utf8-lossy", truncate_ragged_lines=True)
    return _collect(scanned, columns).filter(~pl.col(ROW).is_in(numbers))
