"""One version of a model in memory: the same session and SignatureDef path as TensorFlow Serving's."""

import logging
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.server.batching import Batcher
from serving.server.errors import Code, RequestError, invalid
from serving.server.loading import load, warmup_requests
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions
from serving.server.runner import Arrays, Feeds, Run, runner
from serving.server.tensors import to_array

DEFAULT_SIGNATURE = "serving_default"
logger = logging.getLogger("serving.server")


class Servable:
    """A loaded SavedModel. `signatures` are its SignatureDefs, `call` asks one; it closes when nothing holds it."""

    def __init__(
        self,
        name: str,
        version: int,
        path: Path,
        options: ServerOptions,
        metrics: Metrics,
        batcher: Batcher | None = None,
    ) -> None:
        self.name, self.version, self.path = name, version, path
        self._metrics, self._most_rows = metrics, options.max_batch
        graph, both = tf.Graph(), options.tensorflow_session_parallelism
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=options.tensorflow_intra_op_parallelism or both,
            inter_op_parallelism_threads=options.tensorflow_inter_op_parallelism or both,
            allow_soft_placement=True,
            use_per_session_threads=True,  # in a common pool, slow calls of one model would stop all others
        )
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        with graph.as_default():
            meta_graph = load(self._session, options.saved_model_tags.split(","), str(path))
        self.signatures: Mapping[str, Any] = dict(meta_graph.signature_def)
        self._alone = threading.Lock()
        self._runs: dict[tuple[str, tuple[str, ...]], tuple[list[str], Run]] = {}
        self._batcher: Batcher | None = None  # a warm-up record alone would wait for company
        if options.enable_model_warmup:
            self._warm_up(max(options.num_request_iterations_for_warmup, 1))
        self._batcher = batcher

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._session.close()

    def call(
        self,
        signature_name: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> "Call":
        """A call of a signature, to be run: all outputs of it unless `outputs` names some.

        `inputs` holds a TensorProto, or an array of the signature's own type, for each alias, `timeout` is in
        seconds. Raises RequestError, in TensorFlow Serving's words, for names that do not fit, for what is no
        tensor and for more rows than the limit.
        """
        signature = self.signatures.get(signature_name)
        if signature is None:
            text = f'Serving signature key "{signature_name}" not found.'
            raise RequestError(Code.FAILED_PRECONDITION, text)
        _check_inputs(signature, inputs)
        arrays = {
            alias: value if isinstance(value, np.ndarray) else to_array(value, alias)
            for alias, value in inputs.items()
        }
        names = _output_names(signature, outputs)
        for alias, array in arrays.items():
            if array.ndim and array.shape[0] > self._most_rows:
                text = f"{alias} has {array.shape[0]} rows; the limit is {self._most_rows} (--max_batch)"
                raise invalid(text)
        aliases, run = self._run_of(signature_name, signature, names)
        feeds = [
            arrays[alias] if alias in arrays else to_array(signature.defaults[alias]) for alias in aliases
        ]
        key = (id(self), signature_name, names)
        return Call(names, feeds, partial(self._timed, run), timeout, self._batcher, key)

    def _timed(self, run: Run, feeds: Feeds, timeout: float | None) -> Feeds:
        started = time.perf_counter()
        try:
            results = run(feeds, timeout)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise RequestError.of(error) from None
        took = (time.perf_counter() - started) * 1e6
        labels = {"model_name": self.name, "API": "Predict", "runtime": "TF1"}
        self._metrics.count("core:graph_runs")
        self._metrics.count("core:graph_run_time_usecs", int(took))
        self._metrics.observe("serving:runtime_latency", took, **labels)
        return results

    def _run_of(self, name: str, signature: Any, outputs: tuple[str, ...]) -> tuple[list[str], Run]:
        """The order in which a signature's inputs are fed, and the call that runs it; made once."""
        if (name, outputs) not in self._runs:
            tensor = self._session.graph.get_tensor_by_name
            try:
                aliases = list(signature.inputs)
                feeds = [tensor(signature.inputs[alias].name) for alias in aliases]
                fetches = [tensor(signature.outputs[alias].name) for alias in outputs]
            except (KeyError, ValueError) as error:
                raise invalid(f'Signature "{name}" is not made of dense tensors: {error}') from error
            self._runs[name, outputs] = aliases, runner(self._session, feeds, fetches, self._alone)
        return self._runs[name, outputs]

    def _warm_up(self, times: int) -> None:
        file = self.path / "assets.extra" / "tf_serving_warmup_requests"
        if not file.is_file():
            return
        started = time.perf_counter()
        for request in warmup_requests(file):
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            for _ in range(times):
                self.call(name, request.inputs, request.output_filter).result()
        took = (time.perf_counter() - started) * 1e6
        self._metrics.observe("serving:model_warmup_latency", took, model_path=str(self.path), status="OK")


@dataclass(frozen=True, slots=True)
class Call:
    """One request that fits its signature; `result` or `start` brings it about."""

    names: tuple[str, ...]
    feeds: Feeds
    run: Run
    timeout: float | None
    batcher: Batcher | None
    key: Hashable

    def start(self) -> Future[Feeds] | None:
        """The outcome to come, for `outputs`, where requests are batched; None where `result` has to be called."""
        if self.batcher is None:
            return None
        return self.batcher.submit(self.key, self.feeds, self.run, self.timeout)

    def outputs(self, results: Feeds) -> Arrays:
        """The outputs by name."""
        return dict(zip(self.names, results, strict=True))

    def result(self) -> Arrays:
        """The outputs by name; blocks."""
        waiting = self.start()
        if waiting is None:
            return self.outputs(self.run(self.feeds, self.timeout))
        try:
            return self.outputs(waiting.result(self.timeout))
        except TimeoutError:
            raise overdue(waiting) from None


def overdue(waiting: Future[Feeds]) -> RequestError:
    """Why a batched request whose time is up has no answer: none is run for it, or that run takes too long."""
    if waiting.cancel():
        text = "Run() timeout exceeded while waiting in batching queue"
        return RequestError(Code.RESOURCE_EXHAUSTED, text)
    return RequestError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")


def _check_inputs(signature: Any, inputs: Mapping[str, Any]) -> None:
    wanted, sent = set(signature.inputs), set(inputs)
    if sent == wanted:
        return
    if len(sent) > len(wanted) or (len(sent) < len(wanted) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_braces(sent)}) != "
            f"len({_braces(wanted)}). Sent extra: {_braces(sent - wanted)}. "
            f"Missing but required: {_braces(wanted - sent)}."
        )
    for alias in sorted(wanted - sent - set(signature.defaults)):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {_braces(sent)}, or default input alias "
            f"set: {','.join(sorted(signature.defaults))}"
        )
    if sent - wanted:
        used = ",".join(sorted(sent & wanted))
        text = f"Used request inputs: {used}, request input: {','.join(sorted(sent))}"
        raise invalid(f"Inputs contains invalid name. {text}")


def _output_names(signature: Any, chosen: Sequence[str]) -> tuple[str, ...]:
    for place, alias in enumerate(chosen):
        if alias not in signature.outputs:
            text = f"{alias} Outputs expected to be in the set {_braces(set(signature.outputs))}."
            raise invalid(f"output tensor alias not found in signature: {text}")
        if alias in chosen[:place]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return tuple(sorted(chosen or signature.outputs))


def _braces(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
