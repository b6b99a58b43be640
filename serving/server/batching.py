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


@dataclass
class _Task:
    inputs: Rows
    rows: int
    timeout: float
    done: Future[Rows] = field(default_factory=Future)
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

    Requests meet only where signature, types and trailing shapes agree, so that none can fail for its neighbours.
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
        Raises INVALID_ARGUMENT for inputs that have no common dimension 0 or more rows than a batch takes, and
        UNAVAILABLE when too many batches of this `key` wait.
        """
        task = _Task(inputs, self._rows(inputs), math.inf if timeout is None else timeout)
        queue, key = key, (key, tuple((array.dtype, array.shape[1:]) for array in inputs))
        self._metrics.observe("serving:batching_session:input_batch_size", task.rows)
        with self._changed:
            batch = self._open.get(key)
            if batch is not None and batch.rows + task.rows > self._settings.max_batch_size:
                self._closed.append(self._open.pop(key))
                batch = None
            if batch is None:
                waiting = (*self._open.values(), *self._closed)
                if sum(each.queue == queue for each in waiting) >= self._settings.max_enqueued_batches:
                    text = "The batch scheduling queue to which this task was submitted is full"
                    raise RequestError(Code.UNAVAILABLE, text)
                due = task.arrived + self._settings.batch_timeout_micros / 1e6
                batch = self._open[key] = _Batch(queue, run, due)
            batch.tasks.append(task)
            batch.rows += task.rows
            if batch.rows == self._settings.max_batch_size:
                self._closed.append(self._open.pop(key))
            self._changed.notify()
        return task.done

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
            tasks = [task for task in batch.tasks if task.done.set_running_or_notify_cancel()]
            if not tasks:
                continue
            try:
                outcome = self._run(batch.run, tasks)
            except Exception as error:
                for task in tasks:
                    task.done.set_exception(error)
            else:
                for task, outputs in zip(tasks, outcome, strict=True):
                    task.done.set_result(outputs)

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
            inputs = [np.concatenate(column) for column in columns]
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
