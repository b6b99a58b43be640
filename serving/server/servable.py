"""One version of a model in memory: the same session and SignatureDef path as TensorFlow Serving's."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis import prediction_log_pb2

from serving.server.errors import Code, RequestError, invalid
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions
from serving.server.tensors import to_array

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Sequence[NDArray[Any]], float | None], Sequence[NDArray[Any]]]
DEFAULT_SIGNATURE = "serving_default"
MOST_WARMUP_RECORDS = 1000


class Servable:
    """A loaded SavedModel. `signatures` are its SignatureDefs, `predict` runs one; it closes when nothing holds it."""

    def __init__(
        self,
        name: str,
        version: int,
        path: Path,
        options: ServerOptions,
        metrics: Metrics,
        batcher: Any = None,
    ) -> None:
        self.name, self.version, self.path = name, version, path
        self._metrics, self._batcher, self._most_rows = metrics, batcher, options.max_batch
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=_session_config(options))
        with graph.as_default():
            meta_graph = _load(self._session, options.saved_model_tags.split(","), str(path))
        self.signatures: Mapping[str, Any] = dict(meta_graph.signature_def)
        self._runs: dict[tuple[str, tuple[str, ...]], tuple[list[str], Run]] = {}
        if options.enable_model_warmup:
            self._warm_up()

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._session.close()

    def predict(
        self, signature_name: str, inputs: Arrays, outputs: Sequence[str] = (), timeout: float | None = None
    ) -> Arrays:
        """The outputs of a signature, all of them unless `outputs` names some.

        `inputs` holds an array of the signature's own type for each alias, `timeout` is in seconds. Raises
        RequestError, in TensorFlow Serving's words, for aliases that do not fit and for what the graph refuses.
        """
        signature = self.signatures.get(signature_name)
        if signature is None:
            raise RequestError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.'
            )
        _check_inputs(signature, inputs)
        names = _output_names(signature, outputs)
        for alias, array in inputs.items():
            if array.ndim and array.shape[0] > self._most_rows:
                raise invalid(
                    f"{alias} has {array.shape[0]} rows; the limit is {self._most_rows} (--max_batch)"
                )
        aliases, run = self._run_of(signature_name, signature, names)
        feeds = [
            inputs[alias] if alias in inputs else to_array(signature.defaults[alias]) for alias in aliases
        ]
        if self._batcher is None:
            results = self._timed(run, feeds, timeout)
        else:
            key = (id(self), signature_name, names)
            waiting: Future[Any] = self._batcher.submit(key, feeds, lambda rows: self._timed(run, rows, None))
            try:
                results = waiting.result(timeout)
            except TimeoutError:
                waiting.cancel()
                text = "Run() timeout exceeded while waiting in batching queue"
                raise RequestError(Code.DEADLINE_EXCEEDED, text) from None
        return dict(zip(names, results, strict=True))

    def _timed(
        self, run: Run, feeds: Sequence[NDArray[Any]], timeout: float | None
    ) -> Sequence[NDArray[Any]]:
        started = time.perf_counter()
        try:
            results = run(feeds, timeout)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise RequestError.of(error) from None
        took = (time.perf_counter() - started) * 1e6
        self._metrics.observe(
            "serving:runtime_latency", took, model_name=self.name, API="Predict", runtime="TF1"
        )
        return results

    def _run_of(self, name: str, signature: Any, outputs: tuple[str, ...]) -> tuple[list[str], Run]:
        """The order in which a signature's inputs are fed, and the call that runs it; made once."""
        if (name, outputs) not in self._runs:
            try:
                aliases = list(signature.inputs)
                feeds = [self._tensor(signature.inputs[alias]) for alias in aliases]
                fetches = [self._tensor(signature.outputs[alias]) for alias in outputs]
            except (KeyError, ValueError) as error:
                raise invalid(f'Signature "{name}" is not made of dense tensors: {error}') from error
            self._runs[name, outputs] = aliases, _runner(self._session, feeds, fetches)
        return self._runs[name, outputs]

    def _tensor(self, info: Any) -> tf.Tensor:
        return self._session.graph.get_tensor_by_name(info.name)

    def _warm_up(self) -> None:
        started = time.perf_counter()
        for request in _warmup_requests(self.path):
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            inputs = {alias: to_array(proto) for alias, proto in request.inputs.items()}
            batcher, self._batcher = self._batcher, None  # a record alone would wait for company
            try:
                self.predict(name, inputs, request.output_filter)
            finally:
                self._batcher = batcher
        took = (time.perf_counter() - started) * 1e6
        self._metrics.observe("serving:model_warmup_latency", took, model_path=str(self.path), status="OK")


def _load(session: Any, tags: Sequence[str], path: str) -> Any:
    try:
        return tf.compat.v1.saved_model.load(session, tags, path)
    except (tf.errors.NotFoundError, ValueError, KeyError) as error:
        if "Scann" not in str(error):
            raise
    import scann  # noqa: F401  (registers the operations that this model was saved with)

    return tf.compat.v1.saved_model.load(session, tags, path)


def _warmup_requests(path: Path) -> Iterator[Any]:
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    if not file.is_file():
        return
    for count, record in enumerate(tf.data.TFRecordDataset(os.fspath(file)).as_numpy_iterator(), start=1):
        if count > MOST_WARMUP_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({MOST_WARMUP_RECORDS}): {file}")
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise RequestError(
                Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {log.WhichOneof('log_type')}"
            )
        yield log.predict_log.request


def _check_inputs(signature: Any, inputs: Arrays) -> None:
    wanted, sent = set(signature.inputs), set(inputs)
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
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {used}, request input: {','.join(sorted(sent))}"
        )


def _output_names(signature: Any, chosen: Sequence[str]) -> tuple[str, ...]:
    for place, alias in enumerate(chosen):
        if alias not in signature.outputs:
            expected = _braces(set(signature.outputs))
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {expected}."
            )
        if alias in chosen[:place]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return tuple(chosen) or tuple(sorted(signature.outputs))


def _braces(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _session_config(options: ServerOptions) -> Any:
    both = options.tensorflow_session_parallelism
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.tensorflow_intra_op_parallelism or both,
        inter_op_parallelism_threads=options.tensorflow_inter_op_parallelism or both,
        allow_soft_placement=True,
    )


def _runner(session: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Run:
    """A call that feeds and fetches arrays, by the binding below `Session.run` where this TensorFlow has it.

    That binding is private, and it takes 22 microseconds where the public call takes 155.
    """
    try:
        places, wanted = ([tensor._as_tf_output() for tensor in tensors] for tensors in (feeds, fetches))
        call, handle = pywrap_tf_session.TF_SessionRun_wrapper, session._session
        _run_options(1)
    except AttributeError:
        public = session.make_callable(list(fetches), feed_list=list(feeds))
        return lambda arrays, _timeout: public(*arrays)

    def run(arrays: Sequence[NDArray[Any]], timeout: float | None) -> Sequence[NDArray[Any]]:
        limit = None if timeout is None else _run_options(max(1, int(timeout * 1000)).bit_length())
        results: Sequence[Any] = call(handle, limit, dict(zip(places, arrays, strict=True)), wanted, [], None)
        return [np.asarray(result, dtype=object if isinstance(result, bytes) else None) for result in results]

    return run


@lru_cache
def _run_options(bits: int) -> Any:
    """Options that end a run after 2 to the `bits` milliseconds: a power of two, so that few are ever made.

    They free the threads of a run whose caller has gone; the caller's own deadline is kept to the millisecond.
    """
    options = tf.compat.v1.RunOptions(timeout_in_ms=1 << min(bits, 40))
    return pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
