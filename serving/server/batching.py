"""Concurrent requests merged into one run, by the rules of TensorFlow Serving's batching parameters."""

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.server.config import Batching
from serving.server.errors import Code, RequestError, invalid
from serving.server.metrics import Metrics

Rows = list[NDArray[Any]]
Run = Callable[[Rows, float | None], Rows]  # the rows, and the seconds that they may take


class _Request:
    """A caller's rows, in one part or, where they were split, in several that may run apart."""

    def __init__(self, parts: int) -> None:
        self.done: Future[Rows] = Future()
        self._found: dict[int, Rows] = {}
        self._parts, self._runs = parts, False
        self._begun = False
        self._changed = threading.Lock()

    def begins(self) -> bool:
        """Whether a part is still to be run: the caller has not given up, and no other part has failed."""
        with self._changed:
            if not self._begun:
                self._begun, self._runs = True, self.done.set_running_or_notify_cancel()
            return self._runs and not self.done.done()

    def ends(self, part: int, outcome: Rows | Exception) -> None:
        """Notes the outcome of a part; the first failure, or the last part, is that of all."""
        with self._changed:
            if self.done.done():
                return
            if isinstance(outcome, Exception):
                self.done.set_exception(outcome)
                return
            self._found[part] = outcome
            if len(self._found) < self._parts:
                return
            columns = zip(*(self._found[number] for number in range(self._parts)), strict=True)
            try:
                self.done.set_result(
                    outcome if self._parts == 1 else [np.concatenate(column) for column in columns]
                )
            except ValueError:  # an output as wide as the batch that it was made in
                text = (
                    "The outputs of the parts of a split request differ in shape and cannot be put together"
                )
                self.done.set_exception(RequestError(Code.FAILED_PRECONDITION, text))


@dataclass
class _Task:
    request: _Request
    part: int
    inputs: Rows
    rows: int
    timeout: float
    arrived: float = field(default_factory=time.monotonic)


@dataclass
class _Batch:
    queue: Hashable
    run: Run
    due: float
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0


class Batcher:
    """Queues of open batches, and the threads that run those that are full or have waited long enough.

    Requests meet only where signature, types and trailing shapes agree, so that none can fail for its neighbours; with
    `pad_variable_length_inputs` where types and ranks do.
    """

    def __init__(self, settings: Batching, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._changed = threading.Condition()
        self._open: dict[Hashable, _Batch] = {}
        self._closed: list[_Batch] = []
        for number in range(settings.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def submit(self, key: Hashable, inputs: Rows, run: Run, timeout: float | None = None) -> Future[Rows]:
        """The outcome of `run` on `inputs`, in due course; `key` names what may be merged with what.

        A run ends when `timeout`, in seconds, has passed for all whom it serves.
        Raises INVALID_ARGUMENT for inputs that have no common dimension 0 or more rows than a request may have, and
        UNAVAILABLE when too many batches of this `key` wait.
        """
        rows, meets = self._rows(inputs), (key, tuple(map(self._form, inputs)))
        self._metrics.observe("serving:batching_session:input_batch_size", rows)
        with self._changed:
            batch = self._open.get(meets)
            cuts = self._cuts(rows, 0 if batch is None else batch.rows)
            waiting = sum(each.queue == key for each in (*self._open.values(), *self._closed))
            joins = batch is not None and batch.rows + cuts[0] <= self._settings.most_rows
            if waiting + len(cuts) - joins > self._settings.max_enqueued_batches:
                text = "The batch scheduling queue to which this task was submitted is full"
                raise RequestError(Code.UNAVAILABLE, text)
            request, start = _Request(len(cuts)), 0
            for part, size in enumerate(cuts):
                some = inputs if len(cuts) == 1 else [array[start : start + size] for array in inputs]
                task = _Task(request, part, some, size, math.inf if timeout is None else timeout)
                self._enqueue(task, key, meets, run)
                start += size
            self._changed.notify(len(cuts))
        return request.done

    def _form(self, array: NDArray[Any]) -> Hashable:
        """What arrays must have in common to run together."""
        return array.dtype, array.ndim if self._settings.pad_variable_length_inputs else array.shape[1:]

    def _cuts(self, rows: int, taken: int) -> list[int]:
        """The rows of each part of a request; split, the first part fills the open batch, which has `taken` rows."""
        most = self._settings.most_rows
        if self._settings.max_execution_batch_size is None or taken + rows <= most:
            return [rows]
        first = most - taken
        rest = [most] * ((rows - first) // most)
        last = (rows - first) % most
        return [first, *rest, *([last] if last else [])]

    def _enqueue(self, task: _Task, queue: Hashable, meets: Hashable, run: Run) -> None:
        batch = self._open.get(meets)
        if batch is not None and batch.rows + task.rows > self._settings.most_rows:
            self._closed.append(self._open.pop(meets))
            batch = None
        if batch is None:
            due = task.arrived + self._settings.batch_timeout_micros / 1e6
            batch = self._open[meets] = _Batch(queue, run, due)
        batch.tasks.append(task)
        batch.rows += task.rows
        if batch.rows == self._settings.most_rows:
            self._closed.append(self._open.pop(meets))

    def _rows(self, inputs: Rows) -> int:
        if not inputs:
            raise invalid("Batching Run() must have at least one input tensor")
        if any(array.ndim == 0 for array in inputs):
            raise invalid("Batching Run() input tensors must have at least one dimension")
        if len({array.shape[0] for array in inputs}) > 1:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        rows, most = inputs[0].shape[0], self._settings.max_batch_size
        if rows > most:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {most}")
        return int(rows)

    def _work(self) -> None:
        while True:
            batch = self._next()
            tasks = [task for task in batch.tasks if task.request.begins()]
            if not tasks:
                continue
            outcomes: Sequence[Rows | Exception]
            try:
                outcomes = self._run(batch.run, tasks)
            except Exception as error:
                outcomes = [error] * len(tasks)
            for task, outcome in zip(tasks, outcomes, strict=True):
                task.request.ends(task.part, outcome)

    def _next(self) -> _Batch:
        with self._changed:
            while True:
                if self._closed:
                    return self._closed.pop(0)
                key = min(self._open, key=lambda key: self._open[key].due, default=None)
                wait = None if key is None else self._open[key].due - time.monotonic()
                if key is not None and wait is not None and wait <= 0:
                    return self._open.pop(key)
                self._changed.wait(wait)

    def _run(self, run: Run, tasks: Sequence[_Task]) -> list[Rows]:
        """The outputs of each task, cut from one run over all of them."""
        now, rows = time.monotonic(), sum(task.rows for task in tasks)
        for task in tasks:
            waited = (now - task.arrived) * 1e6
            self._metrics.observe("serving:batching_session:queuing_latency", waited, thread_pool_name="")
        latest = max(task.arrived + task.timeout for task in tasks)
        left = None if latest == math.inf else latest - now
        size = next((size for size in self._settings.allowed_batch_sizes if size >= rows), rows)
        padding = size - rows if rows else 0
        self._metrics.observe("serving:batching_session:processed_batch_size", rows + padding)
        if padding:
            labels = {"execution_batch_size": str(size)}
            self._metrics.observe("serving:batching_session:padding_size", padding, **labels)
        inputs = tasks[0].inputs
        if len(tasks) > 1 or padding:
            fill = [array[:1] for array in max(tasks, key=lambda task: task.rows).inputs]
            columns = zip(*(task.inputs for task in tasks), *[fill] * padding, strict=True)
            inputs = [np.concatenate(_as_wide(column)) for column in columns]
        self._metrics.count("serving:batching_session:wrapped_run_count")
        outputs = run(inputs, left)
        if any(array.ndim == 0 for array in outputs):
            raise RequestError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if any(array.shape[0] != rows + padding for array in outputs):
            text = "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
            raise RequestError(Code.FAILED_PRECONDITION, text)
        ends = list(accumulate(task.rows for task in tasks))
        return [
            [array[end - task.rows : end] for array in outputs] for task, end in zip(tasks, ends, strict=True)
        ]


def _as_wide(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Arrays that are as large as the largest in every dimension but the first, filled up with their own first element."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) == 1:
        return arrays
    most = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    made = []
    for array in arrays:
        wanted = (len(array), *most)
        if not array.size and math.prod(wanted):
            raise invalid("Got empty tensor in batch of non-empty tensors.")
        wide = np.full(wanted, array.flat[0] if array.size else 0, array.dtype)
        wide[tuple(map(slice, array.shape))] = array
        made.append(wide)
    return made
