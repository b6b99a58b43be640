"""Tables on disk to raw frames.

The fast path is polars alone. Only when it fails, or when a row turns out bad, is the file read again line by line to
say where (`spoilt.py`).
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import polars as pl

from trainer.data.reading.layout import (
    ROW,
    SUFFIXES,
    Layout,
    collect,
    count_lines,
    literal,
    partition,
    scan,
    suffix,
)
from trainer.data.reading.quotes import check_quotes
from trainer.data.reading.spoilt import Bad, records, spoilt_or_raise, unreadable, without_spoilt
from trainer.errors import UserError


@contextmanager
def told(path: Path, layout: Layout) -> Iterator[None]:
    """Raises `UserError` with the name of the file that cannot be read, whichever library says so and how."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        raise unreadable(path, layout, error) from None


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
        found = sorted(p for p in inside if not _hidden(p.relative_to(place)))
        if not found:
            raise UserError(f"the folder {place} holds no table ({', '.join(SUFFIXES)}){_instead(place)}")
        return [p for p in found if p.stat().st_size] or found  # a writer without rows leaves an empty part
    if place.is_file():
        return [place]
    if any(mark in path for mark in "*?["):
        anchor = Path(place.anchor)
        found = sorted(p for p in anchor.glob(str(place.relative_to(anchor))) if p.is_file())
        if found:
            return found
        raise UserError(f"no file matches {place}")
    raise UserError(f"there is no file {place}")


def _hidden(path: Path) -> bool:
    """Returns whether a file or a folder on the way to it is not meant to be read: `_temporary`, `.ipynb_checkpoints`."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _instead(folder: Path) -> str:
    there = sorted(p.name for p in folder.iterdir() if p.is_file())
    if {"u.data", "ratings.dat"} & set(there):
        return f"; MovieLens's own is read by data.source.name=movielens data.source.path={folder}"
    listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
    return f"; a file of another name may be given by itself: {listed}" if there else ""


def root_of(path: str) -> Path:
    """Returns the folder below which a path's files lie: itself, that of a file, or what stands before a glob's first mark."""
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    if place.is_file():
        return place.parent
    plain = list(takewhile(lambda part: not any(mark in part for mark in "*?["), place.parts))
    return Path(*plain)


def names(path: Path, layout: Layout, skip: bool = False, root: Path | None = None) -> list[str]:
    """Returns the columns of a file, in its order, then those that its folders below `root` hold."""
    if layout.of(path) == "adjacency":
        return ["user", "item"]
    with told(path, layout):
        try:
            there = scan(path, layout).collect_schema().names()
        except pl.exceptions.PolarsError as error:
            spoilt = spoilt_or_raise(path, layout, error, skip)
            there = [name for name in without_spoilt(path, layout, spoilt).columns if name != ROW]
    above = {} if root is None else partition(path, root)
    return [*there, *(name for name in above if name not in there)]


def names_of_all(
    paths: Sequence[Path], layout: Layout, skip: bool = False, root: Path | None = None
) -> list[list[str]]:
    """Returns the columns of each file of a table. JSON lines leave out what has no value: they have those of all their files."""
    found = [names(path, layout, skip, root) for path in paths]
    listed = [there for path, there in zip(paths, found, strict=True) if layout.of(path) == "jsonl"]
    union = list(dict.fromkeys(name for there in listed for name in there))
    return [union if layout.of(path) == "jsonl" else there for path, there in zip(paths, found, strict=True)]


def read(path: Path, layout: Layout, columns: Sequence[str], skip: bool) -> Raw:
    """Returns the named columns of a file; with `skip`, rows that cannot be read are set apart."""
    if layout.of(path) == "adjacency":
        return Raw(path, layout, _adjacency(path, layout))
    with told(path, layout):
        raw = _read(path, layout, columns, skip)
        if layout.of(path) == "csv" and layout.quote:
            scanned = scan(path, layout, encoding="utf8-lossy", truncate_ragged_lines=True)
            check_quotes(
                path, scanned, len(raw.frame) + len(raw.spoilt), count_lines(path), layout.has_header
            )
    return raw


def _read(path: Path, layout: Layout, columns: Sequence[str], skip: bool) -> Raw:
    spoilt: tuple[Bad, ...] = ()
    try:
        scanned = scan(path, layout)
        there = scanned.collect_schema().names()
        inside = [name for name in columns if name in there]
        frame = collect(scanned, inside, every=layout.of(path) == "csv")
    except pl.exceptions.PolarsError as error:
        spoilt = spoilt_or_raise(path, layout, error, skip)
        frame = without_spoilt(path, layout, spoilt)
        frame = frame.select(ROW, *(name for name in columns if name in frame.columns))
    above = partition(path)  # other columns are in the folders' names, or in other files of JSON lines
    elsewhere = [name for name in columns if name not in frame.columns]
    frame = frame.with_columns(pl.lit(above.get(name), pl.String).alias(name) for name in elsewhere)
    return Raw(path, layout, frame, spoilt)


def lines(raw: Raw, rows: Sequence[int]) -> list[int]:
    """Returns the line on which each of the records `rows` (ascending) ends."""
    wanted = list(rows)
    form = raw.layout.of(raw.path)
    if form != "csv":
        return [row + 1 for row in wanted]
    found = {number: line for number, line, _ in records(raw.path, raw.layout, wanted[-1])} if wanted else {}
    return [found.get(row, row + 1) for row in wanted]


def _adjacency(path: Path, layout: Layout) -> pl.DataFrame:
    """Returns one row for each item of lines `user item item ...`; a user without items has none."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    with told(path, layout):
        whole = pl.read_csv(
            literal(path), has_header=False, separator="\x01", quote_char=None, infer_schema=False
        )
    line = pl.col(whole.columns[0])
    if layout.separator in (None, " ", "\t"):
        line = line.str.strip_chars().str.replace_all(r"\s+", " ")
    split = line.str.split(layout.separator or " ") if layout.separator != "\t" else line.str.split(" ")
    listed = whole.with_row_index(ROW).select(
        ROW, user=split.list.first(), item=split.list.slice(1), count=split.list.len()
    )
    return listed.filter(pl.col("count") > 1).select(ROW, "user", "item").explode("item")
