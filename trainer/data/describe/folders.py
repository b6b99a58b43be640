"""Which files of a stranger's folder are the events, and which a table of users or of items: told by their columns."""

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from string import digits
from typing import Literal

from trainer.data.describe.look import layout_of
from trainer.data.describe.named import side_by_words
from trainer.data.reading import files
from trainer.data.reading.layout import Layout
from trainer.data.reading.roles import usual_column
from trainer.errors import UserError

HELD_OUT = re.compile(r"(^|[^a-z])(test|valid|validation|val)([^a-z]|$)", re.IGNORECASE)  # in names of files


@dataclass(frozen=True)
class Seen:
    """A file of a folder, and the columns for the ids of the user and of the item, where it has them."""

    file: Path
    layout: Layout
    columns: tuple[str, ...]
    user: str | None
    item: str | None

    @property
    def form(self) -> str:
        """What files that are parts of one table have alike."""
        form = self.layout.of(self.file)
        columns = [] if form == "jsonl" else sorted(self.columns)  # JSON lines leave out what is empty
        return f"{form} {self.layout} {columns}"


Find = Callable[[Sequence[str], str], str | None]  # the column of a side among names


def sides(
    path: str, users: str | None, items: str | None, columns: Mapping[str, str]
) -> tuple[str, str | None, str | None, list[str]]:
    """Returns the paths of interactions, users and items, and notes; in a folder, told by their columns.

    `columns` says which column is the user's or the item's; else those with usual names are, or, where no file has
    both, those whose names say so in other words.
    """
    if not Path(path).expanduser().is_dir():
        return path, users, items, []
    root = files.root_of(path)
    found, held = _without_held_out(files.find(path, [users, items]), root)
    for find in (usual_column, side_by_words):
        tables = [_seen(file, root, columns, find) for file in found]
        events = [table for table in tables if table.user and table.item]
        if events:
            break
    else:
        seen = [f"{table.file.name} ({', '.join(table.columns)})" for table in tables]
        raise UserError(
            f"no table in {path} has columns for both the user and the item; name them: --user COLUMN --item COLUMN; "
            f"there are: {_listed(seen)}"
        )
    notes = (
        [f"left out as a part of a published split: {_listed(held)}; data.source.test=FILE"] if held else []
    )
    taken = _largest(path, events, "the events", notes)
    of_users = [table for table in tables if table.user and not table.item]
    of_items = [table for table in tables if table.item and not table.user]
    if users is None and of_users:
        users = _largest(path, _one_row_each(of_users, "user", notes), "a table of users", notes)
    if items is None and of_items:
        items = _largest(path, _one_row_each(of_items, "item", notes), "a table of items", notes)
    return taken or path, users, items, notes


def _seen(file: Path, root: Path, columns: Mapping[str, str], find: Find) -> Seen:
    layout = Layout(**layout_of(file))
    there = tuple(files.names(file, layout, root=root))
    user, item = (
        next((name for name in there if name == columns[side]), None)
        if side in columns
        else find(there, side)
        for side in ("user", "item")
    )
    return Seen(file, layout, there, user, item)


def _one_row_each(tables: list[Seen], side: Literal["user", "item"], notes: list[str]) -> list[Seen]:
    """Returns the tables with one row for an id, and notes those that have several: they are of something else."""
    kept = [table for table in tables if not _repeats(table, table.user or table.item or "")]
    left = [table.file.name for table in tables if table not in kept]
    if left:
        notes.append(f"left out, for they have several rows of one {side}: {_listed(left)}")
    return kept


def _repeats(table: Seen, column: str) -> bool:
    ids = files.read(table.file, table.layout, [column], skip=True).frame[column].drop_nulls()
    return ids.n_unique() < len(ids)


def _without_held_out(found: list[Path], folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the files that train, and the names of those that a published split holds out: the same events must not train."""
    held = [
        file
        for file in found
        if any(HELD_OUT.search(part) for part in (*file.relative_to(folder).parts[:-1], file.stem))
    ]
    if len(held) == len(found):
        return found, []
    return [file for file in found if file not in held], [_told(file, folder) for file in held]


def _told(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _largest(path: str, tables: list[Seen], what: str, notes: list[str]) -> str | None:
    """Returns a path of the largest table, which may be of several files, noting what else there is; None where there is none."""
    if not tables:
        return None
    groups: dict[str, list[Path]] = {}
    for table in tables:
        groups.setdefault(table.form, []).append(table.file)
    taken = max(groups.values(), key=lambda group: sum(map(_size, group)))
    found = _together(path, taken)
    hint, folder = "", Path(path).expanduser()
    if found is None:
        hint = "; put files with the same columns into a folder of their own"
        taken = [max(taken, key=_size)]
        found = str(taken[0])
    if len(taken) > 1:
        listed = _listed([_told(file, folder) for file in taken])
        notes.append(f"{len(taken)} files with the same columns are {what} together: {listed}")
    left = [_told(file, folder) for group in groups.values() for file in group if file not in taken]
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
