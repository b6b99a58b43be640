"""How a file is written, and its columns and lines as they are, unpacked."""

import csv
import glob
import gzip
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl

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
LOOKED_AT = 20  # lines that tell the separator
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # what compressed files begin with
csv.field_size_limit(2**31 - 1)  # what an open quotation mark makes of a file's rest is told
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


def suffix(path: Path) -> str:
    """Returns the ending of a file's name, without that of its packing."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix.lower()


def scan(path: Path, layout: Layout, **extra: Any) -> pl.LazyFrame:
    """Returns the columns of a file, not read yet; those of CSV are texts. Raises `UserError` where it is empty or no UTF-8."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    form = layout.of(path)
    source = literal(path)
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


def literal(path: Path) -> str:
    """Returns a path as polars reads it, which takes a `[` or `*` in a name for a pattern."""
    return glob.escape(str(path))


def _numbered(columns: list[str]) -> list[str]:
    return [f"column_{number}" for number in range(1, len(columns) + 1)]


def are_lists(path: Path) -> bool:
    """Returns whether the lines of a file that no ending tells about are `user item item ...`, whole numbers of differing count."""
    if suffix(path) in SUFFIXES:
        return False
    lines = [line.split() for line in text(path, LOOKED_AT)]
    whole = all(field.isdecimal() for fields in lines for field in fields)
    return whole and len({len(fields) for fields in lines}) > 1


def separator(path: Path, layout: Layout) -> str:
    """Returns the character between the fields of a CSV file: declared, or seen from its first lines."""
    if layout.separator is not None:
        return layout.separator
    if layout.format == "tsv" or suffix(path) in (".tsv", ".tab"):
        return "\t"
    lines = list(text(path, LOOKED_AT))
    first = lines[0] if lines else ""
    counts = {mark: first.count(mark) for mark in SEPARATORS if mark in first}
    even = [mark for mark in counts if _fields(lines, mark, layout.quote)]
    if "," in even or ("," in counts and not even):
        return ","
    most = even or counts
    return max(most, key=lambda mark: counts[mark], default=" " if " " in first.strip() else ",")


def _fields(lines: Sequence[str], mark: str, quote: str) -> int:
    """Returns how many fields all lines have, parted at a mark; 0 where they differ, or have one."""
    reader = csv.reader(
        lines,
        delimiter=mark,
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )
    try:
        rows = [len(row) for row in reader if row]
    except csv.Error:
        return 0
    whole = rows[:-1] if len(rows) > 2 else rows  # the last may go on in lines that are not looked at
    return rows[0] if rows and rows[0] > 1 and set(whole) == {rows[0]} else 0


def text(path: Path, count: int | None = None) -> Iterator[str]:
    """Yields the lines of a file, or the first of them, unpacked; what is not UTF-8 is escaped (in zstd: replaced)."""
    if _begins(path, ZSTD):  # only polars unpacks it
        scanned = written(path)
        listed = (scanned if count is None else scanned.head(count)).collect().to_series().fill_null("")
        yield from (f"{line}\n" for line in listed)
        return
    with io.TextIOWrapper(_open(path), "utf-8-sig", "surrogateescape", newline="") as file:
        yield from islice(file, count)


def written(path: Path) -> pl.LazyFrame:
    """Returns one column, the lines of a file as they are written; what is not UTF-8 is replaced."""
    return pl.scan_csv(
        literal(path),
        has_header=False,
        separator="\x01",
        quote_char=None,
        infer_schema=False,
        encoding="utf8-lossy",
    )


def count_lines(path: Path) -> int:
    """Returns how many lines a file has, unpacked."""
    return int(written(path).select(pl.len()).collect().item())


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Returns the bytes of a file, unpacked where gzip packed it."""
    return gzip.open(path) if _begins(path, GZIP) else path.open("rb")


def content(path: Path) -> bytes:
    """Returns the bytes of a file, unpacked; what is not UTF-8 in zstd is replaced."""
    if _begins(path, ZSTD):
        return "".join(text(path)).encode()
    with _open(path) as file:
        return file.read()


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def collect(scanned: pl.LazyFrame, columns: Sequence[str] | None, every: bool = False) -> pl.DataFrame:
    """Returns the named columns, or all, beside the number of each record (`ROW`).

    With `every`, all are read, whichever are named: of CSV, polars looks for rows with too many fields only then.
    """
    chosen = scanned if columns is None else scanned.select(columns)
    flags = pl.QueryOptFlags(projection_pushdown=not every)
    return chosen.with_row_index(ROW).collect(optimizations=flags)


def partition(path: Path, root: Path | None = None) -> dict[str, str | None]:
    """Returns the columns that a file's folders, below `root`, hold, as Hive and Spark write them: `date=2024-01-31/part-0.parquet`."""
    inside = path if root is None else path.relative_to(root)
    found = (part.partition("=") for part in inside.parts[:-1])
    return {
        name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
        for name, equals, value in found
        if equals and name.isidentifier()
    }
