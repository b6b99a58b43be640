"""TensorFlow Serving's REST API: a call as an HTTP request, an HTTP answer as outputs, httpx in between."""

import asyncio
import json
import re
import ssl
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from serving.client.calls import Call, InputSpec, Outputs, VersionStatus
from serving.client.errors import (
    BadResponse,
    DeadlineExceeded,
    InvalidArgument,
    RecommenderError,
    from_http,
    not_connected,
)

_LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=64)
_ENDINGS = {"predict": ":predict", "status": "", "metadata": "/metadata"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class RestTransport:
    """Pooled HTTP connections to one server."""

    def __init__(self, url: str, api_key: str | None = None, ca_file: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        place = urlsplit(url)
        self._options: dict[str, Any] = {
            "limits": _LIMITS,
            "trust_env": place.hostname not in ("127.0.0.1", "localhost", "::1"),  # no proxy to oneself
            "verify": ssl.create_default_context(cafile=ca_file) if ca_file else place.scheme == "https",
        }
        self._paths: dict[object, httpx.URL] = {}
        self._opening = threading.Lock()
        self._thread = threading.local()  # the deadline of its request
        self._client: httpx.Client | None = None
        self._async_client: httpx.AsyncClient | None = None

    def send(self, call: Call, timeout: float) -> Outputs:
        """Blocks until the answer is complete; see `Transport.send`."""
        with self._opening:  # threads may arrive here together
            self._client = self._client or httpx.Client(**self._options)
        request = self._request(call, timeout)
        request.extensions["trace"] = self._bound
        self._thread.deadline = time.monotonic() + timeout
        with _errors(self._url):
            response = self._client.send(request)
        return _outputs(call, response)

    async def asend(self, call: Call, timeout: float) -> Outputs:
        """The same, awaited."""
        if self._async_client is None:
            self._async_client = httpx.AsyncClient(**self._options)
        with _errors(self._url):
            async with asyncio.timeout(timeout):
                response = await self._async_client.send(self._request(call, timeout))
        return _outputs(call, response)

    def close(self) -> None:
        """Closes the connections of the blocking client."""
        if self._client is not None:
            self._client.close()

    async def aclose(self) -> None:
        """Closes the connections of the asynchronous client."""
        if self._async_client is not None:
            await self._async_client.aclose()

    def _bound(self, event: str, info: Any) -> None:
        """Makes a new connection keep the deadline of a whole request: httpx's timeout is for each read alone."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        stream = info["return_value"]
        read = stream.read

        def bounded(max_bytes: int, timeout: float | None = None) -> Any:
            left = self._thread.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            return read(max_bytes, min(left, timeout or left))

        stream.read = bounded

    def _request(self, call: Call, timeout: float) -> httpx.Request:
        extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), max(timeout, 1e-3))}
        url = self._address(call)
        if call.kind != "predict":
            return httpx.Request("GET", url, headers=self._headers, extensions=extensions)
        content = _body(call)
        return httpx.Request("POST", url, headers=self._headers, content=content, extensions=extensions)

    def _address(self, call: Call) -> httpx.URL:
        key = (call.target, call.kind)
        if key not in self._paths:
            path = f"{self._url}/v1/models/{quote(call.target.model, safe='')}"
            if call.target.version is not None:
                path += f"/versions/{call.target.version}"
            elif call.target.label is not None:
                path += f"/labels/{quote(call.target.label, safe='')}"
            self._paths[key] = httpx.URL(path + _ENDINGS[call.kind])
        return self._paths[key]


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """What httpx raises, as errors of this client."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        if isinstance(error, RecommenderError):
            raise
        raise DeadlineExceeded(f"no answer from {url}") from error
    except httpx.DecodingError as error:
        raise BadResponse(f"{url} sends a body that cannot be decoded: {error}") from error
    except httpx.TransportError as error:
        raise not_connected(url, str(error) or type(error).__name__) from error


def _body(call: Call) -> bytes:
    try:
        return _to_json({"signature_name": call.signature, "inputs": call.inputs}).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            call.signature, f"has an id that is not valid Unicode: {_not_unicode(call)!r}"
        ) from error


def _not_unicode(call: Call) -> str:
    """The first text of a call that has half of a surrogate pair."""
    rows = (row for column in call.inputs.values() for row in column)
    values = (value for row in rows for value in (row if isinstance(row, list) else [row]))
    return next(value for value in values if isinstance(value, str) and _SURROGATE.search(value))


def _outputs(call: Call, response: httpx.Response) -> Outputs:
    body = response.content
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if response.status_code != 200:
        text = answer.get("error") if isinstance(answer, dict) else None
        message = str(text) if text else f"HTTP {response.status_code}: {body[:200].decode(errors='replace')}"
        raise from_http(response.status_code, message, _seconds(response.headers.get("retry-after")))
    try:
        if call.kind == "predict":
            return _columns(answer["outputs"], call.outputs)
        return _versions(answer) if call.kind == "status" else _input_specs(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        shown = body[:200].decode(errors="replace")
        raise BadResponse(f"{response.url} did not answer as TensorFlow Serving does: {shown}") from error


def _columns(outputs: Any, names: tuple[str, ...]) -> Outputs:
    """Columns by name; a signature with one output answers with the bare column."""
    columns: dict[str, list[Any]] = outputs if isinstance(outputs, dict) else {names[0]: outputs}
    if not all(isinstance(column, list) for column in columns.values()):
        raise TypeError("every output must be a list")
    return {name: _in_float32(column) for name, column in columns.items()}


def _in_float32(values: Any) -> Any:
    """The values, of which floats are the server's float32: JSON has the fewest digits that tell those apart."""
    if not isinstance(values, list) or not values:
        return values
    if isinstance(values[0], list):
        return [_in_float32(row) for row in values]
    return array("f", values).tolist() if isinstance(values[0], float) else values


def _versions(answer: Any) -> Outputs:
    rows = [
        VersionStatus(
            int(row["version"]),
            row["state"],
            row.get("status", {}).get("error_code", "OK"),
            row.get("status", {}).get("error_message", ""),
        )
        for row in answer["model_version_status"]
    ]
    rows.sort(key=lambda row: -row.version)
    return {name: [getattr(row, name) for row in rows] for name in VersionStatus._fields}


def _input_specs(answer: Any) -> Outputs:
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    rows = [
        InputSpec(signature, name, spec["dtype"], int(dims[1]["size"]) if len(dims) > 1 else 0)
        for signature, definition in signatures.items()
        for name, spec in definition["inputs"].items()
        for dims in [spec["tensor_shape"]["dim"]]
    ]
    return {name: [getattr(row, name) for row in rows] for name in InputSpec._fields}


def _seconds(retry_after: str | None) -> float:
    """The Retry-After header where it is a number of seconds; dates are left to the backoff."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
