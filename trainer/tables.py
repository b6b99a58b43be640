"""Tables of names and their figures, for the terminal and in Markdown."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table


def figures_table(title: str, header: Sequence[str]) -> Table:
    """Returns an empty table of names and their figures, without frames: a leaderboard then fits 80 columns."""
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(header):
        # Where there is no room, names fold and figures stay whole.
        table.add_column(
            escape(name), justify="right" if number else "left", no_wrap=bool(number), overflow="fold"
        )
    return table


def add_row(table: Table, cells: Sequence[str], style: str | None = None) -> None:
    """Adds a row of texts as they are: a `[` in a name is no markup."""
    table.add_row(*map(escape, cells), style=style)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown, its figures to the right: a `|` in a name parts no cells."""
    rows = [[cell.replace("|", r"\|") for cell in cells] for cells in (header, *lines)]
    rows.insert(1, ["---", *["---:"] * (len(header) - 1)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
