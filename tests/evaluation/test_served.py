"""A bundle or server behind raw ids: who is asked for how, and what is said where it cannot answer."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import tensorflow as tf
from conftest import lists

from trainer.data.examples import Cases
from trainer.errors import UserError
from trainer.evaluation import served
from trainer.evaluation.retrieval import evaluate_retrieval
from trainer.evaluation.served import Served
from trainer.settings import EvaluateSettings

NEEDED = ("recommend", "recommend_history", "history")


class Model:
    """Recommends the items of the hand-made world from f down to a, less the histories."""

    def __init__(self, histories=None):
        self.asked = []
        self.histories = histories or {"u1": ["a", "b"], "u2": ["a"], "u3": ["a", "b", "c"], "u4": ["a"]}

    def __call__(self, signature, inputs):
        self.asked.append((signature, inputs))
        if signature == "history":
            return {"item_id": [[*self.histories[user][::-1], ""] for user in inputs["user_id"]]}
        past = inputs.get("history") or [self.histories[user] for user in inputs["user_id"]]
        ids, scores = [], []
        for had, k in zip(past, inputs["k"], strict=True):
            rest = [item for item in "fedcba" if item not in had][:k]
            ids.append(rest + [""] * (k - len(rest)))
            scores.append([float(6 - place) for place in range(len(rest))] + [-3e38] * (k - len(rest)))
        return {"item_id": ids, "score": scores}


def test_users_are_asked_for_by_id_and_strangers_by_history(prepared):
    model = Model()
    test = prepared.test
    cases = Cases(
        np.array([1, 0, 3, 0], np.int32), test.history, test.positives, test.timestamp, test.context
    )
    rows, scores = Served(model, NEEDED).lists(prepared).top(cases, 4)
    assert [(name, inputs.get("user_id"), inputs.get("history")) for name, inputs in model.asked] == [
        ("recommend", ["u1", "u3"], None),
        ("recommend_history", None, [["a"], ["a"]]),
    ]
    assert rows.tolist() == [[6, 5, 4, 3], [6, 5, 4, 3], [6, 5, 4, 0], [6, 5, 4, 3]]
    assert scores[2].tolist() == [6, 5, 4, -np.inf]


def test_the_context_of_a_request_goes_along_where_the_model_takes_it(prepared):
    model = Model()
    Served(model, (*NEEDED, "recommend_in_context")).lists(prepared).top(prepared.test, 2)
    ((signature, inputs),) = model.asked
    assert signature == "recommend_in_context"
    assert inputs["device"] == ["phone", "desk", "phone", "phone"]
    assert inputs["exclude"] == [[""]] * 4 and inputs["k"] == [2] * 4


def test_strangers_bring_the_context_too(prepared):
    model = Model()
    test = prepared.test
    cases = Cases(
        np.array([0, 2, 3, 4], np.int32), test.history, test.positives, test.timestamp, test.context
    )
    Served(model, (*NEEDED, "recommend_in_context")).lists(prepared).top(cases, 2)
    signature, inputs = model.asked[1]
    assert (signature, inputs["user_id"], inputs["device"]) == ("recommend_with_context", [""], ["phone"])
    assert inputs["allow"] == inputs["category"] == [[""]]
    assert inputs["diversity"] == inputs["popularity"] == [0.0]


def test_a_column_named_like_a_wish_goes_by_the_name_that_it_has_beside_wishes(prepared):
    model, test = Model(), prepared.test
    context = {"popularity": np.array([0.5, 1.5, 2.5, 3.5])}
    cases = Cases(np.array([0, 2, 3, 4], np.int32), test.history, test.positives, test.timestamp, context)
    Served(model, (*NEEDED, "recommend_in_context")).lists(prepared).top(cases, 2)
    (_, known), (_, stranger) = model.asked
    assert known["popularity"] == [1.5, 2.5, 3.5]
    assert (stranger["popularity"], stranger["context_popularity"]) == ([0.0], [0.5])


def test_a_bundle_passes_over_what_it_does_not_take_as_a_server_does(prepared, tmp_path):
    """Test cases carry every column of the table, outcomes too; a signature only what a request can bring."""

    class Recommender(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32)])
        def recommend(self, user_id, k):
            return {"item_id": tf.fill([tf.size(user_id), 1], "f"), "score": tf.ones([tf.size(k), 1])}

    module, version = Recommender(), tmp_path / "models" / "recommender" / "1"
    signatures = dict.fromkeys((*NEEDED, "recommend_in_context"), module.recommend)
    tf.saved_model.save(module, str(version), signatures)
    rows, _ = served.bundle(tmp_path, "recommender").lists(prepared).top(prepared.test, 1)
    assert rows.tolist() == [[6]] * 4


def test_histories_of_different_lengths_are_padded(prepared):
    model = Model()
    test = prepared.test
    cases = Cases(np.zeros(4, np.int32), test.history, test.positives, test.timestamp)
    Served(model, NEEDED).lists(prepared).top(cases, 1)
    assert model.asked[0][1]["history"] == [["a", "b", ""], ["a", "", ""], ["a", "b", "c"], ["a", "", ""]]


def test_many_cases_go_in_several_requests(prepared, monkeypatch):
    monkeypatch.setattr(served, "ROWS", 3)
    model = Model()
    rows, _ = Served(model, NEEDED).lists(prepared).top(prepared.test, 2)
    assert [len(inputs["k"]) for _, inputs in model.asked] == [3, 1]
    assert rows.tolist() == [[6, 5]] * 4


def test_alarms_of_served_histories(prepared):
    alarms = Served(Model(), NEEDED).alarms(prepared.test, prepared, "")
    assert alarms == []
    leaky = Model({"u1": ["a", "b", "c"], "u2": ["a"], "u3": ["a", "b", "c"], "u4": ["a"]})
    (line,) = Served(leaky, NEEDED).alarms(prepared.test, prepared, "")
    assert line.startswith("leakage: the served history of 1 of 4 users holds what the test asks for")
    older = Model({"u1": ["a"], "u2": ["a"], "u3": ["a", "b", "c"], "u4": ["a"]})
    assert Served(older, NEEDED).alarms(prepared.test, prepared, "") == [
        "1 of 4 users have another history served than the test's"
    ]
    strange = Served(Model(), NEEDED, {"data_fingerprint": "x"}).alarms(prepared.test, prepared, "y")
    assert strange == ["the bundle was made from other data than this run's"]


def test_a_model_without_the_signatures_is_refused():
    with pytest.raises(UserError, match="no signature recommend_history"):
        Served(Model(), ("recommend", "history"))


@pytest.fixture
def http(request):
    """A server that answers as the test says: a list of (status, body), or a model."""
    answers, keys = request.param, []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            keys.append(self.headers.get("authorization"))
            status, text = answers(self.path, json.loads(body) if body else None)
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    request.node.keys = keys
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def small(path, body):
    if path.endswith("/metadata"):
        return 200, json.dumps({"metadata": {"signature_def": {"signature_def": dict.fromkeys(NEEDED)}}})
    outputs = Model()(body["signature_name"], body["inputs"])
    return 200, json.dumps({"outputs": outputs if len(outputs) > 1 else outputs["item_id"]})


@pytest.mark.parametrize("http", [small], indirect=True)
def test_a_server_is_measured_like_anything_else(http, prepared):
    model = served.server(http, "recommender")
    settings = EvaluateSettings(cutoffs=(1, 3), bootstrap=0)
    report = evaluate_retrieval(model.lists(prepared), prepared.test, prepared, settings)
    assert report.lists.tolist() == [[6, 5, 4], [6, 5, 4], [6, 5, 4], [6, 5, 4]]
    assert report.values["recall@3"] == pytest.approx((0 + 1 / 2 + 1 + 0) / 4)
    assert report.values["mrr@3"] == pytest.approx((0 + 1 / 3 + 1 / 2 + 0) / 4)
    assert model.alarms(prepared.test, prepared, "") == []


@pytest.mark.parametrize("http", [small], indirect=True)
def test_a_servers_key_comes_from_the_environment(http, request, monkeypatch):
    served.server(http, "recommender")
    monkeypatch.setenv("RECOMMENDER_API_KEY", "sesame")
    served.server(http, "recommender")
    assert request.node.keys == [None, "Bearer sesame"]


@pytest.mark.parametrize(
    ("http", "line"),
    [
        (lambda *_: (404, "no such model"), "answers 404: no such model"),
        (lambda *_: (200, "<html>"), "answers no JSON"),
    ],
    indirect=["http"],
)
def test_a_server_that_is_no_recommender_is_a_line(http, line):
    with pytest.raises(UserError, match=line):
        served.server(http, "recommender")


def test_a_metric_without_cases_asks_nobody(prepared):
    model = Model()
    nobody = prepared.test.take(np.arange(0))
    assert Served(model, NEEDED).alarms(nobody, prepared, "") == []
    report = evaluate_retrieval(Served(model, NEEDED).lists(prepared), nobody, prepared, EvaluateSettings())
    assert report.values == {} and not model.asked


def test_an_item_that_the_data_does_not_hold_is_said(prepared):
    def call(signature, inputs):
        return {"item_id": [["zz"]] * len(inputs["k"]), "score": [[1.0]] * len(inputs["k"])}

    with pytest.raises(UserError, match="'zz'"):
        Served(call, NEEDED).lists(prepared).top(prepared.test, 1)


def test_histories_may_be_empty(prepared):
    model = Model()
    nothing = lists([[]] * 4)
    cases = Cases(np.zeros(4, np.int32), nothing, prepared.test.positives, prepared.test.timestamp)
    Served(model, NEEDED).lists(prepared).top(cases, 1)
    assert model.asked[0][1]["history"] == [[""]] * 4
