"""What a person sees while the work runs: one line a step, with a bar where the length is known; in a log a line now and then."""

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

Advance = Callable[[int, str], None]
TOLD_EVERY = 30.0  # seconds; where no bar can be drawn, as in a log


class Reporter:
    """Shows steps on the terminal and remembers how long each took (`seconds`, by step name)."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.seconds: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Prints a line above the running bar."""
        self.console.print(line, highlight=False, markup=False)

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Yields `advance(done, note)` for the step `name`; `done` counts up to `total`."""
        start = time.perf_counter()
        fixed = Column(no_wrap=True, min_width=8)
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<20}", table_column=Column(no_wrap=True, min_width=20)),
            BarColumn(16, table_column=Column(min_width=16)),
            MofNCompleteColumn(table_column=fixed),
            TimeElapsedColumn(table_column=fixed),
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
        )
        with Progress(*columns, expand=True, console=self.console, refresh_per_second=4) as bar:
            task, told = bar.add_task(name, total=total or 1, note=""), start

            def advance(done: int, note: str = "") -> None:
                nonlocal told
                bar.update(task, completed=done, note=note)
                if not self.console.is_terminal and time.perf_counter() - told > TOLD_EVERY:
                    told = time.perf_counter()
                    elapsed = datetime.timedelta(seconds=int(told - start))
                    self.say(f"  {name} {done:,} of {total or 1:,} {elapsed} {note}".rstrip())

            try:
                yield advance
            except BaseException:
                bar.remove_task(task)  # what went wrong is told in a line of its own
                raise
            bar.update(task, completed=total or 1)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
