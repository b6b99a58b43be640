"""Models and baselines in one table: fitted on the same split, measured by the same evaluator, with what
they cost.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer import registry
from trainer.baselines.fitting import with_validation
from trainer.data.examples import Prepared
from trainer.errors import UserError
from trainer.evaluate import Report, compare
from trainer.progress import Reporter

MODEL = "model"  # the row that the others are compared with
_SHOWN = {
    "retrieval": ("recall@10", "ndcg@10", "hit_rate@10", "mrr", "coverage@10"),
    "ranking": ("rmse", "mae", "auc", "log_loss", "list_ndcg"),
}
_SMALLER = ("rmse", "mae", "log_loss")
_MEGABYTE = 2**20


@dataclass
class Cost:
    """What a fit took: seconds, megabytes of memory above what was in use before, and the settings it
    chose.
    """

    seconds: float = 0.0
    memory_mb: float = 0.0
    chosen: Mapping[str, float] | None = None


def fit(kind: str, name: str, prepared: Prepared, reporter: Reporter) -> tuple[Any, Cost] | None:
    """Returns the baseline `name` of a `kind` fitted, and its cost; None, after a line, where it cannot be
    had here.

    Settings are chosen on validation; then the baseline learns once more with the validation events, so
    that the test finds it at its best. Raises `UserError` for an unknown name.
    """
    baseline = registry.build(kind, name, {})
    try:
        with reporter.step(f"baseline {name}"), costing() as cost:
            fitted = baseline.fit(prepared)
            if len(prepared.before_test) > len(prepared.train):
                again = registry.build(kind, name, baseline.chosen)
                fitted = again.fit(with_validation(prepared))
    except (UserError, MemoryError) as error:
        reporter.say(f"baseline {name} is left out: {str(error) or 'out of memory'}")
        return None
    cost.chosen = dict(baseline.chosen)
    return fitted, cost


@contextmanager
def costing() -> Iterator[Cost]:
    """Yields a cost that is filled in at the end of the block."""
    cost = Cost()
    before, start = _resident(restart=True), time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start
    cost.memory_mb = max(0.0, (_resident() - before) / _MEGABYTE)


def write(
    retrieval: Mapping[str, Report],
    ranking: Mapping[str, Report],
    costs: Mapping[str, Cost],
    workdir: Path,
    console: Console | None = None,
    objective: str = "ndcg@10",
    ranking_objective: str = "rmse",
) -> None:
    """Writes `leaderboard.json` and `leaderboard.md` into `workdir`, rows best first, and shows them on
    `console`.

    The row `model`, if there is one, is what the others are compared with: `difference` is theirs - the
    model's in the objective, with a 95 % interval of the paired bootstrap.
    """
    board, text = {}, []
    for task, reports, metric in (
        ("retrieval", retrieval, objective),
        ("ranking", ranking, ranking_objective),
    ):
        if reports:
            board[task] = rows(reports, costs, metric)
            header, lines = _cells(board[task], task, metric)
            text.append(_markdown(task, metric, header, lines))
            if console is not None:
                console.print(_table(task, header, lines, console.width))
    (workdir / "leaderboard.json").write_text(json.dumps(board, indent=2) + "\n", encoding="utf-8")
    (workdir / "leaderboard.md").write_text("# Leaderboard\n\n" + "\n".join(text), encoding="utf-8")


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
        found.append(row)
    sign = 1 if objective in _SMALLER else -1
    return sorted(found, key=lambda row: sign * row[objective] if objective in row else float("inf"))


def _comparable(first: Report, second: Report, metric: str) -> bool:
    return metric in first.samples and metric in second.samples


def _cells(board: list[dict[str, Any]], task: str, objective: str) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of the table that a person reads."""
    names = list(dict.fromkeys([objective, *_SHOWN[task]]))
    names = [name for name in names if any(name in row for row in board)]
    header = ["", names[0], f"{objective} - {MODEL}", *names[1:], "seconds", "MB"]
    lines = []
    for row in board:
        figures = [_figure(row, name, interval=name == objective) for name in names]
        cells = [row["name"], figures[0], _signed(row.get("difference")), *figures[1:]]
        cells += [f"{row['seconds']:.1f}" if "seconds" in row else "", f"{row.get('memory_mb', 0):.0f}"]
        lines.append(cells)
    return header, lines


def _figure(row: Mapping[str, Any], name: str, interval: bool) -> str:
    if name not in row:
        return ""
    limits = row["intervals"].get(name) if interval else None
    return f"{row[name]:.4f}" + (f" ({limits[0]:.4f}-{limits[1]:.4f})" if limits else "")


def _signed(difference: list[float] | None) -> str:
    if difference is None:
        return ""
    value, low, high = difference
    return f"{value:+.4f}" + ("" if low > 0 or high < 0 else " (not sure)")


def _markdown(task: str, objective: str, header: list[str], lines: list[list[str]]) -> str:
    table = [header, ["---", *(["---:"] * (len(header) - 1))], *lines]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return f"## {task.capitalize()}, by {objective} (95 % intervals over users)\n\n{body}\n"


def _table(task: str, header: list[str], lines: list[list[str]], width: int) -> Table:
    """Returns the table for the terminal; the last columns give way on a narrow one, and the file has them all."""
    shown = 1 + max(3, min(len(header) - 1, (width - 30) // 18))
    table = Table(title=f"{task}, test")
    for number, name in enumerate(header[:shown]):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for cells in lines:
        table.add_row(*cells[:shown], style="bold" if cells[0] == MODEL else None)
    return table


def _resident(restart: bool = False) -> int:
    """Returns the peak of the process's memory in bytes; with `restart` the peak starts anew where Linux
    allows it.
    """
    status = Path("/proc/self/status")
    try:
        if restart:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
