"""Counters and histograms under TensorFlow Serving's names, in Prometheus' text format.

The official client library insists on a `_total` suffix and so cannot write these names.
"""

import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator

from serving.server.errors import Code, RequestError

BOUNDS = tuple(10 * 1.8**power for power in range(33))  # microseconds, and rows
Labels = tuple[tuple[str, str], ...]
COUNTERS = (
    "cc:saved_model:load_attempt_count",
    "cc:saved_model:load_latency",
    "core:graph_run_time_usecs",
    "core:graph_runs",
    "serving:batching_session:wrapped_run_count",
    "serving:request_count",
)
HISTOGRAMS = (
    "serving:batching_session:input_batch_size",
    "serving:batching_session:padding_size",
    "serving:batching_session:processed_batch_size",
    "serving:batching_session:queuing_latency",
    "serving:model_warmup_latency",
    "serving:request_latency",
    "serving:runtime_latency",
)


class Metrics:
    """What the server has counted; safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = {name: {} for name in COUNTERS}
        self._histograms: dict[str, dict[Labels, list[float]]] = {name: {} for name in HISTOGRAMS}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds `amount` to the counter `:tensorflow:<name>`."""
        with self._lock:
            cells, key = self._counters[name], tuple(labels.items())
            cells[key] = cells.get(key, 0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Records `value`, in microseconds or rows, in the histogram `:tensorflow:<name>`."""
        with self._lock:
            cells = self._histograms[name].setdefault(tuple(labels.items()), [0.0] * (len(BOUNDS) + 2))
            cells[bisect_left(BOUNDS, value)] += 1
            cells[-1] += value

    @contextlib.contextmanager
    def request(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts one request and how it ends, with the time that it takes where that is well."""
        started, code = time.perf_counter(), Code.DEADLINE_EXCEEDED  # of a request that is broken off
        try:
            yield
            code, took = Code.OK, (time.perf_counter() - started) * 1e6
            self.observe("serving:request_latency", took, model_name=model, API=api, entrypoint=entrypoint)
        except Exception as fault:
            code = RequestError.of(fault).code
            raise
        finally:
            self.count("serving:request_count", model_name=model, status=code.name)

    def page(self) -> str:
        """Everything counted so far, and the types of what may be, as Prometheus reads it."""
        lines = []
        with self._lock:
            for name, series in self._counters.items():
                lines.append(f"# TYPE :tensorflow:{name} counter")
                lines += [f":tensorflow:{name}{{{_text(key)}}} {value:.15g}" for key, value in series.items()]
            for name, histogram in self._histograms.items():
                lines.append(f"# TYPE :tensorflow:{name} histogram")
                for labels, cells in histogram.items():
                    lines += _histogram(f":tensorflow:{name}", labels, cells)
        return "\n".join(lines) + "\n"


def _histogram(name: str, labels: Labels, cells: list[float]) -> list[str]:
    lines, total = [], 0.0
    for bound, cell in zip([f"{bound:g}" for bound in BOUNDS] + ["+Inf"], cells[:-1], strict=True):
        total += cell
        lines.append(f"{name}_bucket{{{_text((*labels, ('le', bound)))}}} {total:.15g}")
    sums = (("sum", cells[-1]), ("count", total))
    return lines + [f"{name}_{suffix}{{{_text(labels)}}} {value:.15g}" for suffix, value in sums]


def _text(labels: Labels) -> str:
    escaped = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for key, value in labels
    )
    return ",".join(f'{key}="{value}"' for key, value in escaped)
