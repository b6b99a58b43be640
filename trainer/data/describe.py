"""A look at the files of a stranger, and the settings that would load them, as TOML to paste."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from trainer.data import files
from trainer.data.columns import as_bag, as_text, convert, follows, readable, written_as_days
from trainer.data.files import ROW, Layout
from trainer.data.kinds import DISLIKES, kind_of, like_times
from trainer.data.request_names import RIGHT, fits_request
from trainer.data.table import KINDS, USUAL, usual_column
from trainer.errors import UserError

SAMPLE = 50_000  # rows that are looked at
TITLES = ("title", "name", "item_name", "product_name", "headline")
BEHAVIOURS = (
    "behaviour",
    "behavior",
    "event_type",
    "event",
    "action",
    "interaction",
    "interaction_type",
    "type",
)
REPEATED = re.compile(r"_duplicated_\d+$")  # what polars puts after a name that was there before
UNNAMED = re.compile(
    r"\s*|Unnamed: \d+|_duplicated_\d+"
)  # what pandas and polars make of a column without a name
SKIPS = 'loading refuses them, or leaves them out with data.source.on_bad_rows = "skip"'
MANY_BEHAVIOURS = 20  # distinct values above which such a column is something else


@dataclass(frozen=True)
class Look:
    """What was seen of one file."""

    path: str
    layout: dict[str, Any]  # the settings of its layout that are not the defaults
    sample: pl.DataFrame
    roles: dict[str, str]  # role -> column
    notes: list[str] = field(default_factory=list)


def describe(path: str, users: str | None = None, items: str | None = None) -> str:
    """Returns settings for a table as TOML: columns by role, and the kinds of all others.

    `path` is a file, a glob or a folder; in a folder, a table with only the user's or the item's column is
    taken as that side's table. Raises `UserError` where no columns for user and item can be found.
    """
    path, users, items = _sides(path, users, items)
    events = look(path)
    missing = [role for role in ("user", "item") if role not in events.roles]
    if missing:
        raise UserError(
            f"{path} has no column that looks like the {missing[0]}; rename one to {missing[0]}_id, or write "
            f"data.source.columns.{missing[0]} by hand (and data.source.has_header=false, where the first line is no "
            f"header); there are: {', '.join(events.sample.columns)}"
        )
    notes = list(events.notes)
    behaviours = _behaviours(events, notes)
    source: dict[str, Any] = {"name": "table", "path": path, **events.layout, "columns": {}}
    context, separator = _features(events, notes)
    _find_time(events, context, notes)
    if separator != "|":
        source["bag_separator"] = separator
    for role, side in (("user", users), ("item", items)):
        own = _own(events, context, role, notes)
        if side is not None:
            source[f"{role}s"] = _side(side, role, notes)
        elif own:
            source[f"{role}s"] = {"path": path, **events.layout, "id": events.roles[role], **own}
    _leave_unfit(context, notes)
    if context:
        source["context"] = context
        notes.append(
            f"{', '.join(context)}: known when a request is made? If they come of it, leave them out"
        )
    there = events.sample.columns  # a role is taken by a usual name, unless it is said that there is none
    source["columns"] = {role: "" for role in USUAL if usual_column(there, role) is not None} | events.roles
    data: dict[str, Any] = {"source": source} | ({"behaviours": behaviours} if behaviours else {})
    if "timestamp" not in events.roles:
        data["split"] = {"method": "random"}
        notes.append("no times were found: histories are sets, and the split is random")
    if "rating" in events.roles:
        ratings = as_text(events.sample[events.roles["rating"]]).cast(pl.Float64, strict=False)
        middle = ratings.quantile(0.5, "higher") or 0.0
        notes.append(
            f"every rating counts as a like; min_rating = {middle:g} below [data] keeps the upper half"
        )
    return "".join(f"# {note}\n" for note in [_summary(events), *notes]) + tomli_w.dumps({"data": data})


def _find_time(events: Look, context: dict[str, str], notes: list[str]) -> None:
    """Makes the one column of times, by whatever name, the events' time."""
    times = [name for name, kind in context.items() if kind == "time"]
    if "timestamp" in events.roles or not times:
        return
    if len(times) > 1:
        notes.append(f"which is the event's time? columns.timestamp may be one of {', '.join(times)}")
        return
    events.roles["timestamp"] = times[0]
    del context[times[0]]
    notes.append(f"column {times[0]!r} holds the only times: it is taken as the events' time")
    notes += _of_no_times(events.sample[times[0]])


def _leave_unfit(context: dict[str, str], notes: list[str]) -> None:
    """Takes the columns out of the context that no request could have."""
    for name in list(context):
        if not fits_request(name, [other for other in context if other != name]):
            del context[name]
            notes.append(f"column {name!r} is left out of the context; to have it there, rename it: {RIGHT}")


def _own(events: Look, context: dict[str, str], role: str, notes: list[str]) -> dict[str, Any]:
    """Takes the columns out of the context that are the user's or the item's own, and returns them as its features.

    An item's column in the context of a request would give the answer away.
    """
    keys = as_text(events.sample[events.roles[role]])
    own = {name: kind for name, kind in context.items() if follows(_as_one(events.sample[name]), keys)}
    if not own:
        return {}
    for name in own:
        del context[name]
    notes.append(
        f"{', '.join(own)}: the same in all rows of one {role}, so features of the {role}, not context"
    )
    title = next((name for name in own if name.lower() in TITLES), None)
    return ({"title": title} if role == "item" and title else {}) | {"features": own}


def _as_one(column: pl.Series) -> pl.Series:
    """Returns the values as texts, those of lists joined."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.List(pl.String)).list.join("|")
    return as_text(column)


def look(path: str) -> Look:
    """Returns what the first rows of a path's first file show."""
    first = files.find(path)[0]
    settings = _layout(first)
    layout = Layout(**settings)
    there = files.names(first, layout)
    raw = files.read(first, layout, there, skip=True)
    if raw.spoilt and not raw.frame.height:
        raise UserError(f"no row of it can be read: {raw.spoilt[0]}")
    sample = raw.frame.head(SAMPLE).drop(ROW)
    roles = {role: name for role in USUAL if (name := usual_column(there, role)) is not None}
    notes = []
    if raw.spoilt:
        notes.append(f"rows that cannot be read: {len(raw.spoilt):,}; {SKIPS}; the first is {raw.spoilt[0]}")
    if not layout.has_header:
        roles = _by_values(sample)
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
            raise UserError(f"{first}: column {name!r} holds {dtype}, which is not read as {KINDS[role]}")
        del roles[role]
        notes.append(f"column {name!r} is not the {role}: it holds {dtype}")
    for name in (roles[role] for role in ("user", "item") if role in roles):
        ids = as_text(sample[name])
        around = ids.filter(ids != ids.str.strip_chars())
        if len(around):
            notes.append(
                f"column {name!r} has ids with spaces around them, which are part of the id: {around[0]!r}"
            )
    if "timestamp" in roles:
        notes += _of_times(sample[roles["timestamp"]]) + _of_no_times(sample[roles["timestamp"]])
    return Look(path, settings, sample, roles, notes)


def _of_times(column: pl.Series) -> list[str]:
    """Returns what is to be said of how a column of times is read."""
    if written_as_days(column):
        return [f"column {column.name!r} is read as days, such as 20240131 (midnight, UTC)"]
    return []


def _of_no_times(column: pl.Series) -> list[str]:
    """Returns what is to be said of the rows whose events' time cannot be read."""
    typed = convert(column, "timestamp")
    wrong = column.filter(typed.bad)
    if not len(wrong):
        return []
    return [
        f"column {column.name!r} in {len(wrong):,} of the rows seen: {typed.reason}, {wrong[0]!r}; {SKIPS}"
    ]


def _behaviours(events: Look, notes: list[str]) -> dict[str, float]:
    """Returns weights for the behaviours of the events, and notes their column as a role; {} where there is none."""
    lower = {name.lower(): name for name in events.sample.columns if name not in events.roles.values()}
    name = next((lower[usual] for usual in BEHAVIOURS if usual in lower), None)
    if name is None or not isinstance(events.sample[name].dtype, pl.String | pl.Categorical | pl.Enum):
        return {}
    said = as_text(events.sample[name])
    found = said.drop_nulls().unique().sort().to_list()
    if not 2 <= len(found) <= MANY_BEHAVIOURS:
        return {}
    events.roles["behaviour"] = name
    notes.append(
        f"column {name!r} says what a user did: weigh it below (0 leaves events out, below 0 is a dislike)"
    )
    if said.null_count():
        notes.append(f"column {name!r} is empty in {said.null_count():,} of the rows seen: {SKIPS}")
    return {behaviour: -1.0 if behaviour.lower() in DISLIKES else 1.0 for behaviour in found}


def _sides(path: str, users: str | None, items: str | None) -> tuple[str, str | None, str | None]:
    """Returns the paths of interactions, users and items; in a folder, told by their columns."""
    if not Path(path).expanduser().is_dir():
        return path, users, items
    found: dict[tuple[bool, bool], str] = {}
    for file in files.find(path):
        there = files.names(file, Layout(**_layout(file)))
        has = tuple(usual_column(there, role) is not None for role in ("user", "item"))
        larger = str(file)
        known = found.get((has[0], has[1]))
        if known is None or Path(known).stat().st_size < file.stat().st_size:
            found[has[0], has[1]] = larger
    events = found.get((True, True))
    if events is None:
        raise UserError(f"no table in {path} has columns for both the user and the item")
    return events, users or found.get((True, False)), items or found.get((False, True))


def _layout(path: Path) -> dict[str, Any]:
    """Returns the layout settings of a file that differ from the defaults."""
    if Layout().of(path) != "csv":
        return {}
    mark = files.separator(path, Layout())
    lines = [line.rstrip("\r\n").split(mark) for line in files.text(path, 50)]
    if not lines:
        return {}
    if lines[0][0].startswith("#") and (mark == " " or len(lines[0]) == 1):
        raise UserError(f"{path} begins with a comment, {mark.join(lines[0])[:80]!r}; take it out")
    if mark == " " and len({len(line) for line in lines}) > 1:
        return {"format": "adjacency"}
    settings: dict[str, Any] = {}
    suffix = files.suffix(path)
    if suffix not in (".csv", ".tsv", ".tab") or (mark == "\t") != (suffix != ".csv"):
        settings |= {"format": "tsv"} if mark == "\t" else {"separator": mark}
    if _are_values(next(csv.reader([mark.join(lines[0])], delimiter=mark))):
        settings["has_header"] = False
    return settings


def _are_values(first: list[str]) -> bool:
    """Returns whether the fields of a first line are no names: numbers, or one of them twice and none a usual name."""
    if first and all(_is_number(value) for value in first[:2]):
        return True
    written = [value for value in first if value.strip()]
    return len(set(written)) < len(written) and all(usual_column(first, role) is None for role in USUAL)


def _by_values(sample: pl.DataFrame) -> dict[str, str]:
    """Returns the roles of columns without names: user, item, then what looks like a time and a rating."""
    names = sample.columns
    roles = dict(zip(("user", "item"), names, strict=False))
    for name in names[2:]:
        known = as_text(sample[name]).drop_nulls()
        numeric = len(known) and not known.cast(pl.Float64, strict=False).null_count()
        if numeric and like_times(known):
            roles.setdefault("timestamp", name)
        elif numeric and known.n_unique() <= 100:
            roles.setdefault("rating", name)
    return roles


def _features(seen: Look, notes: list[str], taken: Sequence[str] = ()) -> tuple[dict[str, str], str]:
    """Returns the kinds of the columns without a role, and the separator of the bags among them."""
    kinds: dict[str, str] = {}
    bag_separator = "|"
    for name in seen.sample.columns:
        if name in seen.roles.values() or name in taken:
            continue
        if UNNAMED.fullmatch(name):
            notes.append(f"column {name!r} of {Path(seen.path).name} is left out: it has no name")
            continue
        kind, separator = kind_of(seen.sample[name])
        if kind is None:
            notes.append(
                f"column {name!r} of {Path(seen.path).name} is left out: it is empty, looks like an id or is of a type "
                f"that is not read ({seen.sample[name].dtype})"
            )
            continue
        if kind == "time":
            notes += _of_times(seen.sample[name])
        if kind == "bag" and _are_ids(seen, name, separator):
            kind = "ids"
        kinds[name] = kind
        bag_separator = separator if kind in ("bag", "ids") and separator != "|" else bag_separator
    return kinds, bag_separator


def _are_ids(seen: Look, name: str, separator: str) -> bool:
    """Returns whether most labels of a bag are ids of the table's own rows: friends, or items that go together."""
    own = seen.sample[next(iter(seen.roles.values()))]
    labels = as_bag(seen.sample[name], separator).explode().drop_nulls()
    return len(seen.roles) == 1 and bool(labels.is_in(as_text(own).implode()).mean() > 0.5)  # type: ignore[operator]


def _side(path: str, role: str, notes: list[str]) -> dict[str, Any]:
    seen = look(path)
    column = seen.roles.get(role, seen.sample.columns[0])
    seen = Look(seen.path, seen.layout, seen.sample, {role: column})
    settings: dict[str, Any] = {"path": path, **seen.layout, "id": column}
    features, separator = _features(seen, notes)
    lower = {name.lower(): name for name in seen.sample.columns}
    title = next((lower[name] for name in TITLES if name in lower), None)
    if role == "item" and title is not None:
        settings["title"] = title
        features[title] = "text"
    if separator != "|":
        settings["bag_separator"] = separator
    return settings | ({"features": features} if features else {})


def _summary(seen: Look) -> str:
    counts = {role: seen.sample[seen.roles[role]].n_unique() for role in ("user", "item")}
    seen_in = f"seen in the first {seen.sample.height:,} rows of {seen.path}"
    return f"{seen_in}: {counts['user']:,} users, {counts['item']:,} items"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
