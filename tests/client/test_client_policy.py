"""Retries and the deadline, on a clock that the test moves; hedging, on conditions."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.client import (
    AsyncRecommender,
    BadRequest,
    BadResponse,
    ConnectionFailed,
    DeadlineExceeded,
    FakeTransport,
    InvalidArgument,
    NotFound,
    Outputs,
    Recommender,
    RecommenderError,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UntrustedServer,
)
from serving.client.calls import Call, Target
from serving.client.hedging import HedgedTransport
from serving.client.policy import Policy

CALL = Call(Target("recommender"), signature="recommend")
GOOD: Outputs = {"item_id": [["7"]], "score": [[1.0]]}


class World:
    """Answers in turn, each after a number of seconds, and a clock that only this moves."""

    def __init__(self, *turns: tuple[float, RecommenderError | Outputs]) -> None:
        self.now = 100.0
        self.turns = list(turns)
        self.timeouts: list[float] = []
        self.pauses: list[float] = []

    async def send(self, call: Call, timeout: float) -> Outputs:
        self.timeouts.append(timeout)
        seconds, outcome = self.turns.pop(0)
        if seconds > timeout:
            self.now += timeout
            raise DeadlineExceeded("no answer")
        self.now += seconds
        if isinstance(outcome, RecommenderError):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def run(self, draw: float = 0.5, **settings: Any) -> Outputs:
        policy = Policy(clock=lambda: self.now, draw=lambda: draw, **settings)
        return finish(policy.request(CALL, self.send, self.sleep))


def finish(coroutine: Coroutine[Any, Any, Outputs]) -> Outputs:
    return asyncio.run(coroutine)


@pytest.mark.parametrize(
    "error", [Unavailable("busy"), ConnectionFailed("gone"), TooManyRequests("slow down")]
)
def test_what_may_pass_is_tried_again(error: RecommenderError) -> None:
    world = World((0.0, error), (0.0, error), (0.0, GOOD))
    assert world.run(retries=2) == GOOD
    assert world.pauses == [0.025, 0.05]


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("no"),
        NotFound("no"),
        Unauthorized("no"),
        ServerError("no"),
        BadResponse("no"),
        UntrustedServer("no"),
        InvalidArgument("k", "no"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(error: RecommenderError) -> None:
    world = World((0.0, error))
    with pytest.raises(type(error)) as caught:
        world.run()
    assert caught.value is error
    assert world.pauses == []


def test_the_last_error_is_told_when_no_retry_is_left() -> None:
    world = World((0.0, Unavailable("first")), (0.0, Unavailable("second")))
    with pytest.raises(Unavailable, match="second"):
        world.run(retries=1)


def test_all_attempts_share_one_deadline() -> None:
    world = World((0.6, Unavailable("busy")), (9.0, GOOD))
    with pytest.raises(DeadlineExceeded, match=r"model recommender: no answer \(timeout 1 s\)"):
        world.run(timeout=1.0)
    assert world.timeouts == pytest.approx([1.0, 0.375])
    assert world.now == pytest.approx(101.0)


def test_a_retry_that_would_begin_too_late_is_not_made() -> None:
    world = World((0.99, Unavailable("busy")))
    with pytest.raises(Unavailable, match="busy"):
        world.run(timeout=1.0)
    assert world.pauses == []


def test_the_server_may_ask_for_a_longer_pause() -> None:
    world = World((0.0, TooManyRequests("slow down", retry_after=2.0)), (0.0, GOOD))
    assert world.run() == GOOD
    assert world.pauses == [2.0]
    world = World((0.0, TooManyRequests("slow down", retry_after=9.0)))
    with pytest.raises(TooManyRequests):
        world.run(timeout=5.0)


def test_pauses_grow_are_drawn_and_have_a_ceiling() -> None:
    world = World(*[(0.0, Unavailable("busy"))] * 8, (0.0, GOOD))
    world.run(draw=1.0, retries=8, timeout=60.0)
    assert world.pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
    world = World((0.0, Unavailable("busy")), (0.0, GOOD))
    world.run(draw=0.0)
    assert world.pauses == [0.0]


def test_both_clients_retry() -> None:
    for client in (Recommender, AsyncRecommender):
        fake = FakeTransport({"recommend": [Unavailable("busy"), GOOD]})
        found: Any = client(transport=fake).recommend("42")
        assert (asyncio.run(found) if asyncio.iscoroutine(found) else found) == [("7", 1.0)]
        assert len(fake.calls) == 2 and fake.timeouts[1] < fake.timeouts[0]


class Stuck(FakeTransport):
    """The first call hangs until `released`; every other is answered."""

    def __init__(self) -> None:
        super().__init__({"recommend": GOOD})
        self.released = threading.Event()
        self.cancelled = False

    def send(self, call: Call, timeout: float) -> Outputs:
        if not self.calls:
            self.calls.append(call)
            assert self.released.wait(20)
            raise Unavailable("too late")
        return super().send(call, timeout)

    async def asend(self, call: Call, timeout: float) -> Outputs:
        if not self.calls:
            self.calls.append(call)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return super().send(call, timeout)


def test_a_slow_request_is_overtaken_by_its_hedge() -> None:
    stuck = Stuck()
    with Recommender(transport=stuck, hedge_after=0.01) as client:
        assert client.recommend("42") == [("7", 1.0)]
        stuck.released.set()
    assert len(stuck.calls) == 2


def test_an_awaited_loser_is_cancelled() -> None:
    async def use() -> Stuck:
        stuck = Stuck()
        async with AsyncRecommender(transport=stuck, hedge_after=0.01) as client:
            assert await client.recommend("42") == [("7", 1.0)]
            await asyncio.sleep(0)
        return stuck

    stuck = asyncio.run(use())
    assert stuck.cancelled and len(stuck.calls) == 2


def test_a_failed_hedge_does_not_hide_the_first_answer() -> None:
    failed = threading.Event()

    def first(call: Call) -> Outputs:
        assert failed.wait(20)
        return GOOD

    def second(call: Call) -> Outputs:
        failed.set()
        raise Unavailable("busy")

    hedged = HedgedTransport(FakeTransport({"recommend": [first, second]}), 0.01)
    assert hedged.send(CALL, 20.0) == GOOD
    hedged.close()


def test_a_fast_request_has_no_hedge_and_a_fast_failure_no_second_try() -> None:
    fake = FakeTransport({"recommend": [GOOD, Unavailable("busy")]})
    hedged = HedgedTransport(fake, 20.0)
    assert hedged.send(CALL, 20.0) == GOOD
    with pytest.raises(Unavailable):
        asyncio.run(hedged.asend(CALL, 20.0))
    assert len(fake.calls) == 2
    hedged.close()


def test_no_caller_waits_beyond_its_deadline_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight callers of a server that hangs, and two threads to ask it: the time in the queue counts."""
    monkeypatch.setattr("serving.client.hedging._THREADS", 2)
    released = threading.Event()

    class Hanging(FakeTransport):
        def send(self, call: Call, timeout: float) -> Outputs:
            self.timeouts.append(timeout)
            assert released.wait(20)
            return GOOD

    hanging = Hanging({})
    hedged = HedgedTransport(hanging, 0.01)
    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(hedged.send, CALL, 0.2) for _ in range(8)]
        for one in asked:
            with pytest.raises(DeadlineExceeded):
                one.result(10)
    released.set()
    hedged.close()
    assert len(hanging.timeouts) == 2  # no other request was sent, now that nobody waits for it


def test_a_request_that_has_waited_for_a_thread_has_less_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.client.hedging._THREADS", 1)
    fake = FakeTransport({"recommend": GOOD})
    hedged = HedgedTransport(fake, 0.01)
    blocked = threading.Event()
    hedged._threads.submit(blocked.wait, 20)
    with ThreadPoolExecutor(1) as callers:
        asked = callers.submit(hedged.send, CALL, 20.0)
        with pytest.raises(TimeoutError):
            asked.result(0.1)
        blocked.set()
        assert asked.result(10) == GOOD
    assert fake.timeouts[0] < 19.95
    hedged.close()
