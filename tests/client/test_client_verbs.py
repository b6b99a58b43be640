"""What each verb sends and reads, against the fake transport, for both clients."""

import asyncio
from typing import Any

import pytest

from serving.client import (
    Arms,
    AsyncRecommender,
    BadRequest,
    BadResponse,
    DeadlineExceeded,
    FakeTransport,
    InvalidArgument,
    NotFound,
    Outputs,
    Recommender,
    RecommenderError,
    Unauthorized,
)
from serving.client.calls import Call, Inputs, Target

ONE: Outputs = {"item_id": [["7", "9"]], "score": [[0.9, 0.5]]}


def ask(
    kind: str, transport: FakeTransport, verb: str, *args: Any, label: str | None = None, **kwargs: Any
) -> Any:
    if kind == "blocking":
        return getattr(Recommender(transport=transport, label=label), verb)(*args, **kwargs)
    return asyncio.run(getattr(AsyncRecommender(transport=transport, label=label), verb)(*args, **kwargs))


@pytest.fixture(params=["blocking", "awaited"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_recommend_sends_one_row_and_returns_named_tuples(kind: str) -> None:
    fake = FakeTransport({"recommend": ONE})
    found = ask(kind, fake, "recommend", "42", 2, exclude=["1"])
    assert found == [("7", 0.9), ("9", 0.5)]
    assert found[0].item_id == "7" and found[0].score == 0.9
    inputs: Inputs = {"k": [2], "exclude": [["1"]], "user_id": ["42"]}
    assert fake.calls == [
        Call(Target("recommender"), "predict", "recommend", inputs, ("item_id", "score", "path"))
    ]


def test_each_list_says_what_it_rests_on(kind: str) -> None:
    told = {**ONE, "path": ["history"]}
    fake = FakeTransport({"recommend": [ONE, told], "recommend_with": told, "retrieve": told})
    assert ask(kind, fake, "recommend", "42").path == ""
    (found,) = ask(kind, fake, "recommend_many", ["42"])
    assert found == [("7", 0.9), ("9", 0.5)] and found.path == "history"
    assert ask(kind, fake, "recommend", "42", diversity=0.5).path == "history"
    assert ask(kind, fake, "retrieve", "42").path == "history"


def test_a_key_with_its_newline_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Recommender(api_key="secret\n")
    assert "secret" not in str(caught.value)


def test_an_empty_exclude_list_is_sent_as_one_empty_place(kind: str) -> None:
    fake = FakeTransport({"recommend": ONE})
    ask(kind, fake, "recommend", "42")
    assert fake.calls[0].inputs == {"k": [10], "exclude": [[""]], "user_id": ["42"]}


def test_a_history_needs_no_user(kind: str) -> None:
    fake = FakeTransport({"recommend_history": ONE})
    ask(kind, fake, "recommend", history=["1", "2"])
    ask(kind, fake, "recommend", history=[])
    assert [call.inputs for call in fake.calls] == [
        {"k": [10], "exclude": [[""]], "history": [["1", "2"]]},
        {"k": [10], "exclude": [[""]], "history": [[""]]},
    ]


def test_a_user_counts_beside_a_history(kind: str) -> None:
    fake = FakeTransport({"recommend_with": echo})
    assert ask(kind, fake, "recommend", "a", history=["1", "2"]) == [("a", 1.0)]
    assert ask(kind, fake, "recommend_many", ["a", "b"], history=[["1", "2"], []]) == [
        [("a", 1.0)],
        [("b", 1.0)],
    ]
    asked = fake.calls[1].inputs
    assert {name: asked[name] for name in ("user_id", "history")} == {
        "user_id": ["a", "b"],
        "history": [["1", "2"], ["", ""]],
    }
    assert (asked["allow"], asked["category"]) == ([[""], [""]], [[""], [""]])
    assert (asked["diversity"], asked["popularity"]) == ([0.0, 0.0], [0.0, 0.0])


def test_many_users_have_wishes(kind: str) -> None:
    fake = FakeTransport({"recommend_with": echo, "recommend": echo})
    lists = {"allow": [["1", "2"], []], "categories": [[], ["Noir"]]}
    found = ask(kind, fake, "recommend_many", ["a", "b"], 1, **lists, diversity=0.5, popularity=-1)
    assert found == [[("a", 1.0)], [("b", 1.0)]]
    assert fake.calls[0].signature == "recommend_with"
    assert fake.calls[0].inputs == {
        "user_id": ["a", "b"],
        "history": [[""], [""]],
        "k": [1, 1],
        "exclude": [[""], [""]],
        "allow": [["1", "2"], ["", ""]],
        "category": [[""], ["Noir"]],
        "diversity": [0.5, 0.5],
        "popularity": [-1.0, -1.0],
    }
    ask(kind, fake, "recommend_many", ["a", "b"], allow=[[], []], categories=[[], []])
    assert fake.calls[1].signature == "recommend"


def test_wishes_need_no_user(kind: str) -> None:
    fake = FakeTransport({"recommend_with": echo})
    ask(kind, fake, "recommend_many", history=[["1"], ["2"]], categories=[["Noir"], ["Noir"]])
    assert fake.calls[0].inputs["user_id"] == ["", ""] and fake.calls[0].inputs["history"] == [["1"], ["2"]]


def test_empty_places_of_an_answer_are_dropped(kind: str) -> None:
    padded: Outputs = {"item_id": [["7", "", ""]], "score": [[0.9, -3.4028235e38, -3.4028235e38]]}
    assert ask(kind, FakeTransport({"recommend": padded}), "recommend", "42", 3) == [("7", 0.9)]


def test_rank_sorts_and_keeps_the_order_of_ties(kind: str) -> None:
    fake = FakeTransport({"rank": {"score": [[0.1, 0.7, 0.1]]}})
    assert ask(kind, fake, "rank", "42", ["a", "b", "c"]) == [("b", 0.7), ("a", 0.1), ("c", 0.1)]
    assert fake.calls[0].inputs == {"user_id": ["42"], "item_id": [["a", "b", "c"]]}


def test_nothing_is_asked_when_there_is_nothing_to_ask(kind: str) -> None:
    fake = FakeTransport({})
    assert ask(kind, fake, "rank", "42", []) == []
    assert ask(kind, fake, "titles", []) == []
    assert ask(kind, fake, "recommend_many", []) == []
    assert fake.calls == []


@pytest.mark.parametrize(
    ("given", "signature", "inputs"),
    [
        ({"user_id": "42"}, "embed_users", {"user_id": ["42"]}),
        ({"item_id": "7"}, "embed_items", {"item_id": ["7"]}),
        ({"history": ["1", "2"]}, "embed_histories", {"history": [["1", "2"]]}),
        ({"history": []}, "embed_histories", {"history": [[""]]}),
    ],
)
def test_embed(kind: str, given: dict[str, Any], signature: str, inputs: dict[str, Any]) -> None:
    embedding: Outputs = {"embedding": [[0.25, -1.0]]}
    fake = FakeTransport({signature: embedding})
    assert ask(kind, fake, "embed", **given) == [0.25, -1.0]
    assert fake.calls[0].inputs == inputs


def test_similar_titles_and_history(kind: str) -> None:
    fake = FakeTransport(
        {
            "similar_items": ONE,
            "titles": {"title": ["Seven", ""]},
            "history": {"item_id": [["3", "1", ""]]},
        }
    )
    assert ask(kind, fake, "similar_items", "8", 2) == [("7", 0.9), ("9", 0.5)]
    assert ask(kind, fake, "titles", ["7", "8"]) == ["Seven", ""]
    assert ask(kind, fake, "history", "42", 3) == ["3", "1"]
    assert [call.inputs for call in fake.calls] == [
        {"item_id": ["8"], "k": [2]},
        {"item_id": ["7", "8"]},
        {"user_id": ["42"], "k": [3]},
    ]


def echo(call: Call) -> dict[str, Any]:
    """Each user gets its own id back."""
    return {"item_id": [[user] for user in call.inputs["user_id"]], "score": [[1.0]] * len(call.inputs["k"])}


def test_many_users_are_split_and_stay_in_order() -> None:
    fake = FakeTransport({"recommend": echo})
    users = [f"u{n}" for n in range(7)]
    found = Recommender(transport=fake, max_batch=3).recommend_many(users)
    assert found == [[(user, 1.0)] for user in users]
    assert [len(call.inputs["k"]) for call in fake.calls] == [3, 3, 1]


def test_lists_of_a_batch_are_filled_up_to_one_width() -> None:
    fake = FakeTransport({"recommend": echo})
    Recommender(transport=fake).recommend_many(["a", "b"], exclude=[["1", "2", "3"], []])
    assert fake.calls[0].inputs["exclude"] == [["1", "2", "3"], ["", "", ""]]


def test_a_smaller_limit_of_the_server_is_learnt_once() -> None:
    def limited(call: Call) -> dict[str, Any]:
        rows = len(call.inputs["k"])
        if rows > 2:
            raise BadRequest(f"Task size {rows} is larger than maximum input batch size 2")
        return echo(call)

    fake = FakeTransport({"recommend": limited})
    client = Recommender(transport=fake)
    for _ in range(2):
        assert client.recommend_many(list("abcde")) == [[(user, 1.0)] for user in "abcde"]
    assert [len(call.inputs["k"]) for call in fake.calls] == [5, 2, 2, 1, 2, 2, 1]


def test_an_unreachable_limit_is_an_error_and_no_endless_loop() -> None:
    fake = FakeTransport({"recommend": BadRequest("larger than maximum input batch size 0")})
    with pytest.raises(BadRequest, match="batch size 0"):
        Recommender(transport=fake).recommend("a")


@pytest.mark.parametrize(
    ("verb", "args", "kwargs", "argument"),
    [
        ("recommend", (), {}, "user_id"),
        ("recommend", ("42",), {"k": 0}, "k"),
        ("recommend", ("42",), {"k": -1}, "k"),
        ("recommend", ("42",), {"k": 2**31}, "k"),
        ("recommend", ("42",), {"k": 1.5}, "k"),
        ("recommend", ("42",), {"k": True}, "k"),
        ("recommend", (42,), {}, "user_id"),
        ("recommend", ("42",), {"exclude": "123"}, "exclude"),
        ("recommend", ("42",), {"exclude": [1]}, "exclude"),
        ("recommend", (), {"history": "1"}, "history"),
        ("recommend", (), {"history": [None]}, "history"),
        ("recommend_many", ("42",), {}, "user_ids"),
        ("recommend_many", (["a", "b"],), {"exclude": [[]]}, "exclude"),
        ("recommend_many", (["a", "b"],), {"history": [[]]}, "history"),
        ("recommend_many", (["a", "b"],), {"allow": [["1"]]}, "allow"),
        ("recommend_many", (["a", "b"],), {"categories": ["Noir", "War"]}, "categories"),
        ("recommend_many", (["a", "b"],), {"popularity": float("nan")}, "popularity"),
        ("recommend", ("42",), {"popularity": 1001}, "popularity"),
        ("recommend", ("42",), {"popularity": -1000.5}, "popularity"),
        ("recommend", ("42",), {"diversity": float("inf")}, "diversity"),
        ("recommend", ("42",), {"diversity": float("nan")}, "diversity"),
        ("recommend", ("42",), {"diversity": 1.5}, "diversity"),
        ("recommend", ("42",), {"diversity": -0.1}, "diversity"),
        ("recommend", ("42",), {"diversity": "0.5"}, "diversity"),
        ("wait_until_ready", (float("nan"),), {}, "timeout"),
        ("similar_items", (7,), {}, "item_id"),
        ("similar_items", ("7", 0), {}, "k"),
        ("rank", (None, ["1"]), {}, "user_id"),
        ("rank", ("42", "1"), {}, "item_ids"),
        ("embed", (), {}, "user_id"),
        ("embed", (), {"user_id": "1", "history": []}, "user_id"),
        ("titles", ("7",), {}, "item_ids"),
        ("history", ("7", 0), {}, "k"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    kind: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], argument: str
) -> None:
    fake = FakeTransport({})
    with pytest.raises(ValueError, match=f"^{argument} ") as caught:
        ask(kind, fake, verb, *args, **kwargs)
    assert isinstance(caught.value, InvalidArgument) and isinstance(caught.value, RecommenderError)
    assert caught.value.argument == argument
    assert fake.calls == []


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"max_batch": 0}, "max_batch"),
        ({"hedge_after": -1}, "hedge_after"),
        ({"version": 1, "label": "canary"}, "version"),
        ({"label": "canary", "arms": Arms({"a": 1})}, "version"),
        ({"url": "127.0.0.1:8501"}, "url"),
        ({"url": "ftp://127.0.0.1"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://host/?x=1"}, "url"),
        ({"url": "http://me:secret@host"}, "url"),
        ({"url": "http://a host"}, "url"),
        ({"url": "https://host", "ca_file": "missing.pem"}, "ca_file"),
        ({"url": "grpcs://host", "ca_file": "missing.pem"}, "ca_file"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "clé"}, "api_key"),
        ({"url": "http://host:notaport"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{argument} "):
        Recommender(**settings)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"item_id": [["7"]]}, "no output 'score'"),
        ({"item_id": [["7"], ["8"]], "score": [[1.0], [1.0]]}, "1 rows were sent and 2"),
        ({"item_id": [["7", "8"]], "score": [[1.0]]}, "2 items and 1 scores"),
        ({"item_id": ["7"], "score": [1.0]}, "not a list per row"),
    ],
)
def test_an_answer_of_the_wrong_shape_is_a_bad_response(answer: Any, problem: str) -> None:
    with pytest.raises(BadResponse, match=problem):
        Recommender(transport=FakeTransport({"recommend": answer})).recommend("42")


def test_too_few_scores_are_a_bad_response() -> None:
    fake = FakeTransport({"rank": {"score": [[1.0]]}})
    with pytest.raises(BadResponse, match="2 items were sent and 1 scores"):
        Recommender(transport=fake).rank("42", ["a", "b"])


def test_version_and_label_reach_the_call() -> None:
    fake = FakeTransport({"recommend": ONE})
    Recommender(model="m", version=3, transport=fake).recommend("42")
    Recommender(label="canary", transport=fake).recommend("42")
    assert [call.target for call in fake.calls] == [
        Target("m", version=3),
        Target("recommender", label="canary"),
    ]


def test_status_lists_the_versions(kind: str) -> None:
    (version,) = ask(kind, FakeTransport({}), "status")
    assert version == (1, "AVAILABLE", "OK", "")


def test_waiting_ends_when_a_version_is_available(kind: str) -> None:
    loading: Outputs = {"version": [1], "state": ["LOADING"], "error_code": ["OK"], "error_message": [""]}
    ready: Outputs = {**loading, "state": ["AVAILABLE"]}
    fake = FakeTransport({"status": [NotFound("no such model"), loading, ready]})
    assert ask(kind, fake, "wait_until_ready", 10) is None
    assert len(fake.calls) == 3


def test_waiting_in_vain_tells_the_last_reason(kind: str) -> None:
    broken: Outputs = {
        "version": [1],
        "state": ["END"],
        "error_code": ["NOT_FOUND"],
        "error_message": ["no file"],
    }
    with pytest.raises(
        DeadlineExceeded, match=r"model recommender is not ready after 0\.01 s: version 1 is END no file"
    ):
        ask(kind, FakeTransport({"status": broken}), "wait_until_ready", 0.01)


def test_waiting_for_a_label_asks_for_what_only_the_labelled_version_has(kind: str) -> None:
    """get_model_status_impl.cc reads no label: a version that is not the label's may be the one that is available."""
    fake = FakeTransport(
        {"metadata": [BadRequest("Unrecognized servable version label: canary"), {"signature": []}]}
    )
    assert ask(kind, fake, "wait_until_ready", 10, label="canary") is None
    assert [call.kind for call in fake.calls] == ["status", "metadata"] * 2
    without = FakeTransport({"metadata": BadRequest("Unrecognized servable version label: canary")})
    with pytest.raises(DeadlineExceeded, match="Unrecognized servable version label: canary"):
        ask(kind, without, "wait_until_ready", 0.01, label="canary")


def test_waiting_does_not_outwait_a_wrong_key(kind: str) -> None:
    fake = FakeTransport({"status": Unauthorized("API key?")})
    with pytest.raises(Unauthorized):
        ask(kind, fake, "wait_until_ready", 60)


def test_an_unknown_signature_is_told_as_the_server_would() -> None:
    with pytest.raises(BadRequest, match="titles"):
        Recommender(transport=FakeTransport({})).titles(["1"])


def test_leaving_the_with_statement_closes(kind: str) -> None:
    fake = FakeTransport({})
    if kind == "blocking":
        with Recommender(transport=fake):
            assert not fake.closed
    else:

        async def use() -> None:
            async with AsyncRecommender(transport=fake):
                assert not fake.closed

        asyncio.run(use())
    assert fake.closed


def test_errors_of_no_known_kind_pass_through() -> None:
    def broken(call: Call) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Recommender(transport=FakeTransport({"recommend": broken})).recommend("42")
