"""Which files of a stranger's folder are the events, and which a table of users or of items: told by their columns."""

import glob
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from string import digits

from trainer.data import files
from trainer.data.files import Layout
from trainer.data.look import layout_of
from trainer.data.table import usual_column
from trainer.errors import UserError

HELD_OUT = re.compile(r"(^|[^a-z])(test|valid|validation|val)([^a-z]|$)", re.IGNORECASE)  # in names of files


def sides(
    path: str, users: str | None, items: str | None, columns: Mapping[str, str]
) -> tuple[str, str | None, str | None, list[str]]:
    """Returns the paths of interactions, users and items, and notes; in a folder, told by their columns.

    `columns` says which column is the user's or the item's, where it has no usual name.
    """
    if not Path(path).expanduser().is_dir():
        return path, users, items, []
    groups: dict[tuple[bool, bool], dict[str, list[Path]]] = {}
    seen = []
    found, held = _without_held_out(files.find(path, [users, items]))
    for file in found:
        layout = layout_of(file)
        there = files.names(file, Layout(**layout))
        has = (_has(there, "user", columns), _has(there, "item", columns))
        groups.setdefault(has, {}).setdefault(f"{layout} {sorted(there)}", []).append(file)
        seen.append(f"{file.name} ({', '.join(there)})")
    notes = (
        [f"left out as a part of a published split: {_listed(held)}; data.source.test=FILE"] if held else []
    )
    events = _largest(path, groups.get((True, True), {}), "the events", notes)
    if events is None:
        raise UserError(
            f"no table in {path} has columns for both the user and the item; name them: --user COLUMN --item COLUMN; "
            f"there are: {_listed(seen)}"
        )
    users = users or _largest(path, groups.get((True, False), {}), "a table of users", notes)
    items = items or _largest(path, groups.get((False, True), {}), "a table of items", notes)
    return events, users, items, notes


def _has(there: Sequence[str], role: str, columns: Mapping[str, str]) -> bool:
    return columns[role] in there if role in columns else usual_column(there, role) is not None


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
