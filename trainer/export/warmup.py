"""The warm-up file: requests that a server answers to itself before it tells that a version is ready.

https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

NAME = "tf_serving_warmup_requests"


def write(path: Path, model: str, signatures: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes one request a signature, the manifest's example, as a TFRecord file of `PredictionLog` messages."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2  # slow to import

    with tf.io.TFRecordWriter(str(path)) as file:
        for name, signature in signatures.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = name
            for key, value in signature["example"].items():
                dtype = tf.as_dtype(signature["inputs"][key]["dtype"])
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype))
            logged = prediction_log_pb2.PredictLog(request=request)
            file.write(prediction_log_pb2.PredictionLog(predict_log=logged).SerializeToString())
