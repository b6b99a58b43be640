"""Model status, metadata and metrics over REST (tensorflow.org/tfx/serving/api_rest, model status and model metadata).

`SERVING_URL` points the suite at another server.
"""

import contextlib
import http.client

import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

HALF, KINDS = "/v1/models/half", "/v1/models/kinds"


def test_status_lists_versions_the_highest_first(server):
    entries = server.get(HALF).json()["model_version_status"]
    fine = {"error_code": "OK", "error_message": ""}
    assert entries == [{"version": version, "state": "AVAILABLE", "status": fine} for version in ("2", "1")]


@pytest.mark.parametrize("which", ["versions/1", "labels/stable"])
def test_status_of_one_version(server, which):
    (entry,) = server.get(f"{HALF}/{which}").json()["model_version_status"]
    assert (entry["version"], entry["state"]) == ("1", "AVAILABLE")


def test_metadata_is_written_in_small_letters(server):
    """http_rest_api_handler: the routes match in any case, but another spelling of `metadata` asks for the status."""
    assert "model_version_status" in server.get(f"{HALF}/METADATA").json()


def test_metadata_describes_the_signatures(server):
    document = server.get(f"{KINDS}/metadata").json()
    assert document["model_spec"] == {"name": "kinds", "signature_name": "", "version": "1"}
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    pair = signature["inputs"]["pair"]
    sizes = [{"size": "-1", "name": ""}, {"size": "2", "name": ""}]
    assert (pair["dtype"], pair["tensor_shape"]) == ("DT_FLOAT", {"dim": sizes, "unknown_rank": False})
    assert set(signature["outputs"]) == {"joined", "total"}


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("http://elsewhere:80/v1/models/half", 200, "AVAILABLE"),
        ("http://elsewhere/v1/models/half?", 404, "Could not find any versions of model half?"),
        ("/v1/models/half/labels/%73table", 200, "AVAILABLE"),
        ("/v1/models/%zz", 400, ""),
    ],
)
def test_an_address_is_taken_apart_first(server, target, status, text):
    """evhttp_uri_parse: a proxy sends the whole address, and an escape has two digits."""
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"), timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", target)
        response = connection.getresponse()
        assert (response.status, text in response.read().decode()) == (status, True)


def test_a_request_without_a_body_is_not_unpacked(server):
    assert server.get(HALF, headers={"content-encoding": "gzip"}).status_code == 200


@pytest.mark.parametrize(("which", "version"), [("versions/1/", "1"), ("labels/canary/", "2"), ("", "2")])
def test_metadata_of_a_version(server, which, version):
    assert server.get(f"{HALF}/{which}metadata").json()["model_spec"]["version"] == version


def test_metrics_have_the_real_names(server):
    server.post(f"{HALF}:predict", {"instances": [1.0]})
    page = server.get("/monitoring/prometheus/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    lines = page.text.splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    counts = [
        line
        for line in lines
        if line.startswith(':tensorflow:serving:request_count{model_name="half",status="OK"}')
    ]
    assert float(counts[0].split()[-1]) >= 1
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    assert any(
        line.startswith(":tensorflow:serving:request_latency_bucket{") and 'le="708235"' in line
        for line in lines
    )
    assert any(line.startswith(":tensorflow:serving:runtime_latency_count{") for line in lines)
    assert any(line.startswith(":tensorflow:core:graph_runs{") for line in lines)
    assert sum(sample(server, ":tensorflow:core:graph_run_time_usecs{")) > 0
    assert any(
        ":tensorflow:cc:saved_model:load_attempt_count{" in line and 'status="success"' in line
        for line in lines
    )


def sample(server, start):
    page = server.get("/monitoring/prometheus/metrics").text
    return [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(start)]


def test_metrics_are_listed_before_they_are_written(server):
    """prometheus_exporter: a type for every metric; model_warmup_latency is written where there are records."""
    page = server.get("/monitoring/prometheus/metrics").text
    assert "# TYPE :tensorflow:serving:batching_session:wrapped_run_count counter\n" in page
    assert "# TYPE :tensorflow:serving:model_warmup_latency histogram\n" in page
    assert not sample(server, ":tensorflow:serving:model_warmup_latency_count")


def test_only_answers_are_timed(server):
    """http_server and prediction_service_impl: RecordRequestLatency where the status is OK."""
    name = ':tensorflow:serving:request_latency_count{model_name="kinds",API="predict",entrypoint="REST"}'
    server.post(f"{KINDS}:predict", {"signature_name": "echo_bool", "inputs": True})
    before = sample(server, name)
    assert before
    assert server.post(f"{KINDS}:predict", {"inputs": "no"}).status_code == 400
    assert sample(server, name) == before


def test_of_the_grpc_calls_only_predict_is_counted(server, channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half"
    name = ':tensorflow:serving:request_count{model_name="half",status="OK"}'
    server.post(f"{HALF}:predict", {"instances": [1.0]})
    before = sample(server, name)
    model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request)
    assert sample(server, name) == before


@pytest.mark.parametrize("query", ["?", "?x=1"])
def test_the_metrics_take_no_query(server, query):
    """http_server: ProcessPrometheusRequest compares the whole address."""
    path = "/monitoring/prometheus/metrics"
    response = server.get(f"{path}{query}")
    assert (response.status_code, response.headers["content-type"]) == (400, "text/plain")
    assert response.text == f"Unexpected path: {path}{query}. Should be {path}"
