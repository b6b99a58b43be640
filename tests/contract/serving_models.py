"""The models that the serving conformance suite asks: small, and between them every rule's occasion.

`python tests/contract/serving_models.py DIR` writes them with a models.config, for a server of one's own to load:
    tensorflow_model_server --port=8500 --rest_api_port=8501 --model_config_file=DIR/models.config \
        --monitoring_config_file=DIR/monitoring.config --allow_version_labels_for_unavailable_models=true
    SERVING_URL=http://127.0.0.1:8501 SERVING_GRPC=127.0.0.1:8500 pytest tests/contract -k serving
"""

import shutil
import sys
from pathlib import Path

CONFIG = """model_config_list {{
  config {{
    name: "half" base_path: "{root}/half" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
    version_labels {{ key: "gone" value: 9 }}
  }}
  config {{ name: "kinds" base_path: "{root}/kinds" model_platform: "tensorflow" }}
}}
"""
MONITORING = 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }\n'
TYPES = [
    "float32",
    "float64",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "uint32",
    "uint64",
    "bool",
    "string",
]

HALF, KINDS = "/v1/models/half", "/v1/models/kinds"  # REST paths


def echo(kind, value, form="inputs"):
    """Returns the body of a request that the model `kinds` answers with its own input."""
    return {"signature_name": f"echo_{kind}", form: value}


def write_models(root):
    """Writes the models `half` (versions 1 and 2) and `kinds`, models.config and monitoring.config."""
    write_half(root / "half" / "1", 2.0)
    write_half(root / "half" / "2", 3.0)
    write_kinds(root / "kinds" / "1")
    (root / "models.config").write_text(CONFIG.format(root=root))
    (root / "monitoring.config").write_text(MONITORING)


def write_half(path, plus):
    """Writes x / 2 + plus, over a batch of floats: the documentation's `half_plus_two`."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half(x):
        return {"y": x / 2 + plus}

    module = tf.Module()
    module.half = half
    tf.saved_model.save(module, str(path), signatures=half)


def publish(source, base_path, version):
    """Puts a copy of a version in place at once, as the export does."""
    shutil.copytree(source, base_path / f".tmp-{version}")
    (base_path / f".tmp-{version}").rename(base_path / str(version))


def write_recommender(path):
    """Writes the signature `recommend` of a bundle, with answers that tell whose they are: `<user>-0`, `<user>-1`, ..."""
    import tensorflow as tf

    spec = tf.TensorSpec

    @tf.function(
        input_signature=[
            spec([None], tf.string, "user_id"),
            spec([None], tf.int32, "k"),
            spec([None, None], tf.string, "exclude"),
        ]
    )
    def recommend(user_id, k, exclude):
        places = tf.range(tf.minimum(tf.reduce_max(k), 1000) + 0 * tf.size(exclude))
        shape = [tf.size(user_id), tf.size(places)]
        numbers = tf.broadcast_to(tf.strings.as_string(places), shape)
        users = tf.broadcast_to(user_id[:, tf.newaxis], shape)
        scores = tf.broadcast_to(1.0 / (1.0 + tf.cast(places, tf.float32)), shape)
        return {"item_id": tf.strings.join([users, numbers], "-"), "score": scores}

    module = tf.Module()
    module.recommend = recommend
    tf.saved_model.save(module, str(path), signatures={"recommend": recommend})


def write_kinds(path):
    """Writes a model with a signature for each kind of tensor and each kind of trouble."""
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec
    signatures = {}

    def signature(name, **inputs):
        def register(function):
            call = tf.function(function, input_signature=[spec(*inputs[key], key) for key in inputs])
            setattr(module, name, call)
            signatures[name] = call
            return call

        return register

    @signature("serving_default", text=([None], tf.string), pair=([None, 2], tf.float32))
    def _default(text, pair):
        return {"joined": tf.strings.join([text, "!"]), "total": tf.reduce_sum(pair, axis=1)}

    for kind in TYPES:
        signature(f"echo_{kind}", x=(None, tf.as_dtype(kind)))(lambda x: {"y": tf.identity(x)})
    signature("echo_half", x=(None, tf.float16))(lambda x: {"y": tf.identity(x)})
    signature("raw", x=([None], tf.string))(lambda x: {"image_bytes": tf.identity(x)})
    signature("to_half", x=([None], tf.float32))(lambda x: {"y": tf.cast(x, tf.float16)})
    signature("divide", x=([None], tf.float32))(lambda x: {"y": x / 0.0})
    signature("scalar_out", x=([None], tf.float32))(lambda x: {"y": tf.reduce_sum(x)})
    signature("uneven", x=([None], tf.float32))(lambda x: {"a": x, "b": tf.concat([x, x], 0)})
    signature("empty_out", x=([None], tf.float32))(lambda x: {"y": x[:0]})

    @signature("refuses", x=([None], tf.float32))
    def _refuses(x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 10.0, message="x must be below ten")]):
            return {"y": tf.identity(x)}

    @signature("slow", x=([None], tf.int32))
    def _slow(x):
        rounds = tf.while_loop(lambda i: i < x[0], lambda i: [i + 1], [tf.constant(0)])[0]
        return {"y": x + 0 * rounds}

    tf.saved_model.save(module, str(path), signatures=signatures)


def write_warmup(path, records):
    """Writes warm-up records: a TFRecord file of PredictionLog messages (saved_model_warmup)."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for values in records:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(values))
            file.write(log.SerializeToString())


if __name__ == "__main__":
    write_models(Path(sys.argv[1]).resolve())
