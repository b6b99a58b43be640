"""What a version needs to load, and why one does not: the codes and words of TensorFlow's own loader (saved_model_warmup, too).

Loaded in this process, to keep the tests quick; `test_serving_start.py` has a server that comes to such a version.
"""

import struct
import tempfile
from pathlib import Path

import pytest
from serving_models import publish, write_warmup


def failure(path, **flags):
    """Why a version does not load: the code and the text. In this process, to keep the tests quick."""
    from serving.server.errors import RequestError
    from serving.server.metrics import Metrics
    from serving.server.options import ServerOptions
    from serving.server.servable import Servable

    with pytest.raises(Exception) as caught:
        Servable("half", 1, path, ServerOptions(**flags), Metrics())
    error = RequestError.of(caught.value)
    return error.code.name, error.message


NO_GRAPH = (
    "Could not find meta graph def matching supplied tags: {{ {} }}. "
    "To inspect available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
)
NO_MODEL = (
    "Could not find SavedModel .pb or .pbtxt at supplied export directory path: PATH. "
    "Check that the directory exists and that you have the right permissions for accessing it."
)


@pytest.mark.parametrize(
    ("name", "content", "code", "text"),
    [
        ("other", b"", "NOT_FOUND", NO_MODEL),
        ("saved_model.pb", b"", "NOT_FOUND", NO_GRAPH.format("serve")),
        ("saved_model.pb", b"garbage", "OUT_OF_RANGE", "Read less bytes than requested"),
        (
            "saved_model.pb",
            b"\x08\x01\x12\xe8\x07" + b"cut off" * 9,
            "OUT_OF_RANGE",
            "Read less bytes than requested",
        ),
        (
            "saved_model.pb",
            b"\x10\x7f\x80\x80\xff\xff\x10\x0c" * 4,
            "DATA_LOSS",
            "Can't parse PATH/saved_model.pb as binary proto",
        ),
        ("saved_model.pb", b"\xff" * 100, "DATA_LOSS", "Can't parse PATH/saved_model.pb as binary proto"),
        ("saved_model.pbtxt", b"garbage", "OUT_OF_RANGE", "Read less bytes than requested"),
    ],
)
def test_a_version_that_does_not_load_says_why(tmp_path, name, content, code, text):
    """ReadSavedModel and FindMetaGraphDef of TensorFlow's loader in C++."""
    (tmp_path / name).write_bytes(content)
    assert failure(tmp_path) == (code, text.replace("PATH", str(tmp_path)))


def test_tags_that_no_graph_has(half):
    assert failure(half / "1", saved_model_tags="foo,bar") == ("NOT_FOUND", NO_GRAPH.format("foo bar"))


def test_variables_that_are_damaged(tmp_path):
    """The text is that of the graph's own error, as the loader in C++ has it."""
    import tensorflow as tf

    module = tf.Module()
    module.weight = tf.Variable([1.0])
    module.scale = tf.function(lambda x: {"y": x * module.weight}, [tf.TensorSpec([None], name="x")])
    tf.saved_model.save(module, str(tmp_path), signatures=module.scale)
    (tmp_path / "variables" / "variables.index").write_bytes(b"garbage " * 100)
    code, text = failure(tmp_path)
    assert (code, text.startswith("not an sstable (bad magic number)")) == ("DATA_LOSS", True)


def records(*logs):
    """The content of a TFRecord file."""
    import tensorflow as tf

    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for log in logs:
                writer.write(log)
        return Path(file.name).read_bytes()


NO_RECORD = struct.pack("<Q", 3) + b"\0\0\0\0" + b"abc" + b"\0\0\0\0"


def test_warmup_records_are_replayed_as_often_as_is_asked_for(half, tmp_path):
    from serving.server.metrics import Metrics
    from serving.server.options import ServerOptions
    from serving.server.servable import Servable

    publish(half / "1", tmp_path, 1)
    write_warmup(tmp_path / "1", [[1.0], [2.0, 3.0]])
    metrics = Metrics()
    Servable("half", 1, tmp_path / "1", ServerOptions(num_request_iterations_for_warmup=3), metrics)
    assert ":tensorflow:core:graph_runs{} 6\n" in metrics.page()


@pytest.mark.parametrize("number", [2, 3, 4])
def test_warmup_records_of_other_calls_are_passed_over(half, tmp_path, caplog, number):
    """A model that TensorFlow Serving warms up by classify, regress or multi_inference (log_type 2 to 4) loads here too."""
    from serving.server.metrics import Metrics
    from serving.server.options import ServerOptions
    from serving.server.servable import Servable

    publish(half / "1", tmp_path, 1)
    file = tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    file.write_bytes(records(bytes([number << 3 | 2, 0])))
    assert Servable("half", 1, tmp_path / "1", ServerOptions(), Metrics()).signatures
    assert f"{file}: record 1 is no predict request" in caplog.text


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (
            lambda: NO_RECORD,
            "DATA_LOSS",
            "corrupted record at 0 (Is this even a TFRecord file?). Please verify your warmup data is in TFRecord format.",
        ),
        (lambda: records(b"\xff?"), "INVALID_ARGUMENT", "Failed to parse warmup record: \ufffd? from {}"),
        (lambda: records(b"\x2a\0"), "UNIMPLEMENTED", "Unsupported log_type for warmup: 5"),
        (
            lambda: records(*[b""] * 1001),
            "INVALID_ARGUMENT",
            "Number of warmup records exceeds the maximum (1000) at {}",
        ),
    ],
)
def test_a_bad_warmup_record_is_a_version_that_does_not_load(half, tmp_path, content, code, text):
    """RunSavedModelWarmup: an error in the records fails the load; a record without a log (all 1,001) is none."""
    publish(half / "1", tmp_path, 1)
    file = tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    file.write_bytes(content())
    assert failure(tmp_path / "1") == (code, text.format(file))
