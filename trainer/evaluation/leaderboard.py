"""Models and baselines in one table: measured by the same evaluator, with what they cost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.evaluation.metrics import ascending
from trainer.evaluation.reports import Report, compare
from trainer.memory import Cost
from trainer.tables import add_row, figures_table, markdown
from trainer.workdir import replace, write_json

MODEL = "model"  # the row that the others are compared with
_SHOWN = {
    "retrieval": ("recall@10", "ndcg@10", "hit_rate@10", "mrr", "coverage@10"),
    "ranking": ("rmse", "mae", "auc", "log_loss", "list_ndcg"),
}
_OURS = (MODEL, "bundle", "server")
_LEFT_OUT = "left_out"


def write(
    reports: Mapping[str, Mapping[str, Report]],
    costs: Mapping[str, Mapping[str, Cost]],
    objectives: Mapping[str, str],
    workdir: Path,
    console: Console | None = None,
) -> None:
    """Writes `leaderboard.json` and `leaderboard.md` into `workdir`, rows best first, and shows them on `console`.

    `reports` and `costs` are by task ("retrieval", "ranking") and name, `objectives` the metric that orders
    each task. The row `model`, if there is one, is what the others are compared with: `difference` is theirs
    - the model's in the objective, with a 95 % interval of the paired bootstrap.
    """
    board: dict[str, Any] = {
        task: rows(found, costs.get(task, {}), objectives[task]) for task, found in reports.items()
    }
    board = {task: found for task, found in board.items() if found}
    every = [(name, cost) for by_name in costs.values() for name, cost in by_name.items()]
    board[_LEFT_OUT] = {name: cost.left_out for name, cost in every if cost.left_out}
    _save(board, objectives, workdir, console)


def add(
    workdir: Path, name: str, report: Report, objectives: Mapping[str, str], console: Console | None = None
) -> None:
    """Adds a retrieval row to the leaderboard of `workdir`, in place of the row of that name if there is one."""
    kept = workdir / "leaderboard.json"
    board = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    others = [row for row in board.get("retrieval", []) if row["name"] != name]
    board["retrieval"] = _sorted(
        [*others, *rows({name: report}, {}, objectives["retrieval"])], objectives["retrieval"]
    )
    _save(board, objectives, workdir, console)


def _save(
    board: Mapping[str, Any], objectives: Mapping[str, str], workdir: Path, console: Console | None
) -> None:
    text = []
    for task in _SHOWN:
        if not board.get(task):
            continue
        header, lines = _cells(board[task], task, objectives[task])
        title = f"## {task.capitalize()}, by {objectives[task]} (95 % intervals over users)"
        text.append(f"{title}\n\n{markdown(header, lines)}{_remarks(board[task])}")
        if console is not None:
            console.print()
            console.print(_table(task, header, lines, console.width))
    if board.get(_LEFT_OUT):
        reasons = "\n".join(f"- {name}: {reason}" for name, reason in board[_LEFT_OUT].items())
        text.append(f"## Left out\n\n{reasons}\n")
    write_json(workdir / "leaderboard.json", board)
    replace(workdir / "leaderboard.md", "# Leaderboard\n\n" + "\n".join(text))


def rows(reports: Mapping[str, Report], costs: Mapping[str, Cost], objective: str) -> list[dict[str, Any]]:
    """Returns one row a report for JSON, best objective first; reports without the objective come last."""
    found = []
    for name, report in reports.items():
        cost = costs.get(name)
        row: dict[str, Any] = {"name": name, **report.values, "intervals": report.intervals}
        row |= {"alarms": report.alarms, "notes": report.notes}
        if cost is not None:
            row |= {"seconds": round(cost.seconds, 2), "memory_mb": round(cost.memory_mb, 1)}
            row["chosen"] = dict(cost.chosen or {})
        if MODEL in reports and name != MODEL and _comparable(report, reports[MODEL], objective):
            gap = compare(report, reports[MODEL], objective)
            row["difference"] = [gap.difference, gap.low, gap.high]
            row["significant"] = gap.significant
        found.append(row)
    return _sorted(found, objective)


def _sorted(found: list[dict[str, Any]], objective: str) -> list[dict[str, Any]]:
    sign = ascending(objective)
    return sorted(found, key=lambda row: sign * row[objective] if objective in row else float("inf"))


def _comparable(first: Report, second: Report, metric: str) -> bool:
    return metric in first.samples and metric in second.samples


def _cells(board: list[dict[str, Any]], task: str, objective: str) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of the table that a person reads."""
    there = {name: None for row in board for name in row}  # in order
    cutoffs = [name.partition("@")[2] for name in there if name.startswith("recall@")]
    k = "10" if "10" in cutoffs or not cutoffs else cutoffs[0]
    shown = [name.replace("@10", f"@{k}") for name in _SHOWN[task]]
    names = [name for name in dict.fromkeys([objective, *shown]) if name in there]
    header = ["", names[0], f"{objective} - {MODEL}", *names[1:], "seconds", "MB"]
    lines = []
    for row in board:
        figures = [_figure(row, name, interval=name == objective) for name in names]
        cells = [row["name"], figures[0], _difference(row), *figures[1:]]
        cells += [f"{row['seconds']:.1f}" if "seconds" in row else "", f"{row.get('memory_mb', 0):.0f}"]
        lines.append(cells)
    return header, lines


def _figure(row: Mapping[str, Any], name: str, interval: bool) -> str:
    if name not in row:
        return ""
    limits = row["intervals"].get(name) if interval else None
    return f"{row[name]:.4f}" + (f" ({limits[0]:.4f}-{limits[1]:.4f})" if limits else "")


def _difference(row: Mapping[str, Any]) -> str:
    if "difference" not in row:
        return ""
    value, low, high = row["difference"]
    sure = row.get("significant", low > 0 or high < 0)  # not noted by versions before
    return f"{value:+.4f}" + ("" if sure else " (not sure)")


def _remarks(board: list[dict[str, Any]]) -> str:
    """Returns the alarms of every row, and what there is to know about the model's, as a list."""
    lines = [
        f"- {row['name']}: {line}"
        for row in board
        for line in [*row["alarms"], *(row["notes"] if row["name"] in _OURS else ())]
    ]
    return "\n".join(["", *lines, ""]) if lines else ""


def _table(task: str, header: list[str], lines: list[list[str]], width: int) -> Table:
    """Returns the table for the terminal; the last columns give way on a narrow one, and the file has them all."""
    shown = 1 + max(3, min(len(header) - 1, (width - 30) // 18))
    table = figures_table(f"{task}, test", header[:shown])
    for cells in lines:
        add_row(table, cells[:shown], "bold" if cells[0] == MODEL else None)
    return table
