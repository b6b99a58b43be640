"""What a training example costs, and how much memory an interaction and an item take, from 1e5 to 1e7 interactions and from 1e4 to 1e6
items: flat within a quarter, or something grows faster than the data.

Every size runs in a process of its own. Memory is what each further interaction or item adds to the peak: the libraries are not the
data's. Beside `bench.json` it leaves a table, `growth.md`, and a picture, `growth.png`.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

INTERACTIONS, ITEMS = (100_000, 1_000_000, 10_000_000), (10_000, 100_000, 1_000_000)
USERS, BATCH, DIMENSION, STEPS, ROUNDS = 30_000, 2_048, 64, 40, 5
FIXED_INTERACTIONS, FIXED_ITEMS = 1_000_000, 40_000
PASSES = 3  # whose median counts
PEAKS = 8  # processes whose least peak counts
FLAT = 1.25  # largest over smallest
GIVE_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "1048576",
}
Row = dict[str, float]


def run() -> dict[str, float]:
    """Returns how much of the allowed spread is left, by cost: 1.25 * smallest / largest, at least 1 where it is flat."""
    events = [(count, FIXED_ITEMS) for count in INTERACTIONS]
    rows = measured([*events, *((FIXED_INTERACTIONS, count) for count in ITEMS)])
    series = {"interactions": (INTERACTIONS, rows[: len(events)]), "items": (ITEMS, rows[len(events) :])}
    found = {}
    for name, (sizes, rows) in series.items():
        for row, added in zip(rows[1:], marginal(sizes, [row["peak"] for row in rows]), strict=True):
            row["bytes"] = added
        found[f"growth_time_per_example_by_{name}"] = flatness([row["microseconds"] for row in rows])
        found[f"growth_memory_by_{name}"] = flatness([row["bytes"] for row in rows[1:]])
    Path("growth.md").write_text(table(series), encoding="utf-8")
    draw(series, Path("growth.png"))
    return found


def flatness(costs: Sequence[float]) -> float:
    """Returns the spread allowed over the spread there is."""
    return FLAT * min(costs) / max(costs)


def marginal(sizes: Sequence[int], peaks: Sequence[float]) -> list[float]:
    """Returns the bytes that each further unit took, from every size to the next."""
    return [
        (after - before) / (large - small)
        for (small, large), (before, after) in zip(pairwise(sizes), pairwise(peaks), strict=True)
    ]


def measured(sizes: Sequence[tuple[int, int]]) -> list[Row]:
    """Returns the microseconds an example takes, and the peak of memory in bytes, of each size, every time in a process of its own.

    Times are medians of passes over all sizes in turn, so that a busy minute of the machine slows all alike. For the peak glibc gives
    freed arrays back at once: otherwise what it keeps for later is as much as the data. What the timing of threads adds on top differs
    by run, so the least of some counts.
    """
    passes = [[_process(*size, ROUNDS, {})["microseconds"] for size in sizes] for _ in range(PASSES)]
    times = map(statistics.median, zip(*passes, strict=True))
    peaks = [min(_process(*size, 1, GIVE_BACK)["peak"] for _ in range(PEAKS)) for size in sizes]
    return [{"microseconds": took, "peak": peak} for took, peak in zip(times, peaks, strict=True)]


def _process(interactions: int, items: int, rounds: int, settings: dict[str, str]) -> Row:
    command = [sys.executable, __file__, str(interactions), str(items), str(rounds)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, **settings, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stderr[-2000:]}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def train(interactions: int, items: int, rounds: int) -> Row:
    """Returns the costs of a few steps of the project's own model and pipeline, on ids alone."""
    import numpy as np

    from trainer.memory import costing

    epoch(50_000, 1_000, np.random.default_rng(1))()  # what TensorFlow takes once is not the data's
    with costing() as cost:
        loop = epoch(interactions, items, np.random.default_rng(0))
        loop()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        loop()
        seconds.append(time.perf_counter() - start)
    return {
        "microseconds": 1e6 * min(seconds) / (STEPS * BATCH),
        "peak": cost.memory_mb * 2**20,
    }


def epoch(interactions: int, items: int, rng: Any) -> Any:
    """Returns some steps of training on random events."""
    import numpy as np
    from bench_training import bare

    from trainer.config import Config
    from trainer.data.examples import Events
    from trainer.input_pipeline import Windows, training_batches
    from trainer.optimizer import prepare_fit
    from trainer.retrieval.model import RetrievalModel
    from trainer.settings import Part

    user, item = (rng.integers(1, count + 1, interactions, np.int32) for count in (USERS, items))
    user.sort()
    ones = np.ones(interactions, np.float32)
    events = Events(user, item, np.arange(interactions), ones, ones)
    prepared = bare(events, USERS, items)
    changes = {"features": False, "history": False, "id_dropout": 0.0, "embedding_dimension": DIMENSION}
    settings = Config().retrieval.model_copy(update={"negatives": Part(name="in_batch"), **changes})
    model = RetrievalModel(settings, prepared, 0)
    windows = Windows(events, len(prepared.users), 1, ordered=True)
    batches = training_batches(events, windows, {}, BATCH, 0, 0, 2).take(STEPS)
    prepare_fit(model, "adagrad", 0.1, STEPS, next(iter(batches)))
    return lambda: model.fit(batches, verbose=0) and None


def table(series: dict[str, tuple[Sequence[int], list[Row]]]) -> str:
    """Returns the costs as Markdown."""
    lines = [
        "# Cost growth",
        "",
        "| by | size | µs per example | MB at the peak | bytes each more takes |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (sizes, rows) in series.items():
        for size, row in zip(sizes, rows, strict=True):
            more = f"{row['bytes']:,.0f}" if "bytes" in row else ""
            cells = f"{size:,} | {row['microseconds']:.2f} | {row['peak'] / 2**20:,.0f} | {more}"
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def draw(series: dict[str, tuple[Sequence[int], list[Row]]], path: Path) -> None:
    """Draws time and memory against size, one line a series."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for name, (sizes, rows) in series.items():
        left.plot(sizes, [row["microseconds"] for row in rows], marker="o", label=f"by {name}")
        right.plot(sizes, [row["peak"] / 2**20 for row in rows], marker="o", label=f"by {name}")
    left.set(xscale="log", ylim=(0, None), xlabel="size", ylabel="µs per training example")
    right.set(xscale="log", yscale="log", xlabel="size", ylabel="MB at the peak, libraries left out")
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    print(json.dumps(train(*map(int, sys.argv[1:4]))))
