"""One version of a model in memory: the same session and SignatureDef path as TensorFlow Serving's."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis import prediction_log_pb2

from serving.server.batching import Batcher
from serving.server.errors import Code, RequestError, invalid
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions
from serving.server.tensors import to_array

Arrays = dict[str, NDArray[Any]]
Feeds = list[NDArray[Any]]
Run = Callable[[Feeds, float | None], Feeds]
DEFAULT_SIGNATURE = "serving_default"
MOST_WARMUP_RECORDS = 1000
QUICK = 0.02  # seconds
# a SavedModel begins with its version and the length of a graph
GRAPH = re.compile(rb"\x08\x01\x12([\x80-\xff]{0,4}[\x00-\x7f])")
READ_AHEAD = 16  # bytes by which the parser is ahead of what it reads
logger = logging.getLogger("serving.server")
NOT_RUN = ("classify_log", "regress_log", "multi_inference_log")  # records of calls that are not served here
LOAD_ERRORS = {  # by words of the loader in Python: what the one in C++ says
    "SavedModel file does not exist": (
        Code.NOT_FOUND,
        "Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}. "
        "Check that the directory exists and that you have the right permissions for accessing it.",
    ),
    "saved_model.pbtxt': ": (Code.OUT_OF_RANGE, "Read less bytes than requested"),
    "MetaGraphDef associated with tags": (
        Code.NOT_FOUND,
        "Could not find meta graph def matching supplied tags: {{ {tags} }}. "
        "To inspect available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
    ),
}


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
            meta_graph = _load(self._session, options.saved_model_tags.split(","), str(path))
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
            self._runs[name, outputs] = aliases, _runner(self._session, feeds, fetches, self._alone)
        return self._runs[name, outputs]

    def _warm_up(self, times: int) -> None:
        file = self.path / "assets.extra" / "tf_serving_warmup_requests"
        if not file.is_file():
            return
        started = time.perf_counter()
        for request in _warmup_requests(file):
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


def _load(session: Any, tags: Sequence[str], path: str) -> Any:
    try:
        return tf.compat.v1.saved_model.load(session, tags, path)
    except (OSError, RuntimeError, ValueError, KeyError, tf.errors.NotFoundError) as error:
        if "saved_model.pb': " in str(error):
            raise _unread(path) from None
        for words, (code, text) in LOAD_ERRORS.items():
            if words in str(error):
                raise RequestError(code, text.format(path=path, tags=" ".join(tags))) from None
        if "Scann" not in str(error):
            raise
    import scann  # noqa: F401  (registers the operations that this model was saved with)

    return tf.compat.v1.saved_model.load(session, tags, path)


def _unread(path: str) -> RequestError:
    """Why a saved_model.pb cannot be read: the parser in C++ has other words where it comes to the end of the file."""
    file = Path(path, "saved_model.pb")
    with file.open("rb") as opened:
        graph, there = GRAPH.match(opened.read(READ_AHEAD)), file.stat().st_size
    size = sum((byte & 127) << 7 * place for place, byte in enumerate(graph[1])) if graph else 0
    if there <= READ_AHEAD or (graph and graph.end() + size > there):
        return RequestError(Code.OUT_OF_RANGE, "Read less bytes than requested")
    return RequestError(Code.DATA_LOSS, f"Can't parse {path}/saved_model.pb as binary proto")


def _warmup_requests(file: Path) -> Iterator[Any]:
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(os.fspath(file)), start=1):
            if count > MOST_WARMUP_RECORDS:
                raise invalid(
                    f"Number of warmup records exceeds the maximum ({MOST_WARMUP_RECORDS}) at {file}"
                )
            log = prediction_log_pb2.PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            if kind == "predict_log":
                yield log.predict_log.request
            elif kind in NOT_RUN:
                logger.warning("%s: record %d is no predict request and warms nothing up here", file, count)
            elif kind:
                number = log.DESCRIPTOR.fields_by_name[kind].number
                raise RequestError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
    except tf.errors.DataLossError as error:
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise RequestError(Code.DATA_LOSS, text) from None
    except DecodeError:
        text = f"Failed to parse warmup record: {record.decode(errors='replace')} from {file}"
        raise invalid(text) from None


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


def _runner(session: Any, feeds: Sequence[Any], fetches: Sequence[Any], alone: threading.Lock) -> Run:
    """A call that feeds and fetches arrays, by the binding below `Session.run` where this TensorFlow has it.

    That binding is private, and it takes 22 microseconds where the public call takes 155. Where the last run was quick, the
    next one is done in the caller's thread, which saves two changes of threads; one of a model at a time, for it cannot be ended.
    """
    try:
        places, wanted = ([tensor._as_tf_output() for tensor in tensors] for tensors in (feeds, fetches))
        call, handle = pywrap_tf_session.TF_SessionRun_wrapper, session._session
        _run_options(0, False)
    except AttributeError:
        public = session.make_callable(list(fetches), feed_list=list(feeds))
        return lambda arrays, _timeout: list(public(*arrays))

    quick = False

    def run(arrays: Feeds, timeout: float | None) -> Feeds:
        nonlocal quick
        here, quick = quick and alone.acquire(blocking=False), False
        started = time.perf_counter()
        try:
            limit = _run_options(0 if timeout is None else max(1, int(timeout * 1000)).bit_length(), here)
            results: list[Any] = call(handle, limit, dict(zip(places, arrays, strict=True)), wanted, [], None)
            quick = time.perf_counter() - started < QUICK
        finally:
            if here:
                alone.release()
        return [np.asarray(result, dtype=object if isinstance(result, bytes) else None) for result in results]

    return run


@lru_cache
def _run_options(bits: int, here: bool) -> Any:
    """Options that end a run after 2 to the `bits` milliseconds, a power of two, so that few are ever made; 0 is never.

    They free the threads of a run whose caller has gone; the caller's own deadline is kept to the millisecond. A run `here`, in
    the caller's thread, has no end but its own.
    """
    limit = 1 << min(bits, 40) if bits and not here else 0
    options = tf.compat.v1.RunOptions(timeout_in_ms=limit, inter_op_thread_pool=-1 if here else 0)
    return pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
