"""A search as people read it: tables for the terminal and in Markdown, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer.tables import add_row, markdown
from trainer.towers.dimension import beside_rules
from trainer.workdir import replace, save_picture

matplotlib.use("Agg")

DIMENSION = "retrieval.embedding_dimension"
SHOWN = 10  # trials in the terminal
Row = tuple[str, dict[str, Any], float]  # trial, settings by dotted name, objective
Lines = list[list[str]]  # of a table: the header first


def write(rows: Sequence[Row], objective: str, items: int, workdir: Path, console: Console) -> None:
    """Writes `trials.md` and `trials.png` of the trials, the best first, and shows the tables; `items`: size of the corpus."""
    every = trials(rows, objective)
    console.print(table(every[: SHOWN + 1], f"trials by validation {objective}"))
    text = markdown(every[0], every[1:])
    if DIMENSION in rows[0][1]:
        by_dimension = dimensions(rows, objective, items)
        console.print(table(by_dimension, f"embedding dimension, {items:,} items"))
        text += "\n" + markdown(by_dimension[0], by_dimension[1:])
    replace(workdir / "trials.md", text)
    picture(rows, objective, workdir / "trials.png")


def trials(rows: Sequence[Row], objective: str) -> Lines:
    """Returns a line a trial: its settings and what it came to."""
    lines = [[trial, *map(short, settings.values()), f"{value:.4f}"] for trial, settings, value in rows]
    return [["trial", *rows[0][1], objective], *lines]


def dimensions(rows: Sequence[Row], objective: str, items: int) -> Lines:
    """Returns a line a dimension, the shortest first: what was measured beside what the rules of thumb say."""
    measured = [(settings[DIMENSION], value) for _, settings, value in rows]
    lines = [
        [str(dimension), str(count or "-"), f"{best:.4f}" if count else "not measured", ", ".join(rules)]
        for dimension, count, best, rules in beside_rules(measured, items)
    ]
    return [["dimension", "trials", f"best validation {objective}", "rule of thumb"], *lines]


def table(lines: Lines, title: str) -> Table:
    """Returns the lines as a table for the terminal."""
    shown = Table(*map(escape, lines[0]), title=escape(title))
    for cells in lines[1:]:
        add_row(shown, cells)
    return shown


def picture(rows: Sequence[Row], objective: str, path: Path) -> None:
    """Draws the trials over the first two settings, coloured by the objective, the best one ringed."""
    from matplotlib import pyplot

    names = list(rows[0][1])[:2]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    points = [[settings[name] for _, settings, _ in rows] for name in names]
    heights = points[1] if len(points) > 1 else [value for *_, value in rows]
    colours = axes.scatter(
        points[0], heights, c=[value for *_, value in rows], s=90, cmap="viridis", edgecolor="0.3"
    )
    axes.scatter(
        points[0][:1], heights[:1], s=260, facecolor="none", edgecolor="crimson", linewidth=2, label="best"
    )
    for axis, values in ((axes.xaxis, points[0]), (axes.yaxis, heights)):
        _scale(axis, values)
    axes.set(xlabel=names[0], ylabel=names[1] if len(names) > 1 else objective, title=f"{len(rows)} trials")
    axes.legend(loc="best")
    figure.colorbar(colours, label=f"validation {objective}")
    save_picture(path, figure)
    pyplot.close(figure)


def _scale(axis: Any, values: Sequence[Any]) -> None:
    """Marks an axis at its few whole numbers, and makes it logarithmic where the values span much."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values) or min(numbers) <= 0 or max(numbers) / min(numbers) <= 3:
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    distinct = sorted(set(numbers))
    whole = len(distinct) <= 8 and all(isinstance(v, int) for v in distinct)
    axis.set_major_locator(FixedLocator(distinct) if whole else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def short(value: Any) -> str:
    """Returns a setting's value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
