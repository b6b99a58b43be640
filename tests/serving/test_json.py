"""The JSON form of tensors, away from the wire: what a fuzzer sends, and what is printed comes back the same."""

import json
from types import SimpleNamespace

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.server.errors import HTTP_STATUS, Code, RequestError
from serving.server.json_input import parse, read_inputs
from serving.server.json_output import write_outputs

KINDS = [
    tf.float32,
    tf.float64,
    tf.int8,
    tf.int32,
    tf.int64,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.string,
    tf.float16,
]
REFUSED = {Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED}


def signature(**kinds):
    return SimpleNamespace(
        inputs={alias: SimpleNamespace(dtype=kind.as_datatype_enum) for alias, kind in kinds.items()}
    )


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.builds(lambda text: {"b64": text}, st.text())
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abx"), inner)
)
documents = (
    st.dictionaries(st.sampled_from(["inputs", "instances", "signature_name", "other"]), values) | values
)


@given(st.binary() | documents.map(lambda document: json.dumps(document).encode()), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=400)
def test_any_bytes_are_read_or_refused(body, kind):
    for inputs in (signature(x=kind), signature(a=kind, b=tf.float32), signature()):
        try:
            arrays, _ = read_inputs(parse(body), inputs)
        except RequestError as error:
            assert error.code in REFUSED
            assert HTTP_STATUS[error.code] < 502
        else:
            assert set(arrays) <= set(inputs.inputs)


def test_bytes_without_a_name_are_the_first_input():
    """FillTensorMapFromInstancesList: an object of base64 is no list, yet names no input; Predict misses the others."""
    document = parse(b'{"instances": [{"b64": "QQ=="}]}')
    arrays, _ = read_inputs(document, signature(a=tf.string, b=tf.float32))
    assert {alias: array.tolist() for alias, array in arrays.items()} == {"a": [b"A"]}


@given(st.lists(st.floats(width=32), min_size=1, max_size=5))
@settings(deadline=None)
def test_floats_come_back_the_same(numbers):
    array = np.asarray(numbers, np.float32)
    printed = json.loads(write_outputs({"y": array}, rows=True))["predictions"]
    np.testing.assert_array_equal(np.asarray(printed, np.float32), array)


@given(st.lists(st.floats(), min_size=1, max_size=5))
@settings(deadline=None)
def test_doubles_come_back_the_same(numbers):
    array = np.asarray(numbers, np.float64)
    np.testing.assert_array_equal(json.loads(write_outputs({"y": array}, rows=False))["outputs"], array)


@given(st.lists(st.integers(0, 3), max_size=3))
@settings(deadline=None)
def test_shapes_come_back_the_same(shape):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int64).reshape(shape)
    assert json.loads(write_outputs({"y": array}, rows=False)) == {"outputs": array.tolist()}
    sent, rows = read_inputs(parse(json.dumps({"inputs": array.tolist()}).encode()), signature(x=tf.int64))
    assert not rows
    assert sent["x"].tolist() == array.tolist()


@given(st.binary())
@settings(deadline=None)
def test_bytes_come_back_the_same(content):
    printed = json.loads(write_outputs({"y_bytes": np.asarray([content], object)}, rows=True))
    arrays, _ = read_inputs(
        parse(json.dumps({"instances": printed["predictions"]}).encode()), signature(x=tf.string)
    )
    assert arrays["x"].tolist() == [content]


def test_small_integers_wrap_as_in_tensorflow():
    arrays, _ = read_inputs({"inputs": [300, -1]}, signature(x=tf.uint8))
    assert arrays["x"].tolist() == [44, 255]


def test_constants_in_every_spelling():
    """rapidjson's kParseNanAndInfFlag, outside strings only."""
    body = b'{"x": "Inf \\" -NaN", "inputs": [NaN, -NaN, Inf, -Inf, Infinity, -Infinity, 1e2]}'
    document = parse(body)
    assert document["x"] == 'Inf " -NaN'
    expected = [np.nan, np.nan, np.inf, -np.inf, np.inf, -np.inf, 100.0]
    np.testing.assert_array_equal(document["inputs"], expected)
