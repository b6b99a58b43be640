"""The REST API: predict, status and metadata on TensorFlow Serving's routes, as a plain ASGI application."""

import asyncio
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format

from serving.server.errors import HTTP_STATUS, Code, RequestError, invalid
from serving.server.json_input import parse, read_inputs
from serving.server.json_output import write_outputs
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions
from serving.server.servable import DEFAULT_SIGNATURE

_VERSION = "(?:/versions/([0-9]+)|/labels/([^/:]+))?"
PREDICT = re.compile(f"/v1/models/([^/:]+){_VERSION}:(classify|regress|predict)", re.IGNORECASE)
STATUS = re.compile(f"/v1/models(?:/([^/:]+))?{_VERSION}(?:/(metadata))?", re.IGNORECASE)
LARGEST_VERSION = 2**63 - 1
JSON, TEXT = b"application/json", b"text/plain"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, bytes, bytes]  # status, content type, body


class RestApi:
    """The application. The work runs in a pool of threads, so that a slow model holds up only its own requests."""

    def __init__(
        self, manager: Manager, metrics: Metrics, options: ServerOptions, metrics_path: str | None
    ) -> None:
        self._manager, self._metrics, self._metrics_path = manager, metrics, metrics_path
        self._limit, self._timeout = options.max_body_bytes, options.rest_api_timeout_in_ms / 1000 or None
        key = options.api_key()
        self._credentials = None if key is None else f"Bearer {key}".encode()
        self._pool = ThreadPoolExecutor(options.rest_api_num_threads, thread_name_prefix="rest")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        try:
            self._authorise(scope)
            async with asyncio.timeout(self._timeout):
                status, kind, body = await self._route(scope["method"], target, receive)
        except RequestError as error:
            status, kind, body = _refusal(error)
        except TimeoutError:
            status, kind, body = _refusal(
                RequestError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
            )
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _authorise(self, scope: Scope) -> None:
        if self._credentials is None:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._credentials):
            raise RequestError(Code.UNAUTHENTICATED, "A valid API key is needed: Authorization: Bearer KEY")

    async def _route(self, method: str, target: str, receive: Receive) -> Answer:
        if target == self._metrics_path:
            return 200, TEXT, self._metrics.page().encode()
        if not target.lower().startswith("/v1/"):
            return 404, TEXT, b"Not Found"
        body = await self._body(receive)
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self._answer, method, target, body
        )

    async def _body(self, receive: Receive) -> bytes:
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(Code.CANCELLED, "The client has gone")
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > self._limit:
                raise TooLarge(f"The request is larger than {self._limit} bytes (--max_body_bytes)")
        return b"".join(chunks)

    def _answer(self, method: str, target: str, body: bytes) -> Answer:
        started, code, name, verb = time.perf_counter(), Code.OK, "", ""
        try:
            predict = PREDICT.fullmatch(target) if method == "POST" else None
            status = STATUS.fullmatch(target) if method == "GET" else None
            match = predict or status
            if match is None:
                raise invalid(f"Malformed request: {method} {target}")
            name, verb = unquote(match[1] or ""), match[4] or ""
            version, label = _version(match[2]), None if match[3] is None else unquote(match[3])
            if predict:
                return 200, JSON, self._predict(method, target, verb, (name, version, label), body)
            if not name:
                raise invalid("Missing model name in request.")
            call = self._metadata if verb == "metadata" else self._status
            return 200, JSON, call(name, version, label)
        except RequestError as error:
            code = error.code
            return _refusal(error)
        except Exception as error:  # a fault of the server's own: still an answer, in the API's form
            code = Code.INTERNAL
            return _refusal(RequestError.of(error))
        finally:
            known = name if self._manager.knows(name) else ""  # callers must not grow the page at will
            took = (time.perf_counter() - started) * 1e6
            verb = verb if verb == "predict" else ""
            self._metrics.count("serving:request_count", model_name=known, status=code.name)
            self._metrics.observe(
                "serving:request_latency", took, model_name=known, API=verb, entrypoint="REST"
            )

    def _predict(
        self, method: str, target: str, verb: str, which: tuple[str, int | None, str | None], body: bytes
    ) -> bytes:
        if verb in ("classify", "regress"):
            raise RequestError(
                Code.UNIMPLEMENTED, f"{verb} is not supported by the embedded server; use predict"
            )
        if verb != "predict":
            raise invalid(f"Malformed request: {method} {target}")
        document = parse(body)
        servable = self._manager.get(*which)
        name = document.get("signature_name") or DEFAULT_SIGNATURE
        if name not in servable.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        inputs, rows = read_inputs(document, servable.signatures[name])
        return write_outputs(servable.predict(name, inputs, timeout=self._timeout), rows)

    def _status(self, name: str, version: int | None, label: str | None) -> bytes:
        entries = [
            {
                "version": str(each.number),
                "state": each.state,
                "status": {"error_code": each.code.name, "error_message": each.message},
            }
            for each in self._manager.status(name, version, label)
        ]
        return json.dumps({"model_version_status": entries}, indent=1).encode() + b"\n"

    def _metadata(self, name: str, version: int | None, label: str | None) -> bytes:
        servable = self._manager.get(name, version, label)
        signatures = {
            alias: json_format.MessageToDict(
                signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for alias, signature in sorted(servable.signatures.items())
        }
        spec = {"name": servable.name, "signature_name": "", "version": str(servable.version)}
        metadata = {"signature_def": {"signature_def": signatures}}
        return json.dumps({"model_spec": spec, "metadata": metadata}, indent=1).encode() + b"\n"


class TooLarge(RequestError):
    """A request above the limit, which HTTP has a status of its own for."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text.lstrip("0")) > len(str(LARGEST_VERSION)) or int(text) > LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {text} to numeric.")
    return int(text)


def _refusal(error: RequestError) -> Answer:
    status = 413 if isinstance(error, TooLarge) else HTTP_STATUS[error.code]
    return (
        status,
        JSON,
        json.dumps({"error": error.message}, indent=4, ensure_ascii=False).encode("utf-8", "replace"),
    )
