"""A recommender made of a dozen lines, behind a real HTTP server that can misbehave on demand."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

CORPUS = [f"i{n}" for n in range(20)]
LOWEST = -3.4028234663852886e38
DEVICE = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}
METADATA = {
    "metadata": {"signature_def": {"signature_def": {"recommend_in_context": {"inputs": {"device": DEVICE}}}}}
}


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def ranked(k: list[int], exclude: list[list[str]], shift: int, path: str = "known") -> dict[str, Any]:
    width = max(k)
    rows = []
    for count, out in zip(k, exclude, strict=True):
        items = [item for item in CORPUS[shift:] + CORPUS[:shift] if item not in out][:count]
        rows.append(items + [""] * (width - len(items)))
    scores = [[1.0 - 0.01 * n if item else LOWEST for n, item in enumerate(row)] for row in rows]
    return {"item_id": rows, "score": scores, "path": [path] * len(rows)}


def answer(signature: str, inputs: dict[str, Any]) -> dict[str, list[Any]]:
    """What the stub model answers: the corpus in order; a history's last item comes round to the end."""
    match signature:
        case "recommend":
            return ranked(inputs["k"], inputs["exclude"], 0)
        case "recommend_in_context":
            return ranked(inputs["k"], inputs["exclude"], 2 if inputs["device"] == ["phone"] else 0)
        case "recommend_with":
            return ranked(inputs["k"], inputs["exclude"], 3)
        case "recommend_history":
            return ranked(inputs["k"], inputs["exclude"], 1, "history")
        case "similar_items":
            return ranked(inputs["k"], [[item] for item in inputs["item_id"]], 0)
        case "rank":
            return {"score": [[float(item[1:]) for item in row] for row in inputs["item_id"]]}
        case "titles":
            return {"title": [f"Tïtle {item}" if item in CORPUS else "" for item in inputs["item_id"]]}
        case "history":
            rows = [["i3", "i1"] if user == "42" else [] for user in inputs["user_id"]]
            width = max(inputs["k"])
            return {"item_id": [(row + [""] * width)[:width] for row in rows]}
        case "embed_users" | "embed_items" | "embed_histories":
            return {"embedding": [[0.5, -0.25, 2.0] for _ in next(iter(inputs.values()))]}
    raise Refusal(400, f'Serving signature name: "{signature}" not found in signature def')


class StubServer(ThreadingHTTPServer):
    """`faults`, one per request, answer in place of the model unless they are None."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Callable[[Handler], None] | None] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.peers: set[int] = set()
        self.released = threading.Event()

    def handle_error(self, *_: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StubServer

    def do_GET(self) -> None:
        self.handle_request(None)

    def do_POST(self) -> None:
        self.handle_request(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def handle_request(self, body: Any) -> None:
        self.server.requests.append((self.path, dict(self.headers), body))
        self.server.peers.add(self.client_address[1])
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault is not None:
            fault(self)
            return
        try:
            self.reply(200, self.model(body))
        except Refusal as refusal:
            self.reply(refusal.status, {"error": str(refusal)})

    def model(self, body: Any) -> Any:
        if not self.path.startswith("/v1/models/recommender"):
            raise Refusal(404, "Servable not found for request: Latest(other)")
        if self.path.endswith("/metadata"):
            return METADATA
        if body is None:
            healthy = {"error_code": "OK", "error_message": ""}
            return {
                "model_version_status": [
                    {"version": version, "state": "AVAILABLE", "status": healthy} for version in ("12", "7")
                ]
            }
        outputs = answer(body["signature_name"], body["inputs"])
        return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}

    def reply(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[StubServer]:
    stub = StubServer()
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stub
    stub.released.set()
    stub.shutdown()
    thread.join()
    stub.server_close()


@pytest.fixture
def stub_answer() -> Callable[[str, dict[str, Any]], dict[str, list[Any]]]:
    return answer
