"""The two clients: the same verbs, blocking and awaited."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from serving.client import verbs
from serving.client.base import Client
from serving.client.calls import Call, Outputs

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    verb: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[Recommender, P], T]":
    """The verb as a plain method: nothing in it suspends, so that one step brings it to its end."""

    @functools.wraps(verb)
    def call(self: "Recommender", /, *args: P.args, **kwargs: P.kwargs) -> T:
        coroutine = verb(self, *args, **kwargs)
        try:
            coroutine.send(None)
        except StopIteration as finished:
            result: T = finished.value
            return result
        raise AssertionError("a blocking transport suspended")

    return call


class Recommender(Client):
    """The blocking client; threads may share one. `Client` explains the arguments."""

    recommend = _blocking(verbs.recommend)
    recommend_many = _blocking(verbs.recommend_many)
    retrieve = _blocking(verbs.retrieve)
    similar_items = _blocking(verbs.similar_items)
    similar_users = _blocking(verbs.similar_users)
    explain = _blocking(verbs.explain)
    rank = _blocking(verbs.rank)
    embed = _blocking(verbs.embed)
    titles = _blocking(verbs.titles)
    history = _blocking(verbs.history)
    status = _blocking(verbs.status)
    wait_until_ready = _blocking(verbs.wait_until_ready)

    async def _send(self, call: Call, timeout: float) -> Outputs:
        """One attempt; blocks."""
        return self._opened().send(call, timeout)

    async def _sleep(self, seconds: float) -> None:
        """A pause; blocks."""
        time.sleep(seconds)

    def close(self) -> None:
        """Closes the connections; no call is made after it."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncRecommender(Client):
    """The asynchronous client: every verb is awaited, in one event loop; `Client` explains the arguments."""

    recommend = verbs.recommend
    recommend_many = verbs.recommend_many
    retrieve = verbs.retrieve
    similar_items = verbs.similar_items
    similar_users = verbs.similar_users
    explain = verbs.explain
    rank = verbs.rank
    embed = verbs.embed
    titles = verbs.titles
    history = verbs.history
    status = verbs.status
    wait_until_ready = verbs.wait_until_ready

    async def _send(self, call: Call, timeout: float) -> Outputs:
        """One attempt."""
        return await self._opened().asend(call, timeout)

    async def _sleep(self, seconds: float) -> None:
        """A pause."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Closes the connections; no call is made after it."""
        self._closed = True
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
