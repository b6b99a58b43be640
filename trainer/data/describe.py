"""The settings that would load the files of a stranger, as TOML to paste, from a look at each (`look.py`)."""

import glob
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from string import digits
from typing import Any

import polars as pl
import tomli_w

from trainer.data import files
from trainer.data.columns import COMMAS, as_bag, as_text, decimal_commas, follows
from trainer.data.files import Layout
from trainer.data.kinds import DISLIKES, kind_of
from trainer.data.look import SKIPS, Look, layout_of, look, of_event_times, of_times
from trainer.data.request_names import RIGHT, fits_request
from trainer.data.table import USUAL, usual_column, usual_name
from trainer.errors import UserError

HELD_OUT = re.compile(r"(^|[^a-z])(test|valid|validation|val)([^a-z]|$)", re.IGNORECASE)  # in names of files
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
UNNAMED = re.compile(r"\s*|Unnamed: \d+|_duplicated_\d+")  # pandas' and polars' columns without a name
MANY_BEHAVIOURS = 20  # distinct values above which such a column is something else


def describe(path: str, users: str | None = None, items: str | None = None) -> str:
    """Returns settings for a table as TOML: columns by role, and the kinds of all others.

    `path` is a file, a glob or a folder; in a folder, a table with only the user's or the item's column is
    taken as that side's table. Raises `UserError` where no columns for user and item can be found.
    """
    path, users, items, together = _sides(path, users, items)
    events = look(path)
    missing = [role for role in ("user", "item") if role not in events.roles]
    if missing:
        raise UserError(
            f"{path} has no column that looks like the {missing[0]}; rename one to {missing[0]}_id, or write "
            f"data.source.columns.{missing[0]} by hand (and data.source.has_header=false, where the first line is no "
            f"header); there are: {', '.join(events.sample.columns)}"
        )
    notes = [*together, *events.notes]
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
        middle = ratings.quantile(0.5, "higher")
        if middle is not None:
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
    notes += of_event_times(events.sample[times[0]])


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
    title = usual_name(list(own), TITLES)
    return ({"title": title} if role == "item" and title else {}) | {"features": own}


def _as_one(column: pl.Series) -> pl.Series:
    """Returns the values as texts, those of lists joined."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.List(pl.String)).list.join("|")
    return as_text(column)


def _behaviours(events: Look, notes: list[str]) -> dict[str, float]:
    """Returns weights for the behaviours of the events, and notes their column as a role; {} where there is none."""
    name = usual_name([n for n in events.sample.columns if n not in events.roles.values()], BEHAVIOURS)
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


def _sides(path: str, users: str | None, items: str | None) -> tuple[str, str | None, str | None, list[str]]:
    """Returns the paths of interactions, users and items, and notes; in a folder, told by their columns."""
    if not Path(path).expanduser().is_dir():
        return path, users, items, []
    groups: dict[tuple[bool, bool], dict[str, list[Path]]] = {}
    columns = []
    found, held = _without_held_out(files.find(path, [users, items]))
    for file in found:
        layout = layout_of(file)
        there = files.names(file, Layout(**layout))
        has = (usual_column(there, "user") is not None, usual_column(there, "item") is not None)
        groups.setdefault(has, {}).setdefault(f"{layout} {sorted(there)}", []).append(file)
        columns.append(f"{file.name} ({', '.join(there)})")
    notes = (
        [f"left out as a part of a published split: {_listed(held)}; data.source.test=FILE"] if held else []
    )
    events = _largest(path, groups.get((True, True), {}), "the events", notes)
    if events is None:
        raise UserError(
            f"no table in {path} has columns for both the user and the item; rename them to user_id and item_id, or "
            f"describe the file of the events alone; there are: {_listed(columns)}"
        )
    users = users or _largest(path, groups.get((True, False), {}), "a table of users", notes)
    items = items or _largest(path, groups.get((False, True), {}), "a table of items", notes)
    return events, users, items, notes


def _without_held_out(found: list[Path]) -> tuple[list[Path], list[str]]:
    """Returns the files that train, and the names of those that a published split holds out: the same events must not train."""
    held = [file for file in found if HELD_OUT.search(file.stem)]
    if len(held) == len(found):
        return found, []
    return [file for file in found if file not in held], [file.name for file in held]


def _largest(path: str, groups: dict[str, list[Path]], what: str, notes: list[str]) -> str | None:
    """Returns a path of the largest group of files, noting what else there is; None where there are no groups."""
    if not groups:
        return None
    taken = max(groups.values(), key=lambda group: sum(map(_size, group)))
    found = _together(path, taken)
    hint = ""
    if found is None:
        hint = "; put files with the same columns into a folder of their own"
        taken = [max(taken, key=_size)]
        found = str(taken[0])
    if len(taken) > 1:
        listed = _listed([file.name for file in taken])
        notes.append(f"{len(taken)} files with the same columns are {what} together: {listed}")
    left = [file.name for group in groups.values() for file in group if file not in taken]
    if left:
        notes.append(f"left out, though they look like {what} too: {_listed(left)}{hint}")
    return found


def _together(path: str, taken: list[Path]) -> str | None:
    """Returns what loads some files of a folder and no other: a file, the folder or a glob; None where nothing does."""
    if len(taken) == 1:
        return str(taken[0])
    if files.find(path) == taken:
        return path
    folder = Path(path).expanduser()
    names = [file.relative_to(folder).as_posix() for file in taken]
    start = _beginning(names).rstrip(digits)
    end = _beginning([name[len(start) :][::-1] for name in names])[::-1].lstrip(digits)
    form = f"{glob.escape(start)}*{glob.escape(end)}"
    matched = sorted(file for file in folder.glob(form) if file.is_file())
    return f"{glob.escape(str(folder))}/{form}" if matched == taken else None


def _beginning(names: Sequence[str]) -> str:
    """Returns what all names begin with."""
    places = zip(*names, strict=False)
    return "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, places))


def _listed(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _size(path: Path) -> int:
    return path.stat().st_size


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
        if kind is None and decimal_commas(seen.sample[name]):
            shown = seen.sample[name].drop_nulls()[0]
            notes.append(f"column {name!r} of {Path(seen.path).name} is left out: {shown!r}; {COMMAS}")
            continue
        if kind is None:
            notes.append(
                f"column {name!r} of {Path(seen.path).name} is left out: it is empty, looks like an id or is of a type "
                f"that is not read ({seen.sample[name].dtype})"
            )
            continue
        if kind == "time":
            notes += of_times(seen.sample[name])
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
    title = usual_name(seen.sample.columns, TITLES)
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
