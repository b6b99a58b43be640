"""The REST API: predict, status and metadata, with the real server's routes, texts and status codes."""

import asyncio
import hmac
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.server.errors import HTTP_STATUS, Code, RequestError, invalid
from serving.server.manager import State
from serving.server.options import ServerOptions
from serving.server.predict import Predictor, Spec
from serving.server.servable import DEFAULT_SIGNATURE
from serving.server.tensor_json import parse, read_inputs, write_outputs

WHICH = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
PREDICT = re.compile(rf"(?i){WHICH}:(classify|regress|predict)")
STATUS = re.compile(rf"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?")
LARGEST_VERSION = 2**63 - 1
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]


class RestApi:
    """Answers requests; the work runs in `pool`, so that a slow model holds up only its own requests."""

    def __init__(self, predictor: Predictor, pool: ThreadPoolExecutor, options: ServerOptions, metrics_path: str) -> None:
        self._predictor = predictor
        self._pool = pool
        self._options = options
        self._metrics_path = metrics_path

    def app(self) -> Starlette:
        """Returns the ASGI application."""
        return Starlette(routes=[Route("/{path:path}", self._handle, methods=METHODS)])

    async def _handle(self, request: Request) -> Response:
        target = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1")
        if request.url.query:
            target += f"?{request.url.query}"
        try:
            self._authorise(request)
            if target == self._metrics_path and request.method == "GET":
                return Response(self._predictor.metrics.text(), media_type="text/plain; version=0.0.4")
            if not target.lower().startswith("/v1/"):
                return Response("Not Found", 404)
            body = await asyncio.wait_for(self._body(request), self._options.timeout_seconds)
            work = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, request.method, target, body)
            answer = await asyncio.wait_for(work, self._options.timeout_seconds)
            return Response(answer, media_type="application/json")
        except RequestError as error:
            return _refusal(error.code, str(error))
        except TimeoutError:
            return _refusal(Code.DEADLINE_EXCEEDED, f"Timed out after {self._options.timeout_seconds:g} s (--rest_api_timeout_in_ms)")
        except ClientDisconnect:
            return _refusal(Code.CANCELLED, "The client hung up")

    def _authorise(self, request: Request) -> None:
        if self._options.api_key is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._options.api_key}".encode()):
            raise RequestError(Code.UNAUTHENTICATED, "A valid API key is needed: Authorization: Bearer KEY")

    async def _body(self, request: Request) -> bytes:
        limit = self._options.max_body_bytes
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise invalid(f"The request body is larger than {limit} bytes (--max_body_bytes)")
        return bytes(body)

    def _answer(self, method: str, target: str, body: bytes) -> bytes:
        found = PREDICT.fullmatch(target) if method == "POST" else None
        if found:
            name, version, label, verb = found.groups()
            if verb.lower() != "predict":
                raise RequestError(Code.UNIMPLEMENTED, f"{verb} is not served here; use predict")
            return self._predict(Spec(name, _number(version), label), body)
        found = STATUS.fullmatch(target) if method == "GET" else None
        if not found:
            raise invalid(f"Malformed request: {method} {target}")
        name, version, label, metadata = found.groups()
        if name is None:
            raise invalid("Missing model name in request.")
        spec = Spec(name, _number(version), label)
        return self._metadata(spec) if metadata else self._status(spec)

    def _predict(self, spec: Spec, body: bytes) -> bytes:
        document = parse(body)
        servable = self._predictor.servable(spec)
        signature = document.get("signature_name", "")
        key = signature or DEFAULT_SIGNATURE
        if key not in servable.signatures:
            raise invalid(f'Serving signature name: "{key}" not found in signature def')
        inputs, rows = read_inputs(document, servable.signatures[key])
        return write_outputs(self._predictor.predict(servable, signature, inputs, "REST"), rows)

    def _status(self, spec: Spec) -> bytes:
        states = self._predictor.manager.status(spec.name, spec.version, spec.label)
        return json.dumps({"model_version_status": [_state(*one) for one in states]}, indent=1).encode()

    def _metadata(self, spec: Spec) -> bytes:
        servable = self._predictor.servable(spec)
        signatures = {name: _as_json(definition) for name, definition in sorted(servable.signatures.items())}
        described = {
            "model_spec": {"name": servable.name, "signature_name": "", "version": str(servable.version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
        return json.dumps(described, indent=1).encode()


def _number(version: str | None) -> int | None:
    if version is None:
        return None
    if int(version[:30]) > LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {version} to numeric.")
    return int(version)


def _state(version: int, state: State) -> dict[str, Any]:
    status = {"error_code": state.code, "error_message": state.message}
    return {"version": str(version), "state": state.state, "status": status}


def _as_json(definition: Any) -> Any:
    shown = json_format.MessageToDict(definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {key: shown[key] for key in ("inputs", "outputs", "method_name") if key in shown}


def _refusal(code: Code, text: str) -> Response:
    return Response(json.dumps({"error": text}), HTTP_STATUS[code], media_type="application/json")


