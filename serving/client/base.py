"""What both clients share: settings, the choice of a version, retries, batches within the limit.

It is written once, as coroutines. The asynchronous client awaits them; for the blocking one `send` and
`sleep` block and never suspend, so that a coroutine runs to its end at the first step, without an event loop.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from serving.client.arms import Arms
from serving.client.calls import Call, Column, Outputs, Target, Transport
from serving.client.checks import a_count, an_api_key, at_least
from serving.client.context import Context, ContextColumns
from serving.client.errors import BadRequest, BadResponse, ClientClosed, InvalidArgument
from serving.client.policy import Policy, log

_SINGLE = {("titles", "title"), ("explain", "score")}  # outputs, beside every path, of one value a row


class Client(ABC):
    """One model on one server.

    `url` is `http://`, `https://`, `grpc://` or `grpcs://` with host and port. Without `version` or `label`
    the newest version answers; `arms` chooses a label per user instead. `timeout` (seconds) bounds a request
    with its `retries`. `max_batch` is the most rows sent at once; a server that takes fewer is obeyed.
    `hedge_after` (seconds) sends a request a second time when the first is slow, and takes the answer that
    comes first. `ca_file` replaces the system's certificates. Use it in a `with` statement, or call `close`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8501",
        model: str = "recommender",
        version: int | None = None,
        label: str | None = None,
        *,
        arms: Arms | None = None,
        timeout: float = 5.0,
        retries: int = 2,
        max_batch: int = 256,
        hedge_after: float | None = None,
        api_key: str | None = None,
        ca_file: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        if sum(choice is not None for choice in (version, label, arms)) > 1:
            raise InvalidArgument("version", "label and arms exclude each other: give one of them")
        at_least("timeout", timeout, 0.001)
        at_least("retries", retries, 0)
        an_api_key(api_key)
        self.max_batch = a_count("max_batch", max_batch)
        self._transport = transport if transport is not None else open_transport(url, api_key, ca_file)
        if hedge_after is not None:
            at_least("hedge_after", hedge_after, 0)
            from serving.client.hedging import HedgedTransport

            self._transport = HedgedTransport(self._transport, hedge_after)
        self._closed = False
        self._policy = Policy(timeout=timeout, retries=retries)
        self._target = Target(model, version, label)
        self._arms = arms
        self._context_columns: dict[Target, ContextColumns] = {}

    @abstractmethod
    async def _send(self, call: Call, timeout: float) -> Outputs:
        """One attempt at a call."""

    @abstractmethod
    async def _sleep(self, seconds: float) -> None:
        """A pause between two attempts."""

    def _opened(self) -> Transport:
        """The transport, as long as the client is not closed."""
        if self._closed:
            raise ClientClosed("the client is closed")
        return self._transport

    async def _request(self, call: Call, policy: Policy | None = None) -> Outputs:
        """The outputs of a call, with retries, before the deadline."""
        return await (policy or self._policy).request(call, self._send, self._sleep)

    async def _predict(
        self,
        signature: str,
        inputs: Mapping[str, Column],
        outputs: tuple[str, ...],
        target: Target | None = None,
        doubles: frozenset[str] = frozenset(),
    ) -> dict[str, list[Any]]:
        """All rows through a signature, in as many requests as the batch limit asks for.

        Returns the outputs named in `outputs`; lists of different lengths in an input are filled up with "". `doubles` are
        the inputs of float64.
        """
        total = len(next(iter(inputs.values())))
        columns: dict[str, list[Any]] = {name: [] for name in outputs}
        start = 0
        while start < total:
            rows = min(self.max_batch, total - start)
            part = {name: _rectangle(column[start : start + rows]) for name, column in inputs.items()}
            try:
                answer = await self._request(
                    Call(target or self._target_of(), "predict", signature, part, outputs, doubles)
                )
            except BadRequest as error:
                limit = error.batch_limit
                if not limit or limit >= rows:
                    raise
                self.max_batch = limit
                continue
            for name in outputs:
                columns[name] += _column(answer, name, rows, signature)
            start += rows
        return columns

    async def _in_context(
        self,
        signature: str,
        inputs: Mapping[str, Column],
        outputs: tuple[str, ...],
        target: Target,
        contexts: Sequence[Context] | None,
    ) -> dict[str, list[Any]]:
        """The named outputs of a signature, in the context of each row where there is one.

        What a model's context columns are, its metadata says; they are asked for again when they may have changed.
        """
        if not contexts:
            return await self._predict(signature, inputs, outputs, target)
        known = self._context_columns.get(target)
        model = known or ContextColumns(await self._request(Call(target, "metadata")))
        self._context_columns[target] = model
        try:
            chosen, columns, doubles = model.request(signature, inputs, contexts)
            return await self._predict(chosen, columns, outputs, target, doubles)
        except (BadRequest, InvalidArgument):
            self._context_columns.pop(target, None)
            if known is None:
                raise
        return await self._in_context(signature, inputs, outputs, target, contexts)

    def _target_of(self, user_id: str | None = None) -> Target:
        """The version or label that answers this user, or a call that no user makes; logs the arm."""
        if self._arms is None:
            return self._target
        if user_id is None:
            return Target(self._target.model, label=self._arms.control)
        arm = self._arms.of(user_id)
        log.info("user %s is in arm %s", user_id, arm, extra={"user_id": user_id, "arm": arm})
        return Target(self._target.model, label=arm)

    def _targets(self, users: Sequence[str] | None, count: int) -> Iterable[tuple[Target, Sequence[int]]]:
        """The places of `count` rows by the target that answers them."""
        if self._arms is None or users is None:
            return [(self._target_of(), range(count))]
        places: dict[Target, list[int]] = {}
        for place, user in enumerate(users):
            places.setdefault(self._target_of(user), []).append(place)
        return places.items()


def open_transport(url: str, api_key: str | None = None, ca_file: str | None = None) -> Transport:
    """The transport that the scheme of `url` names; no connection is made yet."""
    place = urlsplit(url)
    shown = repr(url) if "@" not in url else "one with a user name in it"
    try:
        odd = place.query or place.fragment or "@" in url or any(map(str.isspace, url))
        plain = bool(place.hostname) and place.port != 0 and not odd
    except ValueError:  # a port that is not a number up to 65535
        plain = False
    try:
        if plain and place.scheme in ("http", "https"):
            from serving.client.rest import RestTransport

            return RestTransport(url, api_key, ca_file)
        if plain and place.scheme in ("grpc", "grpcs"):
            from serving.client.rpc import GrpcTransport

            return GrpcTransport(url, api_key, ca_file)
    except OSError as error:
        raise InvalidArgument("ca_file", f"cannot be used: {ca_file}: {error}") from error
    raise InvalidArgument("url", f"must look like http://host:8501 or grpc://host:8500, got {shown}")


def _rectangle(column: Column) -> Column:
    """Lists of one width, at least 1, filled up with ""; a column of single values stays as it is."""
    if isinstance(column[0], str | int | float):
        return column
    width = max(1, *map(len, column))
    return [[*row, *[""] * (width - len(row))] for row in column]


def _column(answer: Outputs, name: str, rows: int, signature: str) -> Column:
    if name == "path" and name not in answer:
        return [""] * rows
    if name not in answer:
        raise BadResponse(f"{signature}: the answer has no output {name!r}, only {sorted(answer)}")
    if len(answer[name]) != rows:
        raise BadResponse(f"{signature}: {rows} rows were sent and {len(answer[name])} of {name!r} came back")
    single = name == "path" or (signature, name) in _SINGLE
    if any(isinstance(row, list) == single for row in answer[name]):
        raise BadResponse(f"{signature}: {name!r} is not a {'single value' if single else 'list'} per row")
    return answer[name]
