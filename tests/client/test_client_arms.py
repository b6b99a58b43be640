"""A/B arms: who is in which, for ever, and that every answer is the arm's own and logged."""

import logging
from typing import Any

import pytest

from serving.client import Arms, FakeTransport, InvalidArgument, Recommender
from serving.client.calls import Call


def test_arms_split_users_as_told_and_for_ever() -> None:
    arms = Arms({"stable": 0.9, "canary": 0.1}, salt="spring")
    users = [f"user-{n}" for n in range(10_000)]
    canary = {user for user in users if arms.of(user) == "canary"}
    assert 900 < len(canary) < 1100
    assert sorted(canary)[:3] == [
        "user-1014",
        "user-1025",
        "user-1038",
    ]  # fails when a release reshuffles users
    wider = Arms({"stable": 0.5, "canary": 0.5}, salt="spring")
    assert all(wider.of(user) == "canary" for user in canary)
    redrawn = Arms({"stable": 0.9, "canary": 0.1}, salt="summer")
    assert canary != {user for user in users if redrawn.of(user) == "canary"}
    assert {Arms({"off": 0, "on": 1}).of(user) for user in users} == {"on"}


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": -1, "b": 2}, {"a": float("nan")}])
def test_shares_that_do_not_add_up_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=r"^arms "):
        Arms(shares)


def test_every_user_is_answered_by_their_arm_and_the_arm_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    arms = Arms({"stable": 0.5, "canary": 0.5})
    users = [f"user-{n}" for n in range(20)]

    def labelled(call: Call) -> dict[str, Any]:
        label = call.target.label
        return {
            "item_id": [[f"{u} {label}"] for u in call.inputs["user_id"]],
            "score": [[1.0]] * len(call.inputs["k"]),
        }

    fake = FakeTransport({"recommend": labelled, "titles": {"title": ["t"]}})
    client = Recommender(transport=fake, arms=arms)
    with caplog.at_level(logging.INFO, "serving.client"):
        found = client.recommend_many(users)
    assert [row[0].item_id for row in found] == [f"{user} {arms.of(user)}" for user in users]
    assert len(fake.calls) == 2
    logged = [(vars(record)["user_id"], vars(record)["arm"]) for record in caplog.records]
    assert logged == [(user, arms.of(user)) for user in users]
    client.titles(["1"])
    assert fake.calls[-1].target.label == "stable"
