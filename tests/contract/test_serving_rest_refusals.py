"""What the REST API refuses, with which status and text, as TensorFlow Serving documents it or its server does.

Each case names the section or rule it stands for. `SERVING_URL` points the suite at another server.
"""

import gzip
import os

import httpx
import pytest
from serving_models import HALF, KINDS, echo

EMBEDDED = pytest.mark.skipif(
    "SERVING_URL" in os.environ, reason="the embedded server differs here, on purpose"
)


def error(response):
    assert response.headers["content-type"].startswith("application/json")
    document = response.json()
    assert set(document) == {"error"}
    return document["error"]


NOT_JSON = "JSON Parse error: "
ROW = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: {}"
REFUSALS = [
    pytest.param(HALF, "", 400, f"{NOT_JSON}The document is empty", id="empty body"),
    pytest.param(HALF, "{", 400, NOT_JSON, id="not JSON"),
    pytest.param(HALF, '{"instances": [1.0,]}', 400, NOT_JSON, id="a trailing comma"),
    pytest.param(HALF, b'{"instances": ["\xff"]}', 400, NOT_JSON, id="not UTF-8", marks=EMBEDDED),
    pytest.param(HALF, '{"instances": ["\\ud800"]}', 400, NOT_JSON, id="half a surrogate pair"),
    pytest.param(HALF, "[1]", 400, "Is not object", id="not an object"),
    pytest.param(HALF, "{}", 400, "Missing 'inputs' or 'instances' key", id="neither format"),
    pytest.param(
        HALF,
        {"inputs": [1], "instances": [1]},
        400,
        "expecting only one of 'inputs' or 'instances'",
        id="both formats",
    ),
    pytest.param(
        HALF, {"instances": 1}, 400, "Expecting 'instances' to be an list/array", id="instances is no list"
    ),
    pytest.param(HALF, {"instances": []}, 400, "No values in 'instances' array", id="no instances"),
    pytest.param(
        HALF,
        {"signature_name": 5, "inputs": [1]},
        400,
        "'signature_name' key must be a string value.",
        id="signature is no string",
    ),
    pytest.param(
        HALF,
        {"signature_name": "no", "inputs": [1]},
        400,
        'Serving signature name: "no" not found in signature def',
        id="unknown signature",
    ),
    pytest.param(
        "/v1/models/no",
        {"inputs": [1]},
        404,
        "Servable not found for request: Latest(no)",
        id="unknown model",
    ),
    pytest.param(
        "/v1/models/..%2F..%2Fetc",
        {"inputs": [1]},
        404,
        "Servable not found for request: Latest(../../etc)",
        id="a path for a name",
    ),
    pytest.param(
        f"{HALF}/versions/7",
        {"inputs": [1]},
        404,
        "Servable not found for request: Specific(half, 7)",
        id="unknown version",
    ),
    pytest.param(
        f"{HALF}/labels/no",
        {"inputs": [1]},
        400,
        "Unrecognized servable version label: no",
        id="unknown label",
    ),
    pytest.param(
        f"{HALF}/labels/gone",
        {"inputs": [1]},
        404,
        "Servable not found for request: Specific(half, 9)",
        id="label of no version",
    ),
    pytest.param("/v1/models/no", "{", 400, NOT_JSON, id="JSON is read before the model is looked up"),
    pytest.param(
        f"{HALF}/versions/{2**63}",
        {"inputs": [1]},
        400,
        "Failed to convert version: 9223372036854775808 to numeric.",
        id="version out of range",
    ),
    pytest.param(
        HALF,
        {"instances": [[1.0], [2.0, 3.0]]},
        400,
        ROW.format(1, "Expecting tensor size: 1 but got: 2"),
        id="rows of different sizes",
    ),
    pytest.param(
        HALF,
        {"instances": [[[1, 2]], [[1], [2]]]},
        400,
        ROW.format(1, "Expecting shape [1,2] but got: [2,1]"),
        id="rows of different shapes",
    ),
    pytest.param(
        HALF,
        {"inputs": [[1.0], [2.0, 3.0]]},
        400,
        "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        id="ragged",
    ),
    pytest.param(
        HALF,
        {"inputs": [1.0, [2.0]]},
        400,
        "Encountered list at unexpected level: 1 expected < 1",
        id="too deep",
    ),
    pytest.param(
        HALF,
        {"inputs": [[1.0], 2.0]},
        400,
        "JSON Value: 2.0 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        id="too shallow",
    ),
    pytest.param(
        HALF,
        {"inputs": ["a"]},
        400,
        'JSON Value: "a" Type: String is not of expected type: float',
        id="a string for a float",
    ),
    pytest.param(
        HALF,
        {"inputs": [None]},
        400,
        "JSON Value: null Type: Null is not of expected type: float",
        id="null for a float",
    ),
    pytest.param(
        HALF, {"inputs": [True]}, 400, "Type: True is not of expected type: float", id="a bool for a float"
    ),
    pytest.param(
        HALF,
        {"inputs": [{"a": 1}]},
        400,
        "Type: Object is not of expected type: float",
        id="an object for a float",
    ),
    pytest.param(
        KINDS,
        echo("int32", [1.0]),
        400,
        "JSON Value: 1.0 Type: Number is not of expected type: int32",
        id="a decimal for an integer",
    ),
    *(
        pytest.param(
            KINDS,
            f'{{"signature_name": "echo_int64", "inputs": [{sent}]}}',
            400,
            f"JSON Value: {repeated} Type: Number is not of expected type: int64",
            id=f"{sent} is repeated as a float has it (JsonValueToString)",
        )
        for sent, repeated in {
            "1.23456789": "1.23456788",
            "1e10": "1e+10",
            "9" * 20: "1e+20",
            "1e300": "1e+300",
            "NaN": "NaN",
        }.items()
    ),
    pytest.param(
        KINDS, echo("int32", [2**31]), 400, "is not of expected type: int32", id="out of int32's range"
    ),
    pytest.param(
        KINDS, echo("uint32", [-1]), 400, "is not of expected type: uint32", id="negative for unsigned"
    ),
    pytest.param(
        KINDS, echo("int64", [2**63]), 400, "is not of expected type: int64", id="out of int64's range"
    ),
    pytest.param(
        KINDS,
        echo("bool", [1]),
        400,
        "JSON Value: 1 Type: Number is not of expected type: bool",
        id="a number for a bool",
    ),
    pytest.param(
        KINDS,
        echo("string", [1]),
        400,
        "JSON Value: 1 Type: Number is not of expected type: string",
        id="a number for a string",
    ),
    pytest.param(
        KINDS,
        echo("string", [{"b64": 1}]),
        400,
        "not formatted correctly for base64 data",
        id="b64 is no string",
    ),
    pytest.param(
        KINDS,
        echo("string", [{"b64": "A", "c": 1}]),
        400,
        "not formatted correctly for base64 data",
        id="b64 has company",
    ),
    pytest.param(
        KINDS,
        '{"signature_name": "echo_string", "inputs": [{"b64": "QQ==", "b64": "Qg=="}]}',
        400,
        "not formatted correctly for base64 data",
        id="b64 twice (IsValBase64Object: MemberCount() == 1)",
    ),
    pytest.param(
        KINDS, echo("string", [{"b64": "a$b"}]), 400, "Unable to base64 decode", id="b64 does not decode"
    ),
    pytest.param(
        KINDS,
        echo("string", [{"b64": "QQ="}]),
        400,
        "Unable to base64 decode",
        id="b64 with half its padding (absl::Base64Unescape: none or all of it)",
    ),
    pytest.param(
        KINDS,
        echo("half", [1.0]),
        501,
        "Conversion of JSON Value: 1.0 to type: half",
        id="a type JSON cannot send",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "to_half", "inputs": [1.0]},
        400,
        "Failed to write JSON value for tensor type: half",
        id="a type JSON cannot print",
    ),
    pytest.param(
        KINDS,
        {"instances": [1.0]},
        400,
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map",
        id="rows without names",
    ),
    pytest.param(
        KINDS,
        {"inputs": [1.0]},
        400,
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map",
        id="columns without names",
    ),
    pytest.param(
        KINDS,
        {"inputs": {"text": ["a"]}},
        400,
        "Missing named input: pair in 'inputs' object.",
        id="columns: one is missing",
    ),
    pytest.param(
        KINDS,
        {"instances": [{"text": "a"}]},
        400,
        "Failed to process element: 0 of 'instances' list. JSON object: ",
        id="rows: one is missing",
    ),
    pytest.param(
        KINDS,
        {"instances": [{"text": "a", "pair": [1, 2], "no": 1}]},
        400,
        "Failed to process element: 0 key: no of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: no",
        id="rows: one too many",
    ),
    pytest.param(
        HALF,
        {"instances": [{"x": 1.0}, 2.0]},
        400,
        "Expecting object but got list at item 1 of input list",
        id="rows: objects, then a value",
    ),
    pytest.param(
        HALF,
        {"instances": [1.0, {"x": 2.0}]},
        400,
        "Expecting value/list but got object at item 1 of input list",
        id="rows: values, then an object",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "scalar_out", "instances": [1.0]},
        400,
        "Tensor name: y has no shape information ",
        id="row format of a scalar",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "uneven", "instances": [1.0]},
        400,
        "has inconsistent batch size: ",
        id="row format of uneven outputs",
    ),
    pytest.param(
        KINDS,
        {"signature_name": "refuses", "instances": [10.0]},
        400,
        "x must be below ten",
        id="the graph refuses",
    ),
    pytest.param(
        KINDS, {"inputs": {"text": ["a"], "pair": [1.0]}}, 400, "", id="a rank the graph cannot take"
    ),
]


@pytest.mark.parametrize(("model", "body", "status", "text"), REFUSALS)
def test_predict_refuses(server, model, body, status, text):
    response = server.post(f"{model}:predict", body)
    assert response.status_code == status, response.text
    assert text in error(response)


MALFORMED = [  # "JSON Parse error: <reason> at offset: <bytes>"
    ("  ", "The document is empty. at offset: 2"),
    ("\0", "The document is empty."),
    ("\ufeff", "The document is empty. at offset: 3"),
    ("\ufeff{", "Missing a name for object member. at offset: 4"),
    ("{", "Missing a name for object member. at offset: 1"),
    ("{1: 2}", "Missing a name for object member. at offset: 1"),
    ('{"inputs": 1,}', "Missing a name for object member. at offset: 13"),
    ('{"inputs" 1}', "Missing a colon after a name of object member. at offset: 10"),
    ('{"inputs": 1 "b": 2}', "Missing a comma or } after an object member. at offset: 13"),
    ('{"ü": "]" 2}', "Missing a comma or } after an object member. at offset: 11"),
    ('{"inputs": [1 2]}', "Missing a comma or ] after an array element. at offset: 14"),
    ('{"inputs": [{"b": "[{"} 2]}', "Missing a comma or ] after an array element. at offset: 24"),
    ('{"inputs": nope}', "Invalid value. at offset: 12"),  # rapidjson takes as much of `null` as there is
    ('{"inputs": [truE]}', "Invalid value. at offset: 15"),
    ('{"inputs": ?}', "Invalid value. at offset: 11"),
    ('{"inputs": [Infix]}', "Invalid value. at offset: 16"),
    ('{"inputs": [-Inf 2]}', "Missing a comma or ] after an array element. at offset: 17"),
    ('{"inputs": [1.]}', "Miss fraction part in number. at offset: 14"),
    ('{"inputs": [1.5e+]}', "Miss exponent in number. at offset: 17"),
    ('{"inputs": [1 .5]}', "Missing a comma or ] after an array element. at offset: 14"),
    ('{"inputs": "x', "Missing a closing quotation mark in string. at offset: 13"),
    ('{"inputs": "\\q"}', "Invalid escape character in string. at offset: 12"),
    ('{"inputs": "\\u12g4"}', "Incorrect hex digit after \\u escape in string. at offset: 12"),
    ('{"inputs": "\\u12', "Incorrect hex digit after \\u escape in string. at offset: 12"),
    ('{"inputs": "\\ud800"}', "The surrogate pair in string is invalid. at offset: 12"),
    ('{"inputs": "\n"}', "Invalid encoding in string. at offset: 12"),
    ('{"inputs": [1e999]}', "Number too big to be stored in double. at offset: 12"),
    ('{"inputs": [1e999],}', "Number too big to be stored in double. at offset: 12"),
    *(
        (f'{{"inputs": [{number}]}}', "Number too big to be stored in double. at offset: 12")
        for number in ("9" * 310, "-" + "9" * 310, "9" * 5000, "1" + "0" * 310 + ".5")
    ),
    ('{"inputs": [1e3e]}', "Missing a comma or ] after an array element. at offset: 15"),
    ('{"inputs": [1]} x', "The document root must not be followed by other values."),
]


@pytest.mark.parametrize(("body", "reason"), MALFORMED)
def test_malformed_json_is_told_what_is_wrong(server, body, reason):
    response = server.post(f"{HALF}:predict", body)
    assert response.status_code == 400
    assert error(response).startswith(f"{NOT_JSON}{reason}")


@EMBEDDED
@pytest.mark.parametrize(
    ("packed", "status", "text"),
    [
        (b"no gzip", 400, "not gzip"),
        (gzip.compress(b'{"instances": [1]}')[:-1], 400, "not gzip"),
        (gzip.compress(bytes(64 << 20)), 413, "(--max_body_bytes)"),
    ],
    ids=[
        "none",
        "cut off",
        "too much",
    ],  # packed bytes hold the time, and every process must find the same names
)
def test_a_compressed_body_that_is_none_or_cut_off_or_too_much(server, packed, status, text):
    response = server.post(f"{HALF}:predict", packed, headers={"content-encoding": "gzip"})
    assert response.status_code == status
    assert text in error(response)


ROUTES = [  # "Malformed request: <method> <path>" is the answer to every other route below /v1/
    ("GET", f"{HALF}:predict", 400, f"Malformed request: GET {HALF}:predict"),
    ("POST", HALF, 400, f"Malformed request: POST {HALF}"),
    ("PUT", f"{HALF}:predict", 400, "Malformed request: PUT"),
    ("DELETE", HALF, 400, "Malformed request: DELETE"),
    ("POST", f"{HALF}:explode", 400, "Malformed request: POST"),
    ("POST", f"{HALF}:PREDICT", 400, "Malformed request: POST"),
    ("POST", f"{HALF}/versions/x:predict", 400, "Malformed request: POST"),
    ("POST", f"{HALF}/versions/1/labels/stable:predict", 400, "Malformed request: POST"),
    ("POST", f"{HALF}:predict?a=b", 400, "Malformed request: POST"),
    ("POST", f"{HALF}:predict?", 400, f"Malformed request: POST {HALF}:predict?"),
    ("GET", f"{HALF}?a=b", 404, "Could not find any versions of model half?a=b"),
    ("GET", f"{HALF}/metadata?a=b", 400, "Malformed request: GET"),
    ("GET", f"{HALF}/", 400, "Malformed request: GET"),
    ("GET", "/v1/half", 400, "Malformed request: GET"),
    ("GET", "/v1/models", 400, "Missing model name in request."),
    ("GET", "/v1/models/no", 404, "Could not find any versions of model no"),
    ("GET", "/v1/models/no/labels/stable", 404, "Could not find any versions of model no"),
    ("GET", f"{HALF}/versions/7", 404, "Could not find version 7 of model half"),
    ("GET", f"{HALF}/labels/no", 400, "Unrecognized servable version label: no"),
    ("GET", "/v1/models/no/metadata", 404, "Servable not found for request: Latest(no)"),
    ("GET", f"{HALF}/versions/7/metadata", 404, "Servable not found for request: Specific(half, 7)"),
]


@pytest.mark.parametrize(("method", "path", "status", "text"), ROUTES)
def test_routes_refuse(server, method, path, status, text):
    response = httpx.request(method, f"{server.rest}{path}", content=b'{"instances": [1]}', trust_env=False)
    assert response.status_code == status
    assert text in error(response)


@pytest.mark.parametrize(("headers", "status"), [({}, 400), ({"origin": "https://shop.example"}, 200)])
def test_options_are_for_browsers(server, headers, status):
    """http_server.cc: OPTIONS reaches no model; it is granted to whoever names the site that asks."""
    response = httpx.options(f"{server.rest}{HALF}:predict", headers=headers, trust_env=False)
    assert (response.status_code, response.content) == (status, b"")


def test_outside_of_v1_there_is_nothing(server):
    assert [server.get(path).status_code for path in ("/", "/v2/models/half")] == [404, 404]


EXAMPLES = {"examples": [{"x": 1.0}]}
CLASSIFY = [  # api_rest, "Classify and Regress API": what a model without such a signature answers
    (HALF, "{", 400, "JSON Parse error"),
    (HALF, {}, 400, "key 'examples' is expected and was not found"),
    (HALF, {"examples": []}, 400, "'examples' value is an empty array"),
    (HALF, {"examples": {}}, 400, "Expecting 'examples' value to be an list/array"),
    ("/v1/models/no", EXAMPLES, 404, "Servable not found for request: Latest(no)"),
    (f"{HALF}/labels/no", EXAMPLES, 400, "Unrecognized servable version label: no"),
    (HALF, {"signature_name": "no", **EXAMPLES}, 400, "No signature was found with the name: no"),
    (HALF, {"examples": [{}, 1]}, 400, "Example must be JSON object but got JSON Number"),
    (KINDS, EXAMPLES, 400, "Expected one input Tensor."),
    (HALF, EXAMPLES, 400, "inputs found in SignatureDef: "),
]


@pytest.mark.parametrize("verb", ["classify", "regress"])
@pytest.mark.parametrize(("model", "body", "status", "text"), CLASSIFY)
def test_classify_and_regress_are_refused(server, verb, model, body, status, text):
    response = server.post(f"{model}:{verb}", body)
    assert response.status_code == status
    assert text in error(response)
