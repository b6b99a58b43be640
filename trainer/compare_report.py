"""A comparison as people read it: a table for the terminal and in Markdown, and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console
from rich.table import Table

from trainer import tables
from trainer.evaluation.metrics import ascending
from trainer.workdir import replace, save_picture, write_json

matplotlib.use("Agg")

Row = Mapping[str, Any]
TITLES = {
    "recall@10": "recall@10",
    "ndcg@10": "NDCG@10",
    "hit_rate@5": "hit@5",
    "rmse": "RMSE (less is better)",
    "log_loss": "log loss (less is better)",
    "auc": "AUC",
}
ORDER = ("ndcg@10", "rmse", "log_loss")  # what rows are sorted by: the first that there is
MARKS = {"better": " ▲", "worse": " ▼", "unsure": " ≈"}
LEGEND = "mean ± standard deviation over seeds; ▲ better, ▼ worse than the best baseline of the column, ≈ not sure "
LEGEND += "(paired bootstrap over users, 95 %). Baselines stand in italics."
COLOURS = {"better": "#4c9a6a", "unsure": "#a9c9b1", "worse": "#d99a5b", None: "#6d8fb5"}
GREY = "#b9b9b9"


def write(rows: Sequence[Row], workdir: Path, console: Console) -> None:
    """Writes `compare.json` with all `rows`, and `compare.md` and `compare.png` with the best baselines only."""
    shown = best_first(rows)
    write_json(workdir / "compare.json", list(rows))
    replace(workdir / "compare.md", markdown(shown))
    picture(shown, workdir / "compare.png")
    console.print(table(shown, spread=console.width >= 120))


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Returns the presets and, of the baselines, those that are best in a metric: the best row first."""
    leaders = {leader(rows, metric) for metric in _metrics(rows)}
    kept = [row for row in rows if not row["baseline"] or row["name"] in leaders]
    metric = next((name for name in ORDER if name in _metrics(rows)), _metrics(rows)[0])
    sign = ascending(metric)
    worst = float("inf")
    return sorted(
        kept, key=lambda row: sign * row["metrics"][metric]["mean"] if metric in row["metrics"] else worst
    )


def leader(rows: Sequence[Row], metric: str) -> str | None:
    """Returns the name of the baseline that is best in a metric; None where no baseline has it."""
    sign = ascending(metric)
    there = {
        row["name"]: sign * row["metrics"][metric]["mean"]
        for row in rows
        if row["baseline"] and metric in row["metrics"]
    }
    return min(there, key=lambda name: there[name], default=None)


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    return f"{tables.markdown(*_cells(rows))}\n{LEGEND}\n"


def table(rows: Sequence[Row], spread: bool) -> Table:
    """Returns the table for the terminal, with the deviation over seeds where there is room to `spread`."""
    header, lines = _cells(rows, spread)
    shown = tables.figures_table("test, mean of the seeds", header)
    shown.caption = LEGEND
    for cells in lines:
        tables.add_row(
            shown, [cells[0].strip("*"), *cells[1:]], "italic" if cells[0].startswith("*") else None
        )
    return shown


def _metrics(rows: Sequence[Row]) -> list[str]:
    return [name for name in TITLES if any(name in row["metrics"] for row in rows)]


def _cells(rows: Sequence[Row], spread: bool = True) -> tuple[list[str], list[list[str]]]:
    names = _metrics(rows)
    header = ["", *(TITLES[name].split(" (")[0] for name in names), "seconds", "weights"]
    lines = []
    for row in rows:
        label = f"*{row['name']}*" if row["baseline"] else row["name"]
        trained = "" if row["baseline"] else f"{row['parameters']:,}"
        figures = [_figure(row["metrics"].get(name), spread) for name in names]
        lines.append([label, *figures, f"{row['seconds']:.1f}", trained])
    best = {name: reachable(rows, name) for name in names}
    if any(best.values()):
        figures = ["" if best[name] is None else f"{best[name]:.4f}" for name in names]
        lines.append(["*best reachable*", *figures, "", ""])
    return header, lines


def reachable(rows: Sequence[Row], metric: str) -> float | None:
    """Returns the best reachable score of the world that the rows were measured on, where it is known."""
    known = [row["metrics"][metric]["best_reachable"] for row in rows if metric in row["metrics"]]
    return next((value for value in known if value is not None), None)


def _figure(metric: Row | None, spread: bool) -> str:
    if metric is None:
        return ""
    deviation = "" if metric["deviation"] is None or not spread else f" ± {metric['deviation']:.4f}"
    return f"{metric['mean']:.4f}{deviation}" + (
        MARKS[metric["against"]["verdict"]] if metric["against"] else ""
    )


def picture(rows: Sequence[Row], path: Path) -> None:
    """Draws a panel for each metric: a bar a row with its interval, a point a seed, a line at the best baseline."""
    from matplotlib import pyplot

    metrics, names = _metrics(rows), [row["name"] for row in rows]
    width, height = 2.2 + 3.1 * len(metrics), 1.5 + 0.42 * len(rows)
    figure, panels = pyplot.subplots(
        1, len(metrics), figsize=(width, height), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, metric in zip(panels[0], metrics, strict=True):
        _panel(axes, rows, metric)
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].invert_yaxis()
    for label, row in zip(panels[0][0].get_yticklabels(), rows, strict=True):
        label.set_style("italic" if row["baseline"] else "normal")
    _legend(figure, rows)
    save_picture(path, figure)
    pyplot.close(figure)


def _panel(axes: Any, rows: Sequence[Row], metric: str) -> None:
    there = [
        (place, row, row["metrics"][metric]) for place, row in enumerate(rows) if metric in row["metrics"]
    ]
    most = max(max(found["interval"][1], *found["values"]) for _, _, found in there)
    for place, row, found in there:
        low, high = found["interval"]
        axes.barh(place, found["mean"], height=0.62, color=_colour(row, found))
        axes.hlines(place, low, high, color="0.15", linewidth=1.4)
        axes.scatter(
            found["values"], [place] * len(found["values"]), s=9, color="white", edgecolor="0.15", zorder=3
        )
        right = max(high, *found["values"]) + 0.02 * most
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # or the lines would run through
        axes.text(right, place, f"{found['mean']:.3f}", va="center", fontsize=8, bbox=paper)
    for _, row, found in there:
        if row["baseline"] and row["name"] == leader(rows, metric):
            axes.axvline(found["mean"], color="0.35", linestyle="--", linewidth=1)
    best = reachable(rows, metric)
    if best is not None:
        axes.axvline(best, color="0.35", linestyle=":", linewidth=1.2)
    axes.set(title=TITLES[metric], xlim=(0, max(1.22 * most, 1.02 * (best or 0))))
    axes.title.set_fontsize(10)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _colour(row: Row, found: Row) -> str:
    if row["baseline"]:
        return GREY
    return COLOURS[found["against"]["verdict"] if found["against"] else None]


def _legend(figure: Any, rows: Sequence[Row]) -> None:
    """Explains the colours that were used, the line and the marks, below the panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    verdicts = {
        found["against"]["verdict"] for row in rows for found in row["metrics"].values() if found["against"]
    }
    words = {
        "better": "better than the best baseline",
        "unsure": "not told apart from it",
        "worse": "worse than it",
    }
    handles: list[Any] = [Patch(color=COLOURS[name], label=words[name]) for name in words if name in verdicts]
    if any(row["baseline"] for row in rows):
        handles += [Patch(color=GREY, label="baseline")]
        handles += [Line2D([], [], color="0.35", linestyle="--", linewidth=1, label="best baseline")]
    if any(reachable(rows, metric) is not None for metric in _metrics(rows)):
        handles += [Line2D([], [], color="0.35", linestyle=":", linewidth=1.2, label="best reachable")]
    interval = "95 % interval over users, a point a seed"
    handles += [
        Line2D([], [], color="0.15", marker="o", markersize=3.5, markerfacecolor="white", label=interval)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 2 * len(_metrics(rows))),
        frameon=False,
        fontsize=8,
    )
