"""The context of a request: asked of the model's metadata once, sent as its columns, refused by name where there is no such column."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from serving.client import Arms, AsyncRecommender, BadRequest, FakeTransport, InvalidArgument, Recommender
from serving.client.calls import Call, InputSpec, Outputs
from serving.client.context import each

PLAIN, WITH_WISHES = "recommend_in_context", "recommend_with_context"
DEVICE = ("device", "DT_STRING", 0)
COLUMNS = [DEVICE, ("at", "DT_DOUBLE", 0), ("place", "DT_FLOAT", 2), ("popularity", "DT_FLOAT", 0)]
OTHERS = [("user_id", "DT_STRING", 0), ("k", "DT_INT32", 0), ("exclude", "DT_STRING", -1)]
BLANK = {"user_id": ["42"], "k": [10], "exclude": [[""]]}


def metadata(columns: Sequence[tuple[str, str, int]]) -> Outputs:
    """What a model with these context columns says of itself."""
    rows = [InputSpec("recommend", *one) for one in OTHERS]
    rows += [InputSpec(PLAIN, *one) for one in (*OTHERS, *columns)] if columns else []
    return {name: [getattr(row, name) for row in rows] for name in InputSpec._fields}


def echo(call: Call) -> dict[str, Any]:
    """Every row gets its device as its item."""
    return {
        "item_id": [[device] for device in call.inputs["device"]],
        "score": [[1.0]] * len(call.inputs["k"]),
    }


def fake(*told: Outputs) -> FakeTransport:
    return FakeTransport({"metadata": list(told or [metadata(COLUMNS)]), PLAIN: echo, WITH_WISHES: echo})


@pytest.fixture(params=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest) -> Any:
    def call(transport: FakeTransport, verb: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "blocking":
            return getattr(Recommender(transport=transport), verb)(*args, **kwargs)
        return asyncio.run(getattr(AsyncRecommender(transport=transport), verb)(*args, **kwargs))

    return call


def test_a_context_goes_along_as_the_columns_of_the_model(ask: Any) -> None:
    transport = fake()
    context = {"device": "phone", "at": 1_600_000_000, "place": (1, 2.5), "popularity": 3}
    assert ask(transport, "recommend", "42", context=context) == [("phone", 1.0)]
    about, call = transport.calls
    assert (about.kind, about.signature, call.signature) == ("metadata", "", PLAIN)
    numbers = {"at": [1.6e9], "place": [[1.0, 2.5]], "popularity": [3.0]}
    assert call.inputs == BLANK | {"device": ["phone"]} | numbers
    assert all(isinstance(value, float) for value in (call.inputs["at"][0], *call.inputs["place"][0]))
    assert call.doubles == {"at"}


def test_what_is_left_out_or_none_is_missing(ask: Any) -> None:
    transport = fake()
    ask(transport, "recommend", "42", context={"at": None, "device": ["tv", "wall"]})
    inputs = transport.calls[1].inputs
    assert inputs["device"] == ["tv|wall"]
    assert all(map(math.isnan, (*inputs["at"], *inputs["place"][0], *inputs["popularity"])))
    assert len(inputs["place"][0]) == 2
    ask(transport, "recommend", "42", context={"at": "7.5"})
    assert transport.calls[-1].inputs["at"] == [7.5] and transport.calls[-1].inputs["device"] == [""]


def test_no_context_is_the_plain_request(ask: Any) -> None:
    transport = FakeTransport({"recommend": {"item_id": [["7"]], "score": [[1.0]]}})
    no_contexts: list[Any] = [None, {}]
    for nothing in no_contexts:
        ask(transport, "recommend", "42", context=nothing)
    ask(transport, "recommend_many", ["42"], context=[{}])
    assert [call.signature for call in transport.calls] == ["recommend"] * 3


def test_beside_wishes_and_histories_the_name_of_a_wish_has_a_prefix(ask: Any) -> None:
    transport = fake()
    context = {"device": "phone", "popularity": 3}
    ask(transport, "recommend", "42", allow=["1"], popularity=0.5, context=context)
    ask(transport, "recommend", history=["1", "2"], context=context)
    ask(transport, "recommend", "42", history=["1", "2"], context=context)
    first, second, third = (call for call in transport.calls if call.kind == "predict")
    assert first.signature == second.signature == WITH_WISHES
    assert (first.inputs["popularity"], first.inputs["context_popularity"]) == ([0.5], [3.0])
    assert (first.inputs["allow"], first.inputs["user_id"]) == ([["1"]], ["42"])
    assert (second.inputs["popularity"], second.inputs["context_popularity"]) == ([0.0], [3.0])
    assert (second.inputs["allow"], second.inputs["category"], second.inputs["user_id"]) == (
        [[""]],
        [[""]],
        [""],
    )
    assert (second.inputs["history"], second.inputs["diversity"]) == ([["1", "2"]], [0.0])
    assert (third.signature, third.inputs) == (WITH_WISHES, {**second.inputs, "user_id": ["42"]})


def test_many_users_share_one_context_or_have_one_each(ask: Any) -> None:
    users = ["a", "b", "c"]
    assert ask(fake(), "recommend_many", users, context={"device": "tv"}) == [[("tv", 1.0)]] * 3
    transport = fake()
    contexts = [{"device": "tv"}, {}, {"device": "phone"}]
    assert ask(transport, "recommend_many", users, context=contexts) == [[("tv", 1.0)], [], [("phone", 1.0)]]
    assert ask(transport, "recommend_many", [], context={"device": "tv"}) == []
    assert [call.kind for call in transport.calls] == ["metadata", "predict"]


def test_each_batch_and_each_arm_has_its_own_rows() -> None:
    transport, arms = fake(), Arms({"stable": 0.5, "canary": 0.5})
    users = [f"user-{n}" for n in range(9)]
    client = Recommender(transport=transport, arms=arms, max_batch=2)
    found = client.recommend_many(users, context=[{"device": user} for user in users])
    assert [row[0].item_id for row in found] == users
    about = [call.target.label for call in transport.calls if call.kind == "metadata"]
    assert sorted(map(str, about)) == ["canary", "stable"]


@pytest.mark.parametrize(
    ("columns", "context", "line"),
    [
        (
            COLUMNS,
            {"devise": "tv"},
            "context has 'devise', and the model has only at, device, place, popularity",
        ),
        ([], {"device": "tv"}, "context has 'device', and the model has no context columns"),
        (COLUMNS, {"device": 7}, "context column device must be a string, got 7"),
        (COLUMNS, {"device": [7]}, "context column device must be a string, got [7]"),
        (COLUMNS, {"at": "noon"}, "context column at must be a number, got 'noon'"),
        (COLUMNS, {"place": [1.0]}, "context column place must be 2 numbers, got [1.0]"),
        (COLUMNS, {"place": 1.0}, "context column place must be 2 numbers, got 1.0"),
    ],
)
def test_what_the_model_does_not_take_is_refused_by_name(
    ask: Any, columns: list[Any], context: dict[str, Any], line: str
) -> None:
    transport = fake(metadata(columns))
    with pytest.raises(InvalidArgument) as caught:
        ask(transport, "recommend", "42", context=context)
    assert (str(caught.value), caught.value.argument) == (line, "context")
    assert [call.kind for call in transport.calls] == ["metadata"]


@pytest.mark.parametrize("context", [[{}], [{}, {}, {}], ["device", "tv"]])
def test_contexts_that_do_not_fit_the_users_are_refused(context: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^context must be one mapping, or one per user"):
        each(context, 2)


def test_the_columns_are_asked_for_once_and_again_when_the_model_has_others() -> None:
    transport = fake(metadata([DEVICE]), metadata(COLUMNS))
    client = Recommender(transport=transport)
    for _ in range(3):
        client.recommend("42", context={"device": "tv"})
    client.recommend("42", context={"device": "tv", "at": 1})  # a new version has taken the place of the old
    assert [call.kind for call in transport.calls] == ["metadata", *["predict"] * 3, "metadata", "predict"]


def test_a_refused_request_is_sent_again_with_new_columns_and_only_once() -> None:
    def strict(call: Call) -> dict[str, Any]:
        if "at" not in call.inputs:
            raise BadRequest("input at is missing")
        return echo(call)

    transport = FakeTransport({"metadata": [metadata([DEVICE]), metadata(COLUMNS)], PLAIN: [echo, strict]})
    client = Recommender(transport=transport)
    for _ in range(2):
        assert client.recommend("42", context={"device": "tv"}) == [("tv", 1.0)]
    broken = FakeTransport({"metadata": metadata([DEVICE]), PLAIN: BadRequest("no")})
    with pytest.raises(BadRequest, match="no"):
        Recommender(transport=broken).recommend("42", context={"device": "tv"})
    assert [call.kind for call in broken.calls] == ["metadata", "predict"]
