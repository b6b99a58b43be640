"""What the REST API answers, as TensorFlow Serving documents it (tensorflow.org/tfx/serving/api_rest) and as its server behaves.

Each case names the section or rule it stands for. `SERVING_URL` points the suite at another server.
"""

import gzip
import json
import math

import pytest
from serving_models import HALF, KINDS, echo

ANSWERS = [
    pytest.param(
        HALF, {"instances": [1.0, 2.0, 5.0]}, {"predictions": [3.5, 4.0, 5.5]}, id="row format, one input"
    ),
    pytest.param(HALF, {"instances": [{"x": 1.0}]}, {"predictions": [3.5]}, id="row format, input by name"),
    pytest.param(HALF, {"inputs": [1.0, 2.0]}, {"outputs": [3.5, 4.0]}, id="column format, one input"),
    pytest.param(HALF, {"inputs": {"x": [1.0]}}, {"outputs": [3.5]}, id="column format, input by name"),
    pytest.param(
        HALF, {"inputs": {"x": [1.0], "other": 3}}, {"outputs": [3.5]}, id="inputs: more keys are ignored"
    ),
    pytest.param(
        HALF, {"inputs": [1.0], "more": 0}, {"outputs": [3.5]}, id="unknown keys beside are ignored"
    ),
    pytest.param(
        HALF, {"signature_name": "", "inputs": [1]}, {"outputs": [3.5]}, id="empty signature is the default"
    ),
    pytest.param(HALF, {"inputs": []}, {"outputs": []}, id="column format, no rows"),
    pytest.param(
        HALF, b'\xef\xbb\xbf{"instances": [1]}', {"predictions": [3.5]}, id="a byte order mark is skipped"
    ),
    pytest.param(
        HALF, '{"instances": [1E0, -0, 2.5e-1]}', {"predictions": [3.5, 3.0, 3.125]}, id="exponents"
    ),
    pytest.param(f"{HALF}/versions/1", {"instances": [1]}, {"predictions": [2.5]}, id="URL: version"),
    pytest.param(
        f"{HALF}/versions/002", {"instances": [1]}, {"predictions": [3.5]}, id="URL: version with zeros"
    ),
    pytest.param(f"{HALF}/labels/stable", {"instances": [1]}, {"predictions": [2.5]}, id="URL: label"),
    pytest.param(
        f"{HALF}/labels/canary", {"instances": [1]}, {"predictions": [3.5]}, id="URL: another label"
    ),
    pytest.param(
        "/V1/Models/half", {"instances": [1]}, {"predictions": [3.5]}, id="URL: case does not matter"
    ),
    pytest.param(
        "/v1/models/h%61lf", {"instances": [1]}, {"predictions": [3.5]}, id="URL: names are unescaped"
    ),
    pytest.param(
        KINDS,
        {"instances": [{"text": "a", "pair": [1, 2]}, {"text": "ü", "pair": [3, 4]}]},
        {"predictions": [{"joined": "a!", "total": 3.0}, {"joined": "ü!", "total": 7.0}]},
        id="row format, several inputs and outputs",
    ),
    pytest.param(
        KINDS,
        {"inputs": {"text": ["a", "b"], "pair": [[1, 2], [3, 4]]}},
        {"outputs": {"joined": ["a!", "b!"], "total": [3.0, 7.0]}},
        id="column format, several inputs and outputs",
    ),
    pytest.param(KINDS, echo("float32", 2.5), {"outputs": 2.5}, id="column format, a scalar"),
    pytest.param(KINDS, echo("int32", [[[1], [2]]]), {"outputs": [[[1], [2]]]}, id="column format, rank 3"),
    pytest.param(
        KINDS, echo("float32", [[], []]), {"outputs": [[], []]}, id="column format, an empty dimension"
    ),
    pytest.param(
        KINDS,
        echo("int32", [[1, 2], [3, 4]], "instances"),
        {"predictions": [[1, 2], [3, 4]]},
        id="rows of lists",
    ),
    pytest.param(KINDS, echo("bool", [True, False]), {"outputs": [True, False]}, id="JSON mapping: bool"),
    pytest.param(
        KINDS,
        echo("int64", [2**53 + 1, -(2**63)]),
        {"outputs": [2**53 + 1, -(2**63)]},
        id="JSON mapping: int64",
    ),
    pytest.param(KINDS, echo("uint64", [2**64 - 1]), {"outputs": [2**64 - 1]}, id="JSON mapping: uint64"),
    pytest.param(KINDS, echo("uint32", [2**32 - 1]), {"outputs": [2**32 - 1]}, id="JSON mapping: uint32"),
    pytest.param(KINDS, echo("uint8", [255]), {"outputs": [255]}, id="JSON mapping: uint8"),
    pytest.param(
        KINDS,
        echo("string", ['a"\\\n\u0007é😀']),
        {"outputs": ['a"\\\n\u0007é😀']},
        id="JSON mapping: string",
    ),
    pytest.param(
        KINDS, echo("string", {"b64": "QXVz"}), {"outputs": "Aus"}, id="binary values: b64 as a scalar"
    ),
    pytest.param(
        KINDS,
        echo("string", [{"b64": "QXVz"}, "x"]),
        {"outputs": ["Aus", "x"]},
        id="binary values: b64 in a list",
    ),
    pytest.param(
        KINDS,
        echo("string", [{"b64": "QQ"}], "instances"),
        {"predictions": ["A"]},
        id="binary values: no padding",
    ),
    pytest.param(
        KINDS,
        echo("string", {"b64": "QU\nJD\n"}),
        {"outputs": "ABC"},
        id="binary values: in lines (absl::Base64Unescape skips white space)",
    ),
    pytest.param(
        HALF,
        '{"instances": [1.0], "instances": [2.0]}',
        {"predictions": [3.5]},
        id="of two keys of a name the first counts (rapidjson's FindMember)",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "raw", "instances": [{"b64": "/wA="}]},
        {"predictions": [{"b64": "/wA="}]},
        id="binary values: an output named *_bytes",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "raw", "instances": [{"x": {"b64": "/wA="}}]},
        {"predictions": [{"b64": "/wA="}]},
        id="binary values: b64 by name",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "to_half", "inputs": []},
        {"outputs": []},
        id="nothing of a type JSON cannot print (AddTensorValues has no value to refuse)",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "empty_out", "instances": [1.0]},
        {"predictions": []},
        id="row format of nothing (json_tensor_test, FromJsonSingleZeroBatchTensor; serving#1610)",
    ),
]


@pytest.mark.parametrize(("model", "body", "answer"), ANSWERS)
def test_predict_answers(server, model, body, answer):
    response = server.post(f"{model}:predict", body)
    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["content-type"] == "application/json"


NUMBERS = [  # JSON mapping: floats in six digits where these are exact, else in 9 (or 17); whole ones with `.0`
    ("float32", "1", "1.0"),
    ("float32", "0.2", "0.2"),
    ("float32", "0.669074059", "0.669074059"),
    ("float32", "16777215", "16777215.0"),
    ("float32", "16777217", "16777216.0"),  # "Floating Point Precision": rounded, not refused
    ("float32", "1435774380", "1.43577434e+09"),
    ("float32", "3.4028235e38", "3.40282347e+38"),
    ("float32", "-1e39", "-Infinity"),
    ("float64", "9007199254740993", "9007199254740992.0"),
    ("float32", "1000000", "1e+06"),
    ("float32", "0.00003", "3e-05"),
    ("float32", "-0.0", "-0.0"),
    ("float64", "0.1", "0.1"),
    ("float64", "0.30000000000000004", "0.30000000000000004"),
    ("float64", "3", "3.0"),
    ("float64", "1e300", "1e+300"),
    ("float32", "NaN", "NaN"),
    ("float32", "Infinity", "Infinity"),
    ("float64", "-Infinity", "-Infinity"),
    ("float32", "Inf", "Infinity"),  # rapidjson's kParseNanAndInfFlag
    ("float64", "-Inf", "-Infinity"),
    ("float32", "-NaN", "NaN"),
    ("int32", "-7", "-7"),
]


@pytest.mark.parametrize(("kind", "sent", "printed"), NUMBERS)
def test_numbers_print_as_documented(server, kind, sent, printed):
    body = f'{{"signature_name": "echo_{kind}", "instances": [{sent}]}}'
    response = server.post(f"{KINDS}:predict", body)
    assert response.text.split("[")[1].split("]")[0].strip() == printed


def test_what_is_not_finite_is_a_bare_token(server):
    response = server.post(f"{KINDS}:predict", {"signature_name": "divide", "instances": [0.0, 1.0, -1.0]})
    values = json.loads(response.text)["predictions"]  # Python reads the tokens, strict JSON has none
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


def test_a_compressed_body_is_read(server):
    """The HTTP layer unpacks `Content-Encoding: gzip`."""
    whole, parts = gzip.compress(b'{"instances": [1.0]}'), (b'{"instances": ', b"[1.0]}")
    for packed in (whole, b"".join(map(gzip.compress, parts))):
        response = server.post(f"{HALF}:predict", packed, headers={"content-encoding": "gzip"})
        assert (response.status_code, response.json()) == (200, {"predictions": [3.5]})
