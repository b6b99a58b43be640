"""One predict call, whichever wire it came by: find the version, check, run, count."""

import time
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import prometheus_client

from serving.server.errors import RequestError, invalid
from serving.server.manager import Manager
from serving.server.servable import Servable


@dataclass(frozen=True)
class Spec:
    """Which model a request means."""

    name: str
    version: int | None = None
    label: str | None = None


class Metrics:
    """The real server's request counters, under its names."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        labels = ["model_name", "status"]
        self.count = prometheus_client.Counter(
            ":tensorflow:serving:request_count".replace(":", "_").strip("_"), "The total number of requests.", labels, registry=self.registry
        )
        self.latency = prometheus_client.Histogram(
            "tensorflow_serving_request_latency",
            "Distribution of wall time (in microseconds) for requests.",
            ["model_name", "API", "entrypoint"],
            buckets=[10 * 1.8**step for step in range(33)],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """Returns the metrics in Prometheus's text format, named as the real server names them."""
        text = prometheus_client.generate_latest(self.registry).decode()
        text = text.replace("tensorflow_serving_request_count_total", "tensorflow_serving_request_count")
        return text.replace("tensorflow_serving_", ":tensorflow:serving:").encode()


class Predictor:
    """Runs signatures of the managed models."""

    def __init__(self, manager: Manager, max_batch: int) -> None:
        self.manager = manager
        self.metrics = Metrics()
        self._max_batch = max_batch

    def servable(self, spec: Spec) -> Servable:
        """Returns the version that a request means."""
        return self.manager.get(spec.name, spec.version, spec.label)

    def predict(self, servable: Servable, signature: str, inputs: dict[str, npt.NDArray[Any]], api: str) -> dict[str, npt.NDArray[Any]]:
        """Returns the outputs, and counts the request under its outcome."""
        start = time.perf_counter()
        status = "OK"
        try:
            for name, array in inputs.items():
                if array.ndim and array.shape[0] > self._max_batch:
                    raise invalid(f"input {name} has {array.shape[0]} rows; the maximum input batch size {self._max_batch} is set by --max_batch")
            return servable.run(signature, inputs)
        except RequestError as error:
            status = error.code.name
            raise
        finally:
            self.metrics.count.labels(servable.name, status).inc()
            self.metrics.latency.labels(servable.name, "Predict", api).observe((time.perf_counter() - start) * 1e6)
