"""When to try again, and when to stop: one deadline over all attempts."""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serving.client.calls import Call, Outputs
from serving.client.errors import DeadlineExceeded, Unavailable

log = logging.getLogger("serving.client")


@dataclass(frozen=True)
class Policy:
    """How long a request may take in all, and how often it may be tried again.

    Every request only reads, so repeating one is always safe. Repeated is only what may go better the next
    time: broken connections, 503 and 429. The wait before retry n is uniform in `[0, backoff * 2**n]`
    seconds, at most `max_backoff`, so that the clients of a returning server do not all arrive at once.
    """

    timeout: float = 5.0
    retries: int = 2
    backoff: float = 0.05
    max_backoff: float = 1.0
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    async def request(
        self,
        call: Call,
        send: Callable[[Call, float], Awaitable[Outputs]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> Outputs:
        """The outputs of one call.

        Raises the last attempt's error once no retry is left, or none would begin before the deadline.
        """
        deadline = self.clock() + self.timeout
        remaining, tried = self.timeout, 0
        while True:
            try:
                return await send(call, remaining)
            except DeadlineExceeded as error:
                raise DeadlineExceeded(f"{call.target}: {error} (timeout {self.timeout:g} s)") from error
            except Unavailable as error:
                pause = max(error.retry_after, self.draw() * min(self.max_backoff, self.backoff * 2**tried))
                if tried >= self.retries or self.clock() + pause >= deadline:
                    raise
                tried += 1
                log.debug("retry %d of %d in %.3f s: %s", tried, self.retries, pause, error)
            await sleep(pause)
            remaining = max(deadline - self.clock(), 1e-3)
