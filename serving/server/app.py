"""Starts the parts in the real server's order, models before ports, and stops them with every request answered."""

import asyncio
import contextlib
import gc
import ipaddress
import json
import logging
import re
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.server.batching import Batcher
from serving.server.config import read_batching, read_models, read_monitoring
from serving.server.errors import StartError
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions

if TYPE_CHECKING:
    from serving.server.rest import RestApi
    from serving.server.rpc import GrpcServer

logger = logging.getLogger("serving.server")
LARGEST_HEAD = 1 << 16  # bytes of headers that have no end yet; what is kept of one takes many times its size
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n"
    b'{"error": "The path and the headers are larger than %d bytes"}' % LARGEST_HEAD
)
# the parser would take the body for another protocol's
UPGRADE = re.compile(b"\r\nupgrade:[^\r]*", re.IGNORECASE)
HOST = re.compile(b"^https?://[^/?#]*", re.IGNORECASE)  # in an address as a proxy sends it


def serve(options: ServerOptions) -> None:
    """Serves until SIGTERM or SIGINT; raises StartError, in one line, where it cannot start."""
    _log_to_stderr()
    _allow_connections(options.max_connections)
    _warn_of_exposure(options)
    models = read_models(options) or []
    for model in models:
        model.check()
    metrics, batching, metrics_path = Metrics(), read_batching(options), read_monitoring(options)
    batcher = Batcher(batching, metrics) if batching else None
    with _reserved(options, "rest_api_port") as rest_socket, _reserved(options, "port") as grpc_socket:
        # All that can be wrong without TensorFlow is found by now; importing it takes seconds.
        from serving.server.rest import RestApi
        from serving.server.rpc import GrpcServer
        from serving.server.servable import Servable

        gc.freeze()  # TensorFlow's modules stay: looking through them again would hold up requests
        load = partial(Servable, options=options, metrics=metrics, batcher=batcher)
        manager = Manager(models, options, load, metrics)
        manager.start()
        rest = _Rest(RestApi(manager, metrics, options, metrics_path), options)
        grpc = GrpcServer(manager, metrics, options)
        grpc_socket.close()  # it only held the port while the models loaded
        loop_factory = rest.config.get_loop_factory()  # uvloop where it is installed
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            ready = {key: getattr(options, key) for key in ("host", "port", "rest_api_port")}
            ready["models"] = {model.name: manager.get(model.name).version for model in models}
            runner.run(_run(rest, rest_socket, grpc, options, json.dumps(ready)))
        manager.stop()


class _Connection(HttpToolsProtocol):
    """A REST connection that hangs up on a peer that is too slow or sends too much.

    Too slow: its headers take longer to arrive than a request may take, or it reads nothing of an answer for as long. Too much:
    more than `LARGEST_HEAD` bytes of headers without an end. The scope's `target` is the path as sent, even a lone `?` at its end.
    """

    timeout: float = 0
    deadline: asyncio.TimerHandle | None = None
    reader: asyncio.TimerHandle | None = None
    begins = True  # what comes next is a request's first line
    unfinished = 0  # bytes since the last headers or part of a body that were complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.data_received(b"")  # the time of the first headers runs from here

    def on_headers_complete(self) -> None:
        self.unfinished, self.begins = 0, False
        self.scope["target"] = HOST.sub(b"", self.url)  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.begins = True
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self.unfinished = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.reader:
            self.reader.cancel()
        self._await_reader(self.transport.get_write_buffer_size())

    def _await_reader(self, unread: int) -> None:
        """Hangs up later where the peer has read none of the `unread` bytes of its last answer by then."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left >= unread:
                self.transport.abort()
            else:
                self._await_reader(left)

        if unread:
            self.reader = self.loop.call_later(self.timeout or self.timeout_keep_alive, look)

    def data_received(self, data: bytes) -> None:
        self.unfinished += len(data)
        if self.begins and UPGRADE.search(data):  # HTTP/2, say, which some clients offer with every request
            head, end, body = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"", head) + end + body
        super().data_received(data)
        # its line came in two parts: what follows would be taken for a request
        if self.parser.should_upgrade():
            self.transport.close()
        reading = self.cycle is None or self.cycle.response_complete
        if self.unfinished > LARGEST_HEAD:
            if reading:
                self.transport.write(TOO_LARGE)
            self.transport.close()
        if reading and self.timeout and not self.deadline:
            self.deadline = self.loop.call_later(self.timeout, self.transport.close)
        elif not reading and self.deadline:
            self.deadline.cancel()
            self.deadline = None


class _Rest(uvicorn.Server):
    """The HTTP server, with signals left to `_run`, which stops both ports at once."""

    def __init__(self, api: "RestApi", options: ServerOptions) -> None:
        _Connection.timeout = max(0, options.rest_api_timeout_in_ms) / 1000
        config = uvicorn.Config(
            api,
            http=_Connection,
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing asks for the client's address
            timeout_keep_alive=60,
            timeout_graceful_shutdown=options.drain_seconds,
            limit_concurrency=options.max_connections + 1,  # uvicorn refuses from this many on
            ssl_certfile=options.tls_certificate,
            ssl_keyfile=options.tls_key,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    rest: _Rest, rest_socket: socket.socket, grpc: "GrpcServer", options: ServerOptions, ready: str
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if options.port:
        grpc.start()
        logger.info("gRPC on %s:%d", options.host, options.port)
    async with asyncio.TaskGroup() as tasks:
        if options.rest_api_port:
            rest_socket.listen(rest.config.backlog)
            tasks.create_task(rest.serve([rest_socket]))
            logger.info("REST on %s:%d", options.host, options.rest_api_port)
        if options.json:
            print(ready, flush=True)
        await stop.wait()
        logger.info("stopping: the requests that run have %d s", options.drain_seconds)
        rest.should_exit = True
        if options.port:
            tasks.create_task(asyncio.to_thread(grpc.stop))


@contextlib.contextmanager
def _reserved(options: ServerOptions, flag: str) -> Iterator[socket.socket]:
    """A socket bound to a port but not listening: nobody else takes the port, and nobody gets in too early."""
    port = getattr(options, flag)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # asyncio turns Nagle off only if told it is TCP
    with socket.socket(family, proto=socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port:
                bound.bind((options.host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(f"--{flag}={port}: cannot listen on {options.host}:{port} ({reason})") from None
        yield bound


def _allow_connections(count: int) -> None:
    """Raises the soft limit of open files as far as the connections and the models' files may need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 1024
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _warn_of_exposure(options: ServerOptions) -> None:
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(options.host).is_loopback:
            return
    if options.host != "localhost" and not (options.tls_certificate and options.api_key()):
        guards = "--tls_certificate, --tls_key and --api_key_file guard it"
        logger.warning("%s is open to others: %s", options.host, guards)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
