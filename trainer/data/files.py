"""Tables on disk to raw frames.

The fast path is polars alone. Only when it fails, or when a row turns out bad, is the file read again line by line to
say where (`spoilt.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trainer.data.layout import ROW, SUFFIXES, Layout, collect, count_lines, literal, scan, suffix
from trainer.data.quotes import check_quotes
from trainer.data.spoilt import Bad, readable, records, spoilt_or_raise, unreadable
from trainer.errors import UserError


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
        return scan(path, layout).collect_schema().names()
    except pl.exceptions.PolarsError as error:
        spoilt = spoilt_or_raise(path, layout, error, skip)
        return [name for name in readable(path, layout, None, spoilt).columns if name != ROW]


def read(path: Path, layout: Layout, columns: Sequence[str], skip: bool) -> Raw:
    """Returns the named columns of a file; with `skip`, rows that cannot be read are set apart."""
    if layout.of(path) == "adjacency":
        return Raw(path, layout, _adjacency(path, layout))
    try:
        raw = _read(path, layout, columns, skip)
        if layout.of(path) == "csv" and layout.quote:
            scanned = scan(path, layout, encoding="utf8-lossy", truncate_ragged_lines=True)
            check_quotes(
                path, scanned, len(raw.frame) + len(raw.spoilt), count_lines(path), layout.has_header
            )
    except pl.exceptions.PolarsError as error:
        raise unreadable(path, layout, error) from None
    return raw


def _read(path: Path, layout: Layout, columns: Sequence[str], skip: bool) -> Raw:
    try:
        return Raw(path, layout, collect(scan(path, layout), columns))
    except pl.exceptions.PolarsError as error:
        spoilt = spoilt_or_raise(path, layout, error, skip)
        return Raw(path, layout, readable(path, layout, columns, spoilt), spoilt)


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
    try:
        whole = pl.read_csv(
            literal(path), has_header=False, separator="\x01", quote_char=None, infer_schema=False
        )
    except pl.exceptions.PolarsError as error:
        raise unreadable(path, layout, error) from None
    line = pl.col(whole.columns[0])
    if layout.separator in (None, " ", "\t"):
        line = line.str.strip_chars().str.replace_all(r"\s+", " ")
    split = line.str.split(layout.separator or " ") if layout.separator != "\t" else line.str.split(" ")
    listed = whole.with_row_index(ROW).select(
        ROW, user=split.list.first(), item=split.list.slice(1), count=split.list.len()
    )
    return listed.filter(pl.col("count") > 1).select(ROW, "user", "item").explode("item")
