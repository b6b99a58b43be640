"""The client over real HTTP: what it sends, what it makes of good answers, bad ones, and none."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from conftest import Handler, StubServer

from serving.client import (
    AsyncRecommender,
    BadRequest,
    BadResponse,
    ClientClosed,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Recommender,
    RecommenderError,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

Ask = Callable[..., Any]


@pytest.fixture(params=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest, server: StubServer) -> Ask:
    """Runs one verb with a client that is closed afterwards."""

    def blocking(verb: str, *args: Any, **kwargs: Any) -> Any:
        settings = kwargs.pop("settings", {})
        with Recommender(settings.pop("url", server.url), **settings) as client:
            return getattr(client, verb)(*args, **kwargs)

    async def awaited(verb: str, *args: Any, **kwargs: Any) -> Any:
        settings = kwargs.pop("settings", {})
        async with AsyncRecommender(settings.pop("url", server.url), **settings) as client:
            return await getattr(client, verb)(*args, **kwargs)

    if request.param == "blocking":
        return blocking
    return lambda *args, **kwargs: asyncio.run(awaited(*args, **kwargs))


def status(code: int, document: Any = None, **headers: str) -> Callable[[Handler], None]:
    """A fault: this status with this body."""
    return lambda handler: handler.reply(
        code, {"error": f"fault {code}"} if document is None else document, headers
    )


def drop(handler: Handler) -> None:
    handler.close_connection = True


def cut_short(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"outputs": ')
    handler.close_connection = True


def hang(handler: Handler) -> None:
    handler.server.released.wait(20)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """Bytes keep coming, each well within the timeout, the answer never ends."""
    handler.send_response(200)
    handler.send_header("content-length", "100000")
    handler.end_headers()
    while not handler.server.released.wait(0.02):
        handler.wfile.write(b" ")
    handler.close_connection = True


def drip_headers(handler: Handler) -> None:
    handler.send_response(200)
    handler.flush_headers()
    while not handler.server.released.wait(0.02):
        handler.wfile.write(b"x: %s\r\n" % (b"x" * 1000))
    handler.close_connection = True


def test_every_verb(ask: Ask) -> None:
    assert ask("recommend", "42", 2, exclude=["i0"]) == [("i1", 1.0), ("i2", pytest.approx(0.99))]
    assert ask("recommend", history=["i0", "i5"], k=1) == [("i1", 1.0)]
    assert ask("recommend", history=["i0", "i5"], k=1).path == "history"
    assert len(ask("recommend", "42", 1000)) == 20
    assert ask("recommend_many", ["1", "2"], 1) == [[("i0", 1.0)], [("i0", 1.0)]]
    assert ask("similar_items", "i0", 1) == [("i1", 1.0)]
    assert ask("rank", "42", ["i1", "i7"]) == [("i7", 7.0), ("i1", 1.0)]
    assert ask("embed", user_id="42") == [0.5, -0.25, 2.0]
    assert ask("titles", ["i3", "nothing"]) == ["Tïtle i3", ""]
    assert ask("history", "42") == ["i3", "i1"]
    assert [version.version for version in ask("status")] == [12, 7]
    assert ask("wait_until_ready") is None


def test_what_is_on_the_wire(ask: Ask, server: StubServer) -> None:
    ask("recommend", 'ü"\n', 3, exclude=["日本"], settings={"api_key": "secret", "label": "canary"})
    path, headers, body = server.requests[0]
    assert path == "/v1/models/recommender/labels/canary:predict"
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Bearer secret"
    assert body == {
        "signature_name": "recommend",
        "inputs": {"k": [3], "exclude": [["日本"]], "user_id": ['ü"\n']},
    }


def test_addresses_of_versions_names_and_prefixes(ask: Ask, server: StubServer) -> None:
    ask("status", settings={"version": 7})
    for settings in ({"model": "a/b c"}, {"url": f"{server.url}/prefix/", "model": "m"}):
        with pytest.raises(NotFound, match="Servable not found"):
            ask("status", settings=settings)
    assert [path for path, _, _ in server.requests] == [
        "/v1/models/recommender/versions/7",
        "/v1/models/a%2Fb%20c",
        "/prefix/v1/models/m",
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (405, BadRequest),
        (413, BadRequest),
        (429, TooManyRequests),
        (500, ServerError),
        (501, ServerError),
        (502, Unavailable),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (302, BadResponse),
    ],
)
def test_a_status_becomes_a_typed_error(
    ask: Ask, server: StubServer, code: int, kind: type[RecommenderError]
) -> None:
    server.faults = [status(code)]
    with pytest.raises(kind, match=f"{code}") as caught:
        ask("recommend", "42", settings={"retries": 0, "api_key": "secret"})
    assert type(caught.value) is kind
    assert "secret" not in str(caught.value)


def test_retries_and_their_end(ask: Ask, server: StubServer) -> None:
    server.faults = [status(503), drop]
    assert ask("recommend", "42", 1) == [("i0", 1.0)]
    server.faults = [status(429), cut_short]
    assert ask("recommend", "42", 1) == [("i0", 1.0)]
    server.faults = [status(503)] * 3
    with pytest.raises(Unavailable, match="fault 503"):
        ask("recommend", "42")
    assert len(server.requests) == 9


def test_retry_after_is_heeded(ask: Ask, server: StubServer) -> None:
    server.faults = [status(503, **{"retry-after": "60"})]
    with pytest.raises(Unavailable) as caught:
        ask("recommend", "42")
    assert caught.value.retry_after == 60.0
    assert len(server.requests) == 1
    server.faults = [status(503, **{"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"})]
    assert ask("recommend", "42", 1) == [("i0", 1.0)]


@pytest.mark.parametrize("fault", [hang, drip, drip_headers])
def test_the_deadline_holds(ask: Ask, server: StubServer, fault: Callable[[Handler], None]) -> None:
    server.faults = [fault]
    with pytest.raises(DeadlineExceeded, match=r"timeout 0\.1 s"):
        ask("recommend", "42", settings={"timeout": 0.1})
    assert len(server.requests) == 1


def test_nobody_there(ask: Ask, server: StubServer) -> None:
    with pytest.raises(ConnectionFailed, match=r"no connection to http://127\.0\.0\.1:1"):
        ask("recommend", "42", settings={"url": "http://127.0.0.1:1"})


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"predictions": []}',
        b'{"outputs": {"item_id": 3, "score": 4}}',
        b'{"outputs": "x"}',
        b'{"outputs": {"item_id": [["a", "b"]], "score": [[0.5, null]]}}',
    ],
)
def test_an_answer_that_is_none(ask: Ask, server: StubServer, body: bytes) -> None:
    server.faults = [status(200, body)]
    with pytest.raises(BadResponse):
        ask("recommend", "42")
    server.faults = [status(200, body)]
    with pytest.raises(BadResponse):
        ask("status")


def test_a_body_in_an_encoding_that_it_has_not_is_a_bad_response(ask: Ask, server: StubServer) -> None:
    server.faults = [status(200, b'{"outputs": []}', **{"content-encoding": "gzip"})]
    with pytest.raises(BadResponse, match="cannot be decoded"):
        ask("recommend", "42")


def test_an_error_page_of_a_proxy_is_shown_in_short(ask: Ask, server: StubServer) -> None:
    server.faults = [status(502, b"<html>Bad Gateway</html>" + b"x" * 10_000)]
    with pytest.raises(Unavailable, match="HTTP 502: <html>Bad Gateway") as caught:
        ask("recommend", "42", settings={"retries": 0})
    assert len(str(caught.value)) < 300


def test_bare_nan_and_infinity_are_read(ask: Ask, server: StubServer) -> None:
    server.faults = [status(200, b'{"outputs": {"item_id": [["a", "b"]], "score": [[Infinity, -Infinity]]}}')]
    assert ask("recommend", "42") == [("a", float("inf")), ("b", float("-inf"))]


def test_an_id_that_is_no_unicode_is_refused_before_it_is_sent(ask: Ask, server: StubServer) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ask("recommend", "a\ud800", exclude=["other"])
    assert str(caught.value) == r"recommend has an id that is not valid Unicode: 'a\ud800'"
    assert server.requests == []


def test_an_embedding_of_several_interests_is_a_list_of_lists(ask: Ask, server: StubServer) -> None:
    server.faults = [status(200, b'{"outputs": [[[0.5, 1.0], [0.1, NaN]]]}')]
    (first, second) = ask("embed", user_id="42")
    assert first == [0.5, 1.0] and second[0] == np.float32(0.1).item() and np.isnan(second[1])


def test_scores_are_the_servers_float32(ask: Ask, server: StubServer) -> None:
    """What gRPC gives for the same bytes; nothing else than floats changes."""
    score = b"[[3.17121458, 1.0, -3.4028235e38, -Infinity]]"
    server.faults = [status(200, b'{"outputs": {"item_id": [["a", "b", "c", "d"]], "score": %s}}' % score)]
    found = ask("recommend", "42")
    assert found == [
        ("a", 3.1712145805358887),
        ("b", 1.0),
        ("c", -3.4028234663852886e38),
        ("d", float("-inf")),
    ]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_closed_client_says_so(server: StubServer, scheme: str) -> None:
    url = server.url.replace("http", scheme)
    used, unused = Recommender(url, retries=0, timeout=0.5), Recommender(url)
    with suppress(RecommenderError):  # the stub speaks HTTP only
        used.titles(["i1"])
    used.close()
    unused.close()
    for client in (used, unused):
        with pytest.raises(ClientClosed, match="the client is closed"):
            client.titles(["i1"])
        with pytest.raises(ClientClosed):
            client.wait_until_ready(5)

    async def use() -> None:
        async with AsyncRecommender(url, retries=0, timeout=0.5) as client:
            with suppress(RecommenderError):
                await client.titles(["i1"])
        with pytest.raises(ClientClosed):
            await client.titles(["i1"])

    asyncio.run(use())


def test_connections_are_kept(server: StubServer) -> None:
    with Recommender(server.url) as client:
        for _ in range(10):
            client.recommend("42")
    assert len(server.peers) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_replaced(server: StubServer) -> None:
    def last_answer(handler: Handler) -> None:
        handler.reply(200, handler.model({"signature_name": "titles", "inputs": {"item_id": ["i1"]}}))
        handler.close_connection = True

    server.faults = [last_answer]
    with Recommender(server.url) as client:
        assert client.titles(["i1"]) == ["Tïtle i1"]
        assert client.titles(["i1"]) == ["Tïtle i1"]
    assert len(server.peers) == 2


def test_threads_share_a_client(server: StubServer) -> None:
    found: list[Any] = []
    with Recommender(server.url) as client:
        threads = [
            threading.Thread(target=lambda: found.append(client.recommend("42", 1))) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[("i0", 1.0)]] * 16


def test_awaited_calls_run_side_by_side(server: StubServer) -> None:
    together = threading.Barrier(8, timeout=20)

    def meet(handler: Handler) -> None:
        together.wait()
        handler.reply(200, {"outputs": ["met"]})

    async def use() -> list[list[str]]:
        async with AsyncRecommender(server.url) as client:
            return await asyncio.gather(*(client.titles(["i1"]) for _ in range(8)))

    server.faults = [meet] * 8
    assert asyncio.run(use()) == [["met"]] * 8


def test_cancelling_an_awaited_call_leaves_the_client_usable(server: StubServer) -> None:
    async def use() -> list[str]:
        async with AsyncRecommender(server.url) as client:
            task = asyncio.create_task(client.titles(["i1"]))
            while not server.requests:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.titles(["i1"])

    server.faults = [hang]
    assert asyncio.run(use()) == ["Tïtle i1"]


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with Recommender(server.url, retries=0) as client:
        assert client.titles(["i1"]) == ["Tïtle i1"]
