"""One version of a model: a SavedModel in a session, run signature by signature, as the real server runs it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.server.errors import Code, RequestError, invalid

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402

Arrays = Mapping[str, npt.NDArray[Any]]
DEFAULT_SIGNATURE = "serving_default"
WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"


class Servable:
    """A loaded version. The session closes when the last request lets go of the object."""

    def __init__(self, name: str, version: int, directory: Path) -> None:
        self.name = name
        self.version = version
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph)
        with self._graph.as_default():
            meta = _load(self._session, str(directory))
        self.signatures: dict[str, Any] = {
            key: value for key, value in meta.signature_def.items() if not key.startswith("__saved_model")
        }
        self._runners: dict[str, tuple[list[str], list[str], Callable[..., Any]]] = {}
        for key in self.signatures:
            self._runners[key] = self._runner(key)

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._session.close()

    def signature(self, name: str) -> Any:
        """Returns the SignatureDef `name`, "" for the default one; raises the real server's error otherwise."""
        key = name or DEFAULT_SIGNATURE
        if key not in self.signatures:
            raise RequestError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
        return self.signatures[key]

    def run(self, signature: str, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Returns the outputs of a signature by name; the inputs must be just the ones it takes."""
        definition = self.signature(signature)
        _check_names(definition, inputs)
        feeds, fetches, call = self._runners[signature or DEFAULT_SIGNATURE]
        try:
            found = call(*(inputs[name] for name in feeds))
        except tf.errors.OpError as error:
            raise RequestError(Code(error.error_code) if error.error_code in set(Code) else Code.INTERNAL, str(error.message)) from None
        except (TypeError, ValueError) as error:
            raise invalid(str(error)) from None
        return dict(zip(fetches, found, strict=True))

    def _runner(self, key: str) -> tuple[list[str], list[str], Callable[..., Any]]:
        definition = self.signatures[key]
        feeds, fetches = sorted(definition.inputs), sorted(definition.outputs)
        call = self._session.make_callable(
            [definition.outputs[name].name for name in fetches],
            feed_list=[definition.inputs[name].name for name in feeds],
        )
        return feeds, fetches, call


def _load(session: Any, directory: str) -> Any:
    try:
        return tf.compat.v1.saved_model.load(session, ["serve"], directory)
    except (tf.errors.NotFoundError, ValueError, KeyError) as error:
        if "Scann" not in str(error):
            raise
    import scann  # noqa: F401  registers the ops that this model was saved with

    return tf.compat.v1.saved_model.load(session, ["serve"], directory)


def _check_names(definition: Any, inputs: Arrays) -> None:
    wanted, sent = set(definition.inputs), set(inputs)
    if wanted == sent:
        return
    raise invalid(
        f"input size does not match signature: {len(sent)}!={len(wanted)} len({_braced(sent)}) != len({_braced(wanted)}). "
        f"Sent extra: {_braced(sent - wanted)}. Missing but required: {_braced(wanted - sent)}."
    )


def _braced(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def input_type(definition: Any, name: str) -> Any:
    """Returns the TensorFlow type of a signature's input."""
    return tf.dtypes.as_dtype(definition.inputs[name].dtype)


def as_array(values: Any, dtype: Any) -> npt.NDArray[Any]:
    """Returns values as the array that the session takes; strings are arrays of bytes objects."""
    return np.asarray(values, dtype=object if dtype == tf.string else dtype.as_numpy_dtype)


def warm_up(servable: Servable, directory: Path) -> int:
    """Replays the version's warm-up records and returns how many there were; raises what a record raises."""
    file = directory / WARM_UP
    if not file.exists():
        return 0
    from tensorflow_serving.apis import prediction_log_pb2

    count = 0
    for record in tf.compat.v1.io.tf_record_iterator(str(file)):
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") == "predict_log":
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            servable.run(request.model_spec.signature_name, inputs)
            count += 1
    return count
