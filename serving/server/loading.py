"""What of a version is read from disk: its SavedModel, and the requests that warm it up.

What cannot be read is told in TensorFlow Serving's words.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.server.errors import Code, RequestError, invalid

logger = logging.getLogger("serving.server")
MOST_WARMUP_RECORDS = 1000
# a SavedModel begins with its version and the length of a graph
GRAPH = re.compile(rb"\x08\x01\x12([\x80-\xff]{0,4}[\x00-\x7f])")
READ_AHEAD = 16  # bytes by which the parser is ahead of what it reads
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


def load(session: Any, tags: Sequence[str], path: str) -> Any:
    """Loads a SavedModel into a session and returns its MetaGraphDef; raises RequestError where it is none."""
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


def warmup_requests(file: Path) -> Iterator[Any]:
    """The PredictRequests of a file of PredictionLogs; raises RequestError for what is none."""
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
