"""`make bench`: every `bench_*.py` beside this file, one table of ratios, and `bench.json` (key -> ratio).

Each module has `run() -> dict[str, float]`; a ratio compares with a peer, or with a limit, measured in the same run.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trainer.__main__ import hush_libraries  # selects Keras 2, before any benchmark loads TensorFlow

RESULTS = Path("bench.json")
BARS = {  # key -> the ratio to reach
    "training_examples_vs_tutorial": 1.4,
    "training_examples_vs_matrix_products": 0.4,
    "evaluation_times_factorized_top_k": 50.0,
    "als_recall_limit_over_fit_times": 1.0,
    "als_final_recall": 1.0,
    "growth_time_per_example_by_interactions": 1.0,
    "growth_memory_by_interactions": 1.0,
    "growth_time_per_example_by_items": 1.0,
    "growth_memory_by_items": 1.0,
    "client_start_limit_over_rest": 1.0,
    "client_start_limit_over_grpc": 1.0,
    "batching_requests_per_second": 1.5,
    "batching_p99_without_over_with": 1.0,
    "batching_times_one_client": 2.0,
    "rest_milliseconds_allowed_over_taken": 1.0,
    "grpc_milliseconds_allowed_over_taken": 1.0,
    "client_limit_over_rest": 1.0,
    "client_limit_over_grpc": 1.0,
    "brute_force_limit_over_taken": 1.0,
    "scann_times_brute_force": 8.0,
    "scann_recall": 0.95,
    "scann_times_faiss": 1.0,
    "scann_times_usearch": 1.0,
    "transformer_epoch_seconds_peer_over_ours": 1.0,
    "transformer_ndcg_ours_over_peer": 1.0,
}


def main(words: list[str] | None = None) -> int:
    """Runs the benchmarks that `words` name, all without words; returns 0, 1 where one failed.

    `bench.json` is written after each, and keeps what benchmarks that were not asked for had put there.
    """
    hush_libraries()
    here = Path(__file__).parent
    sys.path.insert(0, str(here))
    every = sorted(path.stem for path in here.glob("bench_*.py"))
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks",
        description="speed and memory against peers, in one table and bench.json",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(every)}")
    names = parser.parse_args(words).names
    if strange := {*names} - {*every}:
        parser.error(f"no benchmark {min(strange)!r}; there are {', '.join(every)}")
    known: dict[str, float] = (
        json.loads(RESULTS.read_text(encoding="utf-8")) if names and RESULTS.is_file() else {}
    )
    found: dict[str, float] = {}
    failed = []
    for name in names or every:
        Console().print(f"{name} ...")
        try:
            found |= importlib.import_module(name).run()
        except Exception:  # the hours of the others are not lost with it
            Console().print_exception(max_frames=3)
            failed.append(name)
        RESULTS.write_text(json.dumps(known | found, indent=2) + "\n", encoding="utf-8")
    table = Table(title=f"ratios, {os.cpu_count()} cores")
    for column in ("what", "ratio", "to reach"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for key, ratio in found.items():
        table.add_row(key, f"{ratio:.2f}", f"{BARS[key]:g}" if key in BARS else "")
    Console().print(table)
    for name in failed:
        Console().print(f"{name} failed, see above")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
