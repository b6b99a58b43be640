"""The settings that would load the files of a stranger, as TOML to paste, from a look at each (`look.py`)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from trainer.data.describe.folders import sides
from trainer.data.describe.look import SKIPS, Look, look, of_event_times, of_times
from trainer.data.describe.named import REVIEWS, kind_of_named, outcomes, title_of, whole_numbers, words
from trainer.data.reading.columns import as_bag
from trainer.data.reading.kinds import DISLIKES, follows
from trainer.data.reading.roles import USUAL, usual_column, usual_name
from trainer.data.reading.texts import COMMAS, DATES, as_text, days_first, decimal_commas
from trainer.data.request_names import RIGHT, fits_request
from trainer.data.table import Columns
from trainer.errors import UserError

BEHAVIOURS = (
    "behaviour",
    "behavior",
    "event_type",
    "event_name",
    "event",
    "action",
    "interaction",
    "interaction_type",
    "type",
)
UNNAMED = re.compile(r"\s*|Unnamed: \d+|_duplicated_\d+")  # pandas' and polars' columns without a name
MANY_BEHAVIOURS = 20  # distinct values above which such a column is something else


def describe(
    path: str,
    users: str | None = None,
    items: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> str:
    """Returns settings for a table as TOML: columns by role, and the kinds of all others.

    `path` is a file, a glob or a folder; in a folder, a table with only the user's or the item's column is
    taken as that side's table. `columns` says which column has a role, where its name does not. Raises `UserError`
    where no columns for user and item can be found.
    """
    columns = columns or {}
    path, users, items, together = sides(path, users, items, columns)
    events = look(path, columns)
    missing = [role for role in ("user", "item") if role not in events.roles]
    if missing:
        raise UserError(
            f"{path} has no column that looks like the {missing[0]}; name it: --{missing[0]} COLUMN (or write "
            f"data.source.has_header=false by hand, where the first line is no header); there are: "
            f"{', '.join(events.sample.columns)}"
        )
    if not events.sample.height:
        raise UserError(f"{path} has a header and no rows")
    notes = [*together, *events.notes]
    came_of_it = _outcomes(events, notes)
    behaviours = _behaviours(events, notes)
    context, separator = _features(events, notes)
    _leave_outcomes(came_of_it, context, notes)
    _find_time(events, context, notes)
    own = {}
    for role, side in (("user", users), ("item", items)):
        of_side = _own(events, context, role, side is None, notes)
        if side is not None or of_side:
            parted = separator != "|" and {"bag", "ids"} & {*of_side.get("features", {}).values()}
            in_events = {"path": path, **events.layout, "id": _columns(events)[role], **of_side}
            in_events |= {"bag_separator": separator} if parted else {}
            own[f"{role}s"] = in_events if side is None else _side(side, role, notes, columns)
    _leave_visits(events, context, notes)
    _leave_reviews(context, notes)
    _leave_unfit(context, notes)
    source: dict[str, Any] = {"name": "table", "path": path, **events.layout, "columns": _columns(events)}
    if separator != "|":
        source["bag_separator"] = separator
    source |= own
    if context:
        source["context"] = context
        notes.append(
            f"{', '.join(context)}: known when a request is made? If they come of it, leave them out"
        )
    data: dict[str, Any] = {"source": source} | ({"behaviours": behaviours} if behaviours else {})
    if "timestamp" not in events.roles:
        data["split"] = {"method": "random"}
        notes.append(
            "no times were found: histories are sets, and the split is random; where a user's rows stand in their order, "
            'method = "leave_last_out" below [data.split] reads it'
        )
    if events.roles.get("rating") in came_of_it:
        data["min_rating"] = 1.0
    elif "rating" in events.roles:
        notes += _of_ratings(events.sample[events.roles["rating"]])
    said = (line for note in [_summary(events), *notes] for line in note.splitlines())
    return "".join(f"# {line}\n" for line in said) + tomli_w.dumps({"data": data})


def _columns(events: Look) -> dict[str, str | int]:
    """Returns the roles in their order; a usual name would be taken for its role unless it is said that there is none.

    Of two columns with one name the number tells which.
    """
    there = events.sample.columns
    found = {
        role: there.index(name) + 1 if f"{name}_duplicated_0" in there else name
        for role, name in events.roles.items()
    }
    columns: dict[str, str | int] = {role: "" for role in USUAL if usual_column(there, role) is not None}
    columns |= found
    return {role: columns[role] for role in Columns.model_fields if role in columns}


def _of_ratings(column: pl.Series) -> list[str]:
    ratings = as_text(column).cast(pl.Float64, strict=False)
    middle = ratings.quantile(0.5, "higher")
    if middle is None or middle == ratings.min():
        return []
    return [f"every rating counts as a like; min_rating = {middle:g} below [data] keeps the upper half"]


def _outcomes(events: Look, notes: list[str]) -> list[str]:
    """Returns the columns of what came of a row; the first is the rating, where there is no other."""
    found = outcomes(events.sample, events.roles)
    if found and "rating" not in events.roles:
        events.roles["rating"] = found[0]
        notes.append(
            f"column {found[0]!r} is 1 where the user did it and 0 where it was only shown: the rows with 0 are no likes"
        )
    return found


def _leave_outcomes(came_of_it: Sequence[str], context: dict[str, str], notes: list[str]) -> None:
    for name in [name for name in came_of_it if name in context]:
        del context[name]
        notes.append(
            f"column {name!r} is left out of the context, for it came of the row; it may stand there as the column of "
            "one of ranking.targets"
        )


def _find_time(events: Look, context: dict[str, str], notes: list[str]) -> None:
    """Makes the one column of times, by whatever name, the events' time; one that is the user's or the item's own is no event's."""
    keys = [as_text(events.sample[events.roles[role]]) for role in ("user", "item")]
    times = [
        name
        for name, kind in context.items()
        if kind == "time" and not any(follows(as_text(events.sample[name]), key) for key in keys)
    ]
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


def _leave_visits(events: Look, context: dict[str, str], notes: list[str]) -> None:
    """Takes the columns out of the context that tell the user: ids of baskets, sessions or devices, which no request repeats."""
    users = as_text(events.sample[events.roles["user"]])
    for name, kind in list(context.items()):
        ids = kind == "category" or (kind in ("number", "count") and whole_numbers(events.sample[name]))
        if ids and follows(users, as_text(events.sample[name])):
            del context[name]
            notes.append(f"column {name!r} is left out: the rows of one {name} are all of one user")


def _leave_reviews(context: dict[str, str], notes: list[str]) -> None:
    """Takes what users said of the item out of the context: no request knows it, and it would give the answer away."""
    for name in [name for name in context if REVIEWS.intersection(words(name))]:
        del context[name]
        notes.append(
            f"column {name!r} is left out of the context: its name says that it was written of the item, afterwards"
        )


def _own(events: Look, context: dict[str, str], role: str, wanted: bool, notes: list[str]) -> dict[str, Any]:
    """Takes the columns out of the context that are the user's or the item's own, and returns them as its features if `wanted`.

    An item's column in the context of a request would give the answer away.
    """
    keys = as_text(events.sample[events.roles[role]])
    own = [name for name in context if follows(_as_one(events.sample[name]), keys)]
    if not own:
        return {}
    for name in own:
        del context[name]
    if not wanted:
        notes.append(
            f"{', '.join(own)}: left out, the same in all rows of one {role}, whose features are in a table of their own"
        )
        return {}
    once = events.sample.select(own).filter(keys.is_first_distinct())
    title = title_of(own) if role == "item" else None
    features = {name: "text" if name == title else kind_of_named(once[name])[0] for name in own}
    for name in [name for name, kind in features.items() if kind is None]:
        del features[name]
        notes.append(f"column {name!r} is left out: it names the {role} once more")
    if features:
        notes.append(
            f"{', '.join(features)}: the same in all rows of one {role}, so features of the {role}, not context"
        )
    return ({"title": title} if title else {}) | ({"features": features} if features else {})


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
    said = as_text(events.whole[name])
    items = as_text(events.whole[events.roles["item"]])
    if follows(said, items):  # the kind of the item, a film or a series, and nothing that was done
        return {}
    found = sorted({*said.drop_nulls().unique(), *filter(None, events.folders.get(name, ()))})
    told = pl.Series(found, dtype=pl.String).cast(pl.Float64, strict=False)
    numbers = not told.null_count()  # a flag, such as the genre Action
    if numbers or not 2 <= len(found) <= MANY_BEHAVIOURS:
        return {}
    events.roles["behaviour"] = name
    notes.append(
        f"column {name!r} says what a user did: weigh it below (0 leaves events out, below 0 is a dislike)"
    )
    if said.null_count():
        notes.append(f"column {name!r} is empty in {said.null_count():,} of the rows seen: {SKIPS}")
    return {behaviour: -1.0 if behaviour.lower() in DISLIKES else 1.0 for behaviour in found}


def _features(seen: Look, notes: list[str]) -> tuple[dict[str, str], str]:
    """Returns the kinds of the columns without a role, and the separator of the bags among them."""
    kinds: dict[str, str] = {}
    bags: dict[str, str] = {}  # separator -> the first column whose labels it parts
    for name in seen.sample.columns:
        if name in seen.roles.values():
            continue
        if UNNAMED.fullmatch(name):
            notes.append(f"column {name!r} of {Path(seen.path).name} is left out: it has no name")
            continue
        kind, separator = kind_of_named(seen.sample[name])
        commas = kind is None and decimal_commas(seen.sample[name])
        if commas or (kind != "time" and days_first(seen.sample[name])):
            shown, why = seen.sample[name].drop_nulls()[0], COMMAS if commas else DATES
            notes.append(f"column {name!r} of {Path(seen.path).name} is left out: {shown!r}; {why}")
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
        if kind in ("bag", "ids") and not isinstance(seen.sample[name].dtype, pl.List | pl.Array):
            bags.setdefault(separator, name)
            if separator != next(iter(bags)):
                notes.append(
                    f"column {name!r} of {Path(seen.path).name} is left out: its labels are parted by {separator!r}, and those "
                    f"of {next(iter(bags.values()))!r} by {next(iter(bags))!r}; one separator is read for a table"
                )
                continue
        kinds[name] = kind
    return kinds, next(iter(bags), "|")


def _are_ids(seen: Look, name: str, separator: str) -> bool:
    """Returns whether most labels of a bag are ids of the table's own rows: friends, or items that go together."""
    own = seen.sample[next(iter(seen.roles.values()))]
    labels = as_bag(seen.sample[name], separator).explode().drop_nulls()
    return len(seen.roles) == 1 and bool(labels.is_in(as_text(own).implode()).mean() > 0.5)  # type: ignore[operator]


def _side(path: str, role: str, notes: list[str], columns: Mapping[str, str]) -> dict[str, Any]:
    seen = look(path)
    usual = seen.roles.get(role, seen.sample.columns[0])
    column = columns.get(role, usual) if columns.get(role) in seen.sample.columns else usual
    seen = Look(seen.path, seen.layout, seen.whole, {role: column})
    settings: dict[str, Any] = {"path": path, **seen.layout, "id": column}
    features, separator = _features(seen, notes)
    title = title_of(seen.sample.columns)
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
