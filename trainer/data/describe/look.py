"""What is seen of one file of a stranger: its layout, a sample of its rows, and which columns have a role."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from trainer.data.describe.named import by_words, side_by_words
from trainer.data.reading import files
from trainer.data.reading.columns import Kind, convert, readable
from trainer.data.reading.kinds import day, follows, like_times, strange_times
from trainer.data.reading.layout import ROW, Layout, are_lists, partition, separator, suffix, text
from trainer.data.reading.roles import KINDS, USUAL, usual_column
from trainer.data.reading.texts import MISSING, as_text
from trainer.data.reading.times import epoch_seconds, written_as_days
from trainer.errors import UserError
from trainer.registry import did_you_mean

SAMPLE = 50_000  # rows that are looked at
SESSIONS = ("session_id", "session", "sessionid")  # names that stand for a user where nothing else does
REPEATED = re.compile(r"_duplicated_\d+$")  # what polars puts after a name that was there before
DAY = re.compile(r"\d{4}[-/]\d{2}[-/]\d{2}")  # what a time in words begins with
MOST_RATINGS = 100  # distinct values of a column without a name that may be one of ratings
SKIPS = 'loading refuses them, or leaves them out with data.source.on_bad_rows = "skip"'


@dataclass(frozen=True)
class Look:
    """What was seen of one file, the largest of a path."""

    path: str
    layout: dict[str, Any]  # the settings of its layout that are not the defaults
    whole: pl.DataFrame  # all rows that can be read
    roles: dict[str, str]  # role -> column
    notes: list[str] = field(default_factory=list)
    folders: dict[str, list[str]] = field(default_factory=dict)  # column -> what the folders of all files say

    @property
    def sample(self) -> pl.DataFrame:
        """Returns the first rows."""
        return self.whole.head(SAMPLE)


def look(path: str, columns: Mapping[str, str] | None = None) -> Look:
    """Returns what a path's largest file shows; `columns` says which column has a role, by role.

    Raises `UserError` where one of them is not there.
    """
    found = files.find(path)
    largest = max(found, key=lambda file: file.stat().st_size)
    settings = layout_of(largest)
    layout = Layout(**settings)
    root = files.root_of(path)
    told = {file: partition(file, root) for file in found}
    folders = {name: sorted({told[file].get(name) or "" for file in found}) for name in told[largest]}
    there = files.names(largest, layout, root=root)
    raw = files.read(largest, layout, there, skip=True)
    if raw.spoilt and not raw.frame.height:
        raise UserError(f"no row of it can be read: {raw.spoilt[0]}")
    whole = raw.frame.drop(ROW)
    sample = whole.head(SAMPLE)
    roles = {role: name for role in USUAL if (name := usual_column(there, role)) is not None}
    _prefer(sample, roles)
    notes = []
    if raw.spoilt:
        notes.append(f"rows that cannot be read: {len(raw.spoilt):,}; {SKIPS}; the first is {raw.spoilt[0]}")
    said = dict(columns or {})
    for name in said.values():
        if name not in there:
            raise UserError(f"{largest} has no column {name!r}{did_you_mean(name, there)}")
    roles = {role: name for role, name in roles.items() if name not in said.values()} | said
    if layout.has_header:
        guessed = by_words(sample, roles)
        notes += [f"column {name!r} is taken as the {role}, by its name" for role, name in guessed.items()]
        roles |= guessed
    else:
        roles = _by_values(sample) | said
        notes.append("the file has no header: which column is what was guessed from the values")
    for name in there:
        first_name = REPEATED.sub("", name)
        if first_name != name and first_name in there and first_name.strip():
            notes.append(f"the header has {first_name!r} more than once: a later column is read as {name!r}")
    for role, name in list(roles.items()):
        dtype = sample[name].dtype
        if readable(dtype, KINDS[role]):
            continue
        if role in ("user", "item"):
            raise UserError(f"{largest}: column {name!r} holds {dtype}, which is not read as {KINDS[role]}")
        del roles[role]
        notes.append(f"column {name!r} is not the {role}: it holds {dtype}")
    for role in ("user", "item"):
        if role in roles:
            notes += _of_ids(sample[roles[role]], role)
    for role in ("rating", "weight"):
        if role in roles:
            notes += _of_unread(sample[roles[role]], KINDS[role])
    if "timestamp" in roles:
        notes += of_times(sample[roles["timestamp"]]) + of_event_times(sample[roles["timestamp"]])
    return Look(str(largest), settings, whole, roles, notes, folders)


def _prefer(sample: pl.DataFrame, roles: dict[str, str]) -> None:
    """Gives a role to a column that says more than the one of the usual name: a user id before a session, a time before a date."""
    if roles.get("user") in SESSIONS:
        free = [name for name in sample.columns if name not in roles.values()]
        roles["user"] = side_by_words(free, "user") or roles["user"]
    if "timestamp" not in roles:
        return
    usual = (name for name in sample.columns if usual_column([name], "timestamp") is not None)
    times = {name: epoch_seconds(sample[name]) for name in usual if _are_times(sample[name])}
    first = times.get(roles["timestamp"])
    for name, seconds in times.items():
        finer = first is None or (
            not _has_hours(first) and _has_hours(seconds) and _same_days(first, seconds)
        )
        if finer:
            roles["timestamp"] = name
            return


def _are_times(column: pl.Series) -> bool:
    """Returns whether nearly all values, and not none, are times."""
    read, empty = epoch_seconds(column), as_text(column).null_count()
    return empty < len(column) and 20 * (read.null_count() - empty) <= len(column)


def _has_hours(seconds: pl.Series) -> bool:
    """Returns whether any time is not midnight."""
    return bool((seconds.drop_nulls() % 86_400 != 0).any())


def _same_days(seconds: pl.Series, others: pl.Series) -> bool:
    same = (seconds // 86_400 == others // 86_400).mean()
    return isinstance(same, float) and same > 0.95


def _of_ids(column: pl.Series, role: str) -> list[str]:
    """Returns what is to be said of ids with spaces around them, and of words that stand for no id."""
    ids = as_text(column)
    notes = []
    around = ids.filter(ids != ids.str.strip_chars())
    if len(around):
        notes.append(
            f"column {column.name!r} has ids with spaces around them, which are part of the id: {around[0]!r}"
        )
    words = ids.filter(ids.str.strip_chars().str.to_lowercase().is_in(MISSING)).value_counts(sort=True)
    return notes + [
        f"{count:,} of the rows seen have the {role} {word!r} (column {column.name!r}), a {role} like any other; "
        f"where it means none, leave the field empty: {SKIPS}"
        for word, count in words.iter_rows()
    ]


def of_times(column: pl.Series) -> list[str]:
    """Returns what is to be said of how a column of times is read."""
    if written_as_days(column):
        return [f"column {column.name!r} is read as days, such as 20240131 (midnight, UTC)"]
    return []


def of_event_times(column: pl.Series) -> list[str]:
    """Returns what is to be said of the range of the events' times, and of those that are strange or cannot be read."""
    seconds = epoch_seconds(column)
    known = seconds.drop_nulls().sort()
    within = (
        [f"column {column.name!r} holds times from {day(known[0])} to {day(known[-1])}"] if len(known) else []
    )
    strange = [f"column {column.name!r}: {note}" for note in strange_times(seconds, column)]
    return [*within, *strange, *_of_unread(column, "timestamp")]


def _of_unread(column: pl.Series, kind: Kind) -> list[str]:
    """Returns what is to be said of the rows whose value cannot be read as its kind."""
    typed = convert(column, kind)
    wrong = column.filter(typed.bad)
    if not len(wrong):
        return []
    return [
        f"column {column.name!r} in {len(wrong):,} of the rows seen: {typed.reason}, {wrong[0]!r}; {SKIPS}"
    ]


def layout_of(path: Path) -> dict[str, Any]:
    """Returns the layout settings of a file that differ from the defaults."""
    if Layout().of(path) != "csv":
        return {}
    with files.told(path, Layout()):
        mark = separator(path, Layout())
        lines = [line.rstrip("\r\n").split(mark) for line in text(path, 50)]
    if not lines:
        return {}
    if lines[0][0].startswith("#") and (mark == " " or len(lines[0]) == 1):
        raise UserError(f"{path} begins with a comment, {mark.join(lines[0])[:80]!r}; take it out")
    if len(lines[0]) == 1 and "::" in lines[0][0]:
        raise UserError(
            f"{path} parts its fields by '::', and one character is read: sed 's/::/\\t/g' {path.name} > {path.stem}.tsv; "
            "MovieLens's own folder is read as it is: data.source.name=movielens data.source.path=FOLDER"
        )
    if are_lists(path) or (mark == " " and len({len(line) for line in lines}) > 1):
        return {"format": "adjacency"}
    settings: dict[str, Any] = {}
    ending = suffix(path)
    if ending not in (".csv", ".tsv", ".tab") or (mark == "\t") != (ending != ".csv"):
        settings |= {"format": "tsv"} if mark == "\t" else {"separator": mark}
    if _are_values(next(csv.reader([mark.join(lines[0])], delimiter=mark))):
        settings["has_header"] = False
    return settings


def _are_values(first: list[str]) -> bool:
    """Returns whether a first line holds values, not names: a number, a time or a field twice, and no usual name."""
    if first and all(_is_number(value) for value in first[:2]):
        return True
    if any(usual_column(first, role) is not None for role in USUAL):
        return False
    written = [value for value in first if value.strip()]
    told = any(_is_number(value) or DAY.match(value) for value in written)
    return told or len(set(written)) < len(written)


def _by_values(sample: pl.DataFrame) -> dict[str, str]:
    """Returns the roles of columns without names: the first that may be ids are user and item, others look like a time or a rating."""
    ids = [name for name in sample.columns if _may_be_ids(sample[name])]
    roles = dict(zip(("user", "item"), ids, strict=False))
    others = [name for name in sample.columns if name not in roles.values()]
    for name in others if "item" in roles else ():
        known = as_text(sample[name]).drop_nulls()
        numeric = len(known) and not known.cast(pl.Float64, strict=False).null_count()
        if like_times(known) if numeric else _are_times(sample[name]):
            roles.setdefault("timestamp", name)
        elif numeric and 2 <= known.n_unique() <= MOST_RATINGS and not _of_item(sample, name, roles):
            roles.setdefault("rating", name)
    return roles


def _of_item(sample: pl.DataFrame, name: str, roles: Mapping[str, str]) -> bool:
    return follows(as_text(sample[name]), as_text(sample[roles["item"]]))


def _may_be_ids(column: pl.Series) -> bool:
    """Returns whether values are neither times in words nor numbers with decimals, such as a latitude."""
    number = as_text(column).drop_nulls().cast(pl.Float64, strict=False)
    if number.null_count():
        return not _are_times(column)
    return bool((number == number.floor()).all())


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
