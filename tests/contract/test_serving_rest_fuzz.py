"""The REST parser under a fuzzer. `SERVING_URL` points the suite at another server."""

import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HALF, KINDS = "/v1/models/half", "/v1/models/kinds"
BODIES = st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["inputs", "instances", "signature_name", "x", "b64", "pair"]), inner
        )
    ),
).map(lambda document: json.dumps(document).encode())
PATHS = st.sampled_from(
    [
        f"{HALF}:predict",
        f"{KINDS}:predict",
        f"{KINDS}/labels/a:predict",
        f"{HALF}:classify",
        HALF,
        f"{HALF}/metadata",
    ]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#."), max_size=30).map(
    "/v1/{}".format
)


@given(st.sampled_from(["POST", "POST", "GET", "PUT"]), PATHS, BODIES)
@settings(
    deadline=None,
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_is_sent_is_answered_in_kind(server, client, method, path, body):
    """The REST parser under a fuzzer: an answer or a refusal in the API's form, never a crash and never a 500."""
    response = client.request(method, path, content=body)
    assert response.status_code < 500 or response.status_code == 501
    assert set(response.json()) <= {
        "error",
        "predictions",
        "outputs",
        "model_version_status",
        "model_spec",
        "metadata",
    }


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.rest, timeout=20, trust_env=False) as opened:
        yield opened
