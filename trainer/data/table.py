"""Your own interactions: CSV, TSV, Parquet, JSON lines or `user item item ...`, with user and item tables."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from trainer.data.interactions import RESERVED, Corpus, Dataset, Declared, Feature, Interactions, Schema
from trainer.data.reading import files
from trainer.data.reading.columns import Kind, convert, readable
from trainer.data.reading.files import Raw
from trainer.data.reading.kinds import strange_times
from trainer.data.reading.layout import ROW, Layout, are_lists, partition
from trainer.data.reading.roles import KINDS, TARGETS, USUAL, Name, find_column, present
from trainer.data.reading.spoilt import Bad
from trainer.errors import UserError
from trainer.registry import register
from trainer.settings import Settings

logger = logging.getLogger("trainer")

TIME = "timestamp"  # a context feature of this name and kind "time" is the event's own time
TYPES = {"timestamp": pl.Int64, "rating": pl.Float32, "weight": pl.Float32}


class Columns(Settings):
    """Which column is what: a name, or its number from 1. None: one of the usual names; "": there is none."""

    user: Name | None = None
    item: Name | None = None
    timestamp: Name | None = None
    rating: Name | None = None
    weight: Name | None = None
    # which kind of event it was (view, click, purchase, ...), weighed by data.behaviours; None: there is none
    behaviour: Name | None = None


class SideTable(Layout):
    """A table of users or of items, one a row; or the table of events itself, for columns of it that are their own."""

    path: str
    id: Name | None = None  # the column of ids; None: one of the usual names
    title: str | None = None  # of items: the column people read
    features: dict[str, Declared] = Field(default_factory=dict)  # column -> kind, or {kind = ..., ...}
    bag_separator: str = "|"  # between the labels of a bag or ids, where the column is not a list


@register("source", "table")
class Table(Layout):
    """Interactions, one a row, in a file, a folder or a glob.

    Lines `user item item ...` of whole numbers are known by their differing length, in files whose names do not end as a
    table's (`train.txt`); others need `format = "adjacency"`. Times are ISO texts (UTC where they name no zone), seconds,
    milli-, micro- or nanoseconds since 1970, told by their size, or days such as 20240131. Blank lines are ignored. An
    empty weight is 1.
    """

    path: str
    columns: Columns = Columns()
    # column -> kind, or {kind = ..., ...}; timestamp = "time" is the moment of the event, whatever its column is called
    context: dict[str, Declared] = Field(default_factory=dict)
    bag_separator: str = "|"
    users: SideTable | None = None
    items: SideTable | None = None
    validation: str | None = None  # the parts of a published split, written as `path` is
    test: str | None = None
    on_bad_rows: Literal["fail", "skip"] = "fail"
    rejects: Path = Path("rejects.csv")  # where skipped rows are told; under the folder the command runs in

    def load(self) -> Dataset:
        """Returns the interactions, the tables, and the published split where one is declared.

        Raises `UserError` naming the file, and the line and value where a row is at fault.
        """
        if (
            self.format == "auto" and self._are_lists()
        ):  # and so are the files of its split, however even their lines
            return self.model_copy(update={"format": "adjacency"}).load()
        for name, feature in self.context.items():
            if name == TIME and feature.kind == "time":
                continue
            if name in RESERVED or (name == "behaviour" and self.columns.behaviour not in (None, name)):
                raise UserError(
                    f"a context feature cannot be called {name!r}: that column has a meaning of its own"
                )
        bad: list[Bad] = []
        parts = {
            part: self._events(path, bad)
            for part, path in (("train", self.path), ("validation", self.validation), ("test", self.test))
            if path is not None
        }
        if TIME in self.context and not all(part.has_time for part in parts.values()):
            raise UserError(
                f"the context feature {TIME!r} is the time of the event, and the events have none; leave it out, or set "
                "data.source.columns.timestamp"
            )
        everything = [part.frame for part in parts.values()]
        users = self._corpus(self.users, "user", everything, bad)
        items = self._corpus(self.items, "item", everything, bad)
        self._tell(bad)
        return Dataset(
            name=Path(self.path).stem or "table",
            interactions=parts["train"],
            users=users,
            items=items,
            schema=Schema(
                user=_features(self.users.features if self.users else {}, "user"),
                item=_features(self.items.features if self.items else {}, "item"),
                context=_features(self.context, "item"),
                title=self.items.title if self.items else None,
            ),
            validation=parts.get("validation"),
            test=parts.get("test"),
        )

    def _are_lists(self) -> bool:
        found = files.find(self.path)
        with files.told(found[0], self):
            return are_lists(found[0])

    def _events(self, path: str, bad: list[Bad]) -> Interactions:
        besides = [self.validation, self.test, *(side.path for side in (self.users, self.items) if side)]
        found = files.find(path, [other for other in besides if other != path])
        everywhere = files.names_of_all(found, self, self.on_bad_rows == "skip", files.root_of(path))
        frames = [self._file(file, there, bad) for file, there in zip(found, everywhere, strict=True)]
        frame = pl.concat(frames)
        if not frame.height:
            raise UserError(f"{path} has {'only bad rows' if bad else 'a header and no rows'}")
        times = frame["timestamp"].null_count()
        if 0 < times < frame.height:
            without = next(
                file for file, one in zip(found, frames, strict=True) if one["timestamp"].null_count()
            )
            raise UserError(f"some files of {path} have times and others have none, such as {without}")
        # of events in one second the file may have any order
        if not times and (frame["timestamp"] % 1000 != 0).any():
            frame = frame.sort("timestamp", maintain_order=True)
        frame = frame.with_columns(pl.col("timestamp") // 1000)
        for note in strange_times(frame["timestamp"]):
            logger.warning("%s: %s", path, note)
        return Interactions(frame)

    def _file(self, path: Path, there: Sequence[str], bad: list[Bad]) -> pl.DataFrame:
        asked = {role: find_column(path, self, there, role, getattr(self.columns, role)) for role in USUAL}
        kinds = {TARGETS.get(role, role): (name, KINDS[role]) for role, name in asked.items() if name}
        behaviour = self.columns.behaviour
        if behaviour:
            found = find_column(path, self, there, "behaviour", behaviour)
            kinds["behaviour"] = (str(found), "id")
        for name, feature in self.context.items():
            if name != TIME:
                kinds[name] = (present(path, there, name, "data.source.context"), feature.kind)
        frame = _typed(path, self, kinds, self.bag_separator, self.on_bad_rows == "skip", bad)
        absent = [pl.lit(None, kind).alias(role) for role, kind in TYPES.items() if role not in frame.columns]
        columns = [*(TARGETS.get(role, role) for role in USUAL), *(["behaviour"] if behaviour else [])]
        columns += [name for name in self.context if name not in columns]
        return frame.with_columns(absent).with_columns(pl.col("weight").fill_null(1)).select(columns)

    def _corpus(
        self, side: SideTable | None, role: str, everything: Sequence[pl.DataFrame], bad: list[Bad]
    ) -> Corpus:
        target = TARGETS[role]
        if side is None:
            return Corpus(
                pl.concat([part.select(target) for part in everything]).unique(maintain_order=True), target
            )
        where = f"data.source.{role}s"
        frames = []
        found = files.find(side.path)
        everywhere = files.names_of_all(found, side, self.on_bad_rows == "skip", files.root_of(side.path))
        for path, there in zip(found, everywhere, strict=True):
            kinds: dict[str, tuple[str, Kind]] = {
                name: (present(path, there, name, f"{where}.features"), feature.kind)
                for name, feature in side.features.items()
            }
            if side.title:
                kinds.setdefault(side.title, (present(path, there, side.title, f"{where}.title"), "text"))
            name = find_column(path, side, there, role, side.id, f"{where}.id")
            named: dict[str, tuple[str, Kind]] = {target: (str(name), "id"), **kinds}
            frames.append(_typed(path, side, named, side.bag_separator, self.on_bad_rows == "skip", bad))
        frame = pl.concat(frames)
        # columns of the events that are the item's, or the user's, own
        if _resolved(side.path) == _resolved(self.path):
            frame = frame.group_by(target, maintain_order=True).agg(pl.all().drop_nulls().first())
        return Corpus(frame, target)

    def _tell(self, bad: Sequence[Bad]) -> None:
        # a table may be read for events and for a side
        told = {(row.path, row.line): row for row in reversed(bad)}
        if told:
            rows = [(str(row.path), row.line, row.reason, row.value) for row in reversed(told.values())]
            table = pl.DataFrame(rows, schema=["file", "line", "reason", "value"], orient="row")
            self.rejects.parent.mkdir(parents=True, exist_ok=True)
            table.write_csv(self.rejects)
            logger.warning("skipped %d bad rows; they are told in %s", len(told), self.rejects)


def _features(declared: Mapping[str, Declared], table: Literal["user", "item"]) -> tuple[Feature, ...]:
    """Returns the features of a table by name, for settings that were written and read again may stand in another order.

    Ids are of the table's own side where it is not said whose they are.
    """
    made = []
    for name, one in sorted(declared.items()):
        of = (one.of or table) if one.kind == "ids" else None
        made.append(Feature(name=name, **one.model_copy(update={"of": of}).model_dump()))
    return tuple(made)


def _resolved(path: str) -> list[Path]:
    """Returns the files of a path, the same however it is spelt."""
    return [file.resolve() for file in files.find(path)]


def _typed(
    path: Path,
    layout: Layout,
    kinds: Mapping[str, tuple[str, Kind]],
    bag_separator: str,
    skip: bool,
    bad: list[Bad],
) -> pl.DataFrame:
    """Returns the columns of a file, typed; bad rows raise, or with `skip` are appended to `bad`."""
    source = list(dict.fromkeys(name for name, _ in kinds.values()))
    raw = files.read(path, layout, source, skip)
    bad.extend(raw.spoilt)
    told = partition(path)  # the same in blank lines too
    written = [name for name in source if name not in told] or source
    frame = raw.frame.filter(~pl.all_horizontal(pl.col(written).is_null()))
    raw = Raw(raw.path, raw.layout, frame, raw.spoilt)
    for name, kind in kinds.values():
        if not readable(frame[name].dtype, kind):
            raise UserError(f"{path}: column {name!r} holds {frame[name].dtype}, which is not read as {kind}")
    typed = {target: convert(frame[name], kind, bag_separator) for target, (name, kind) in kinds.items()}
    good = pl.DataFrame({target: column.values for target, column in typed.items()})
    wrong = pl.DataFrame({target: column.bad for target, column in typed.items()})
    any_bad = wrong.select(pl.any_horizontal(pl.all())).to_series()
    if not any_bad.any():
        return good
    rows = any_bad.arg_true().to_list()
    reasons = []
    for row in rows if skip else rows[:1]:
        target = next(target for target in typed if wrong[target][row])
        name, _ = kinds[target]
        value = frame[name][row]
        reasons.append((f"column {name!r}: {typed[target].reason}", "" if value is None else _shown(value)))
    places = files.lines(raw, [frame[ROW][row] for row in (rows if skip else rows[:1])])
    found = [Bad(path, line, reason, value) for line, (reason, value) in zip(places, reasons, strict=True)]
    if not skip:
        raise UserError(str(found[0]))
    bad.extend(found)
    return good.filter(~any_bad)


def _shown(value: object) -> str:
    text = str(value.to_list() if isinstance(value, pl.Series) else value)
    return text if len(text) <= 80 else text[:77] + "..."
