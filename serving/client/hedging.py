"""A second, equal request when the first is slow: it trades some load for a shorter tail."""

import asyncio
import time
from collections.abc import Iterable
from concurrent import futures
from typing import Any

from serving.client.calls import Call, Outputs, Transport
from serving.client.errors import DeadlineExceeded, RecommenderError

_THREADS = 256  # as many as connections


class HedgedTransport:
    """Sends a call again when it has not been answered after `after` seconds; the first good answer wins.

    A blocking loser cannot be called back and runs on until its timeout; an awaited one is cancelled.
    """

    def __init__(self, transport: Transport, after: float) -> None:
        self._transport = transport
        self._after = after
        self._threads = futures.ThreadPoolExecutor(_THREADS, "hedge")

    def send(self, call: Call, timeout: float) -> Outputs:
        """Blocks until one of the two has an answer, or both have failed."""
        end = time.monotonic() + timeout
        first = self._threads.submit(self._send_by, end, call)
        done, running = futures.wait({first}, min(self._after, timeout))
        again = ""
        if not done and time.monotonic() < end:
            running.add(self._threads.submit(self._send_by, end, call))
            again = ", nor to the same request sent again"
        while running and _winner(done) is None:
            left = max(end - time.monotonic(), 0)
            more, running = futures.wait(running, left, futures.FIRST_COMPLETED)
            done |= more
            if not more:
                for waiting in running:
                    waiting.cancel()
                raise DeadlineExceeded(f"no answer within {timeout:g} s{again}")
        outputs: Outputs = (_winner(done) or first).result()
        return outputs

    def _send_by(self, end: float, call: Call) -> Outputs:
        """Sends with what time is left when a thread is free."""
        left = end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("no thread was free to send the request in time")
        return self._transport.send(call, left)

    async def asend(self, call: Call, timeout: float) -> Outputs:
        """The same, awaited."""
        end = time.monotonic() + timeout
        tasks = [asyncio.ensure_future(self._transport.asend(call, timeout))]
        try:
            done, running = await asyncio.wait(tasks, timeout=self._after)
            if not done:
                left = max(end - time.monotonic(), 1e-3)
                tasks.append(asyncio.ensure_future(self._transport.asend(call, left)))
                done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            while running and _winner(done) is None:
                more, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            outputs: Outputs = (_winner(done) or done.pop()).result()
            return outputs
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """Closes the transport beneath."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._transport.close()

    async def aclose(self) -> None:
        """Closes the transport beneath."""
        await self._transport.aclose()


def _winner(done: Iterable[Any]) -> Any:
    return next((one for one in done if not isinstance(one.exception(), RecommenderError)), None)
