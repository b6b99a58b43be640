"""The embedded server and its client beside what they stand on, in one run with real processes.

One catalogue of 100,000 items at dimension 64 is served twice, with and without batching (the deploy folder's parameters),
and asked by a load generator in a process of its own. What is compared is measured in turn, so that a busy machine slows
all alike; a figure is the median of the rounds.
"""

import contextlib
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import tensorflow as tf

from serving.client import Recommender
from serving.client.messages import PredictRequest, PredictResponse
from serving.demo import free_ports
from trainer import experiment
from trainer.config import load as load_config
from trainer.index.brute_force import BruteForce

USERS, ITEMS, DIMENSION = 10_000, 100_000, 64
CLIENTS, SECONDS, ROUNDS, CALLS = 16, 3.0, 3, 400
REST_LIMIT, GRPC_LIMIT, CLIENT_LIMIT = 1.0e-3, 0.7e-3, 1.15  # seconds above in process; times the raw call
BATCHING = Path(__file__).parents[2] / "serving" / "deploy" / "config" / "batching.config"
HERE = Path(__file__).parent
QUICK = (
    "train.epochs=1",
    "ranking.epochs=1",
    "evaluate.baselines=[]",
    "evaluate.ranking_baselines=[]",
    "export.cascade.light_weight=1",
    "export.cascade.deep_weight=1",
)
INPUTS: dict[str, list[Any]] = {"user_id": ["42"], "k": [10], "exclude": [[]]}
PATH = "/v1/models/catalogue:predict"
GRPC_PATH = "/tensorflow.serving.PredictionService/Predict"


def run() -> dict[str, float]:
    """Returns throughput and p99 with batching over those without, and limits over what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_catalogue(base / "1")
        batched = ("--enable_batching", f"--batching_parameters_file={BATCHING}")
        with served(base) as alone, served(base, *batched) as merged:
            found = throughput(alone[0], merged[0]) | latency(base / "1", *alone) | client_overhead(*alone)
    return found | {"cascade_times_retrieval": stages()}


def stages() -> float:
    """Prints what each stage of a cascade takes for one user; returns that of all over that of retrieval alone.

    The demo's models after one epoch, 500 candidates, then 100, every stage with a weight: speed is asked, not quality.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = experiment.run(load_config("demo", None, QUICK), Path(folder), allow_below_baseline=True)
    took: dict[str, float] = run["cascade"]["milliseconds"]
    print("  cascade: " + ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in took.items()))
    return sum(took.values()) / took["retrieve"]


def write_catalogue(path: Path) -> None:
    """Writes a model with the signature `recommend` of a bundle: user ids in, item ids and scores out."""
    random = np.random.default_rng(0)
    module = tf.Module()
    module.users = tf.Variable(random.normal(size=(USERS + 1, DIMENSION)).astype(np.float32))
    vectors = random.normal(size=(ITEMS + 1, DIMENSION)).astype(np.float32)
    module.index = BruteForce().build_index(tf.constant(vectors))
    names = np.char.add("item-", np.arange(ITEMS + 1).astype(str)).tolist()
    module.names = tf.Variable(names)
    module.rows = _table(names)
    module.user_rows = _table([str(user) for user in range(USERS + 1)])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "user_id"),
            tf.TensorSpec([None], tf.int32, "k"),
            tf.TensorSpec([None, None], tf.string, "exclude"),
        ]
    )
    def recommend(user_id: tf.Tensor, k: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        queries = tf.gather(module.users, module.user_rows.lookup(user_id))
        barred = tf.RaggedTensor.from_tensor(module.rows.lookup(exclude))
        rows, scores = module.index.top(queries, barred, tf.reduce_max(k))
        return {"item_id": tf.gather(module.names, rows), "score": scores}

    module.recommend = recommend
    tf.saved_model.save(module, str(path), signatures={"recommend": recommend})


def _table(names: list[str]) -> Any:
    initial = tf.lookup.KeyValueTensorInitializer(names, tf.range(len(names)))
    return tf.lookup.StaticHashTable(initial, 0)


@contextlib.contextmanager
def served(base: Path, *flags: str) -> Iterator[tuple[int, int]]:
    """Yields the REST and gRPC ports of a server process."""
    rest, rpc = free_ports(2)
    command = [
        sys.executable,
        "-m",
        "serving",
        "serve",
        "--model_name=catalogue",
        f"--model_base_path={base}",
    ]
    command += [f"--rest_api_port={rest}", f"--port={rpc}", *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            with Recommender(f"http://127.0.0.1:{rest}", "catalogue") as recommender:
                recommender.wait_until_ready(120)
            yield rest, rpc
        finally:
            process.terminate()


def throughput(alone: int, merged: int) -> dict[str, float]:
    """Returns how much 16 clients get with batching: over those without, and over one client."""
    asked = {
        "alone": lambda: load(alone, CLIENTS),
        "merged": lambda: load(merged, CLIENTS),
        "one": lambda: load(alone, 1),
        "one merged": lambda: load(merged, 1),
    }
    rounds = [{name: ask() for name, ask in asked.items()} for _ in range(ROUNDS)]
    for name in asked:
        middle = {key: statistics.median(one[name][key] for one in rounds) for key in ("rate", "p50", "p99")}
        print(
            f"  {name:10}  {middle['rate']:7.0f} requests/s  p50 {middle['p50']:.2f} ms  p99 {middle['p99']:.2f} ms"
        )

    def ratio(over: str, under: str, key: str) -> float:
        return statistics.median(one[over][key] / one[under][key] for one in rounds)

    return {
        "batching_requests_per_second": ratio("merged", "alone", "rate"),
        "batching_p99_without_over_with": ratio("alone", "merged", "p99"),
        "batching_times_one_client": min(ratio("merged", one, "rate") for one in ("one", "one merged")),
    }


def load(port: int, clients: int) -> dict[str, float]:
    """Returns what the load generator measured."""
    body = json.dumps({"signature_name": "recommend", "inputs": INPUTS})
    words = ["127.0.0.1", str(port), str(clients), str(SECONDS), PATH, body]
    done = subprocess.run(
        [sys.executable, HERE / "load.py", *words], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def latency(path: Path, rest: int, rpc: int) -> dict[str, float]:
    """Returns the milliseconds allowed above the call in process over those that REST and gRPC take.

    Requests are prepared bytes and answers are read: what a client's library takes is another figure.
    """
    loaded = tf.saved_model.load(str(path))
    call = loaded.signatures["recommend"]
    fed = {"user_id": tf.constant(["42"]), "k": tf.constant([10]), "exclude": tf.constant([[]], tf.string)}
    with bare_rest(rest) as over_rest, bare_grpc(rpc) as over_grpc:
        took = medians({"process": lambda: call(**fed), "rest": over_rest, "grpc": over_grpc})
    print(
        f"  one call: {1e3 * took['process']:.2f} ms in process, {1e3 * took['rest']:.2f} over REST, "
        f"{1e3 * took['grpc']:.2f} over gRPC"
    )
    return {
        "rest_milliseconds_allowed_over_taken": REST_LIMIT / max(took["rest"] - took["process"], 1e-6),
        "grpc_milliseconds_allowed_over_taken": GRPC_LIMIT / max(took["grpc"] - took["process"], 1e-6),
    }


def client_overhead(rest: int, rpc: int) -> dict[str, float]:
    """Returns 1.15 over the client's call as a multiple of the bare httpx or grpc one."""
    found = {}
    for name, url, raw in (
        ("rest", f"http://127.0.0.1:{rest}", raw_rest(rest)),
        ("grpc", f"grpc://127.0.0.1:{rpc}", raw_grpc(rpc)),
    ):
        with raw as bare, Recommender(url, "catalogue") as recommender:
            took = medians({"client": lambda ask=recommender: ask.recommend("42", 10), "bare": bare})
        print(
            f"  {name}: {1e3 * took['client']:.2f} ms by the client, {1e3 * took['bare']:.2f} by the bare library"
        )
        found[f"client_limit_over_{name}"] = CLIENT_LIMIT * took["bare"] / took["client"]
    return found


@contextlib.contextmanager
def bare_rest(port: int) -> Iterator[Callable[[], object]]:
    """Yields a call that sends the bytes of one request over an open connection, and reads the JSON of the answer."""
    body = json.dumps({"signature_name": "recommend", "inputs": INPUTS}).encode()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call() -> object:
            connection.request("POST", PATH, body, {"content-type": "application/json"})
            return json.loads(connection.getresponse().read())

        yield call


@contextlib.contextmanager
def bare_grpc(port: int) -> Iterator[Callable[[], object]]:
    """Yields a call that sends the bytes of one request, and reads the values of the answer."""
    request = grpc_request().SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(GRPC_PATH)

        def call() -> object:
            outputs = PredictResponse.FromString(method(request, timeout=10)).outputs
            return list(outputs["item_id"].string_val), list(outputs["score"].float_val)

        yield call


@contextlib.contextmanager
def raw_rest(port: int) -> Iterator[Callable[[], object]]:
    """Yields a call of httpx that sends, and reads, the JSON of one request."""
    body = {"signature_name": "recommend", "inputs": INPUTS}
    with httpx.Client(trust_env=False) as client:
        yield lambda: client.post(f"http://127.0.0.1:{port}{PATH}", json=body).json()


@contextlib.contextmanager
def raw_grpc(port: int) -> Iterator[Callable[[], object]]:
    """Yields a call of grpc that sends one request and reads the values of its answer."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(
            GRPC_PATH,
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )

        def call() -> object:
            outputs = method(grpc_request(), timeout=10).outputs
            return list(outputs["item_id"].string_val), list(outputs["score"].float_val)

        yield call


def grpc_request() -> PredictRequest:
    """Returns the message of one request."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "catalogue", "recommend"
    for name, values in INPUTS.items():
        flat, kind = (values, 7) if name == "user_id" else (values, 3) if name == "k" else ([], 7)
        tensor = request.inputs[name]
        tensor.dtype = kind
        for size in (1, 0) if name == "exclude" else (1,):
            tensor.tensor_shape.dim.add(size=size)
        if kind == 7:
            tensor.string_val.extend(value.encode() for value in flat)
        else:
            tensor.int_val.extend(flat)
    return request


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Returns the median seconds of each call; they take turns."""
    clocks: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(CALLS):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn >= CALLS // 10:
                clocks[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in clocks.items()}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
