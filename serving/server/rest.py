"""The REST API: predict, status and metadata on TensorFlow Serving's routes, as a plain ASGI application."""

import asyncio
import json
import re
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.parse import unquote

from google.protobuf import json_format

from serving.server.config import LARGEST_VERSION
from serving.server.errors import HTTP_STATUS, Code, RequestError, bears, invalid
from serving.server.json_input import json_type, parse, read_inputs, shown
from serving.server.json_output import write_outputs
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions
from serving.server.rpc import model_status, signature_map
from serving.server.servable import DEFAULT_SIGNATURE, overdue

_NAME = "((?:[^/:%]|%[0-9A-F]{2})+)"
_VERSION = f"(?:/versions/([0-9]+)|/labels/{_NAME})?"
INFERENCE = re.compile(f"/v1/models/{_NAME}{_VERSION}:(classify|regress|predict)", re.IGNORECASE)
STATUS = re.compile(f"/v1/models(?:/{_NAME})?{_VERSION}(?:/(metadata))?", re.IGNORECASE)
LARGE = 1 << 12  # bytes of a body, or values of an answer, that would hold up the event loop
JSON, TEXT = b"application/json", b"text/plain"
CORS = [(b"access-control-allow-origin", b"*"), (b"access-control-allow-methods", b"POST, GET")]
_EVERY_FIELD = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}

LIMIT: ContextVar[asyncio.Timeout] = ContextVar("limit")  # of the request that is answered
MOST_MEMBERS = 100  # of a gzip body

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Which = tuple[str, int | None, str | None]  # model, version, label


class TooLarge(RequestError):
    """A request above the limit, which HTTP has a status of its own for."""

    def __init__(self, limit: int) -> None:
        text = f"The request is larger than {limit} bytes (--max_body_bytes)"
        super().__init__(Code.INVALID_ARGUMENT, text)


class RestApi:
    """The application. Models run in a pool of threads, or in batches; the event loop does the rest, unless it is much."""

    def __init__(
        self, manager: Manager, metrics: Metrics, options: ServerOptions, metrics_path: str | None
    ) -> None:
        self._manager, self._metrics, self._metrics_path = manager, metrics, metrics_path
        self._limit = options.max_body_bytes
        self._timeout = max(0, options.rest_api_timeout_in_ms) / 1000 or None
        key = options.api_key()
        self._key = None if key is None else key.encode()
        allowed = b"Content-Type" if key is None else b"Content-Type, Authorization"
        cors = [*CORS, (b"access-control-allow-headers", allowed)]
        self._cors = cors if options.rest_api_enable_cors_support else []
        self._pool = ThreadPoolExecutor(options.rest_api_num_threads, thread_name_prefix="rest")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        kind = JSON
        try:
            async with asyncio.timeout(self._timeout) as limit:
                LIMIT.set(limit)
                status, kind, body = await self._answer(scope, receive)
        # its own faults too are answered in the API's form
        except (Exception, asyncio.CancelledError) as fault:
            if isinstance(fault, asyncio.CancelledError):  # it ran when the time to drain was over
                fault = RequestError(Code.UNAVAILABLE, "The server is shutting down")
            late = RequestError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
            error = late if isinstance(fault, TimeoutError) else RequestError.of(fault)
            status = 413 if isinstance(error, TooLarge) else HTTP_STATUS[error.code]
            text = json.dumps({"error": error.message}, indent=4, ensure_ascii=False)
            body = text.encode("utf-8", "replace")
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if _below_v1(scope["target"]):
            headers += self._cors
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes, bytes]:
        """The status, the content type and the body."""
        target = scope["target"].decode("latin-1")
        headers = dict(scope["headers"])
        # a browser asks whether its page may ask
        if scope["method"] == "OPTIONS" and _below_v1(scope["target"]):
            return 200 if re.search(b"https?://", headers.get(b"origin", b"")) else 400, TEXT, b""
        if self._key is not None and not bears(headers.get(b"authorization", b""), self._key):
            raise RequestError(Code.UNAUTHENTICATED, "A valid API key is needed: Authorization: Bearer KEY")
        if target == self._metrics_path:
            return 200, TEXT, self._metrics.page().encode()
        if target.partition("?")[0] == self._metrics_path:
            return 400, TEXT, f"Unexpected path: {target}. Should be {self._metrics_path}".encode()
        if not _below_v1(scope["target"]):
            return 404, TEXT, b"Not Found"
        body = await self._body(receive)
        if body and b"gzip" in headers.get(b"content-encoding", b""):
            body = await self._aside(LARGE, _gunzip, body, self._limit)
        return 200, JSON, await self._counted(scope["method"], target, body)

    async def _body(self, receive: Receive) -> bytes:
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(Code.CANCELLED, "The client has gone")
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > self._limit:
                raise TooLarge(self._limit)
        return b"".join(chunks)

    async def _aside(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns; it runs in the pool where `size` says that it would hold up the event loop."""
        if size < LARGE:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _counted(self, method: str, target: str, body: bytes) -> bytes:
        """The answer to a request below /v1/, which the metrics then know of."""
        pattern = {"POST": INFERENCE, "GET": STATUS}.get(method)
        match = pattern.fullmatch(target) if pattern else None
        name, verb = (unquote(match[1] or ""), match[4] or "") if match else ("", "")
        with self._metrics.request(self._manager.known(name), verb if method == "POST" else "", "REST"):
            if match is None or (method == "POST" and verb not in ("predict", "classify", "regress")):
                raise invalid(f"Malformed request: {method} {target}")
            which = name, _version(match[2]), None if match[3] is None else unquote(match[3])
            if method == "POST":
                return await self._inference(verb, which, body)
            if not name:
                raise invalid("Missing model name in request.")
            return (self._metadata if verb == "metadata" else self._status)(*which)

    async def _inference(self, verb: str, which: Which, body: bytes) -> bytes:
        document = await self._aside(len(body), parse, body)
        if verb != "predict":
            raise await self._aside(len(body), self._unsupported, verb, which, document)
        servable = self._manager.get(*which)
        name = document.get("signature_name") or DEFAULT_SIGNATURE
        if name not in servable.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        inputs, rows = await self._aside(len(body), read_inputs, document, servable.signatures[name])
        call = servable.call(name, inputs, timeout=self._timeout)
        waiting = call.start()
        if waiting is None:
            outputs = await self._aside(LARGE, call.result)
        else:
            try:
                outputs = call.outputs(await asyncio.wrap_future(waiting))
            except asyncio.CancelledError:
                late = overdue(waiting)  # nothing is to be run for it any more
                if LIMIT.get().expired():
                    raise late from None
                raise
        size = sum(array.size for array in outputs.values())
        return await self._aside(size, write_outputs, outputs, rows)

    def _unsupported(self, verb: str, which: Which, document: dict[str, Any]) -> RequestError:
        """Why a classify or regress request gets no answer: in the real server's words where that refuses it too."""
        wrong = ""
        if "examples" not in document:
            wrong = "When method is classify, key 'examples' is expected and was not found"
        elif not isinstance(document["examples"], list):
            wrong = "Expecting 'examples' value to be an list/array"
        elif not document["examples"]:
            wrong = "'examples' value is an empty array"
        if wrong:
            return invalid(f"JSON Value: {shown(document)} {wrong}")
        for example in document["examples"]:
            if not isinstance(example, dict):
                return invalid(f"Example must be JSON object but got JSON {json_type(example)}")
        name = document.get("signature_name") or DEFAULT_SIGNATURE
        signature = self._manager.get(*which).signatures.get(name)
        if signature is None:
            return invalid(f"No signature was found with the name: {name}")
        if len(signature.inputs) != 1:
            return invalid("Expected one input Tensor.")
        if "inputs" not in signature.inputs:
            noun = {"classify": "classification", "regress": "regression"}[verb]
            return invalid(f"No {noun} inputs found in SignatureDef: {signature}")
        text = f"{verb} is not supported by the embedded server; use predict"
        return RequestError(Code.UNIMPLEMENTED, text)

    def _status(self, *which: Any) -> bytes:
        response = model_status(self._manager.status(*which))
        text: str = json_format.MessageToJson(response, indent=1, **_EVERY_FIELD)
        return f"{text}\n".encode()

    def _metadata(self, *which: Any) -> bytes:
        servable = self._manager.get(*which)
        spec = {"name": servable.name, "signature_name": "", "version": str(servable.version)}
        signatures = json_format.MessageToDict(signature_map(servable), **_EVERY_FIELD)
        document = {"model_spec": spec, "metadata": {"signature_def": signatures}}
        return f"{json.dumps(document, indent=1)}\n".encode()


def _below_v1(target: bytes) -> bool:
    return target[:4].lower() == b"/v1/"


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text.lstrip("0")) > len(str(LARGEST_VERSION)) or int(text) > LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {text} to numeric.")
    return int(text)


def _gunzip(body: bytes, limit: int) -> bytes:
    """The body that a caller has compressed; one that unpacks to more than `limit` bytes is refused unread."""
    plain, members = b"", 0
    try:
        while body and len(plain) <= limit:
            unpacker, members = zlib.decompressobj(wbits=31), members + 1
            plain += unpacker.decompress(body, limit + 1 - len(plain))
            if members > MOST_MEMBERS or (not unpacker.eof and len(plain) <= limit):
                raise zlib.error
            body = unpacker.unused_data
    except zlib.error:
        raise invalid("The body is not gzip, as its content-encoding says") from None
    if len(plain) > limit:
        raise TooLarge(limit)
    return plain
