"""One tiny run, trained through the command line, and everything that can be asked about it.

The towers are given a fixed weight: on so little data blending leaves them out, and then half of the query
side, the context features among it, would go untested.
"""

import contextlib
import functools
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.client import Recommender
from trainer.__main__ import main

TOWERS = (0.4, 0.1)  # weights of the towers and of popularity
START_SECONDS = 120


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_arguments) -> tuple[Path, Any]:
    """The run as `train` leaves it, and the model that it exported, whose signatures are traced by then."""
    from trainer.export.serving_model import ServingModel

    home, made = tmp_path_factory.mktemp("parity") / "run", []

    def kept(*arguments: Any) -> Any:
        made.append(ServingModel(*arguments))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.retrieval.blending.weigh_towers", lambda *_: TOWERS)
        patch.setattr("trainer.experiment.ServingModel", kept)
        assert main(["train", "--workdir", str(home), "--allow-below-baseline", *tiny_arguments]) == 0
    return home, made[0]


@pytest.fixture(scope="session")
def workdir(trained) -> Path:
    """The run as `train` leaves it. Nobody writes here; who must, copies it."""
    return trained[0]


@pytest.fixture(scope="session")
def server(workdir) -> Iterator[tuple[str, str]]:
    """The addresses (REST, gRPC) of the embedded server on the bundle."""
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(socket.socket()) for _ in range(2)]
        for place in places:
            place.bind(("127.0.0.1", 0))
        rest, grpc = (place.getsockname()[1] for place in places)
    command = [sys.executable, "-m", "serving", "serve", "--bundle", str(workdir / "bundle")]
    command += ["--rest_api_port", str(rest), "--port", str(grpc)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{grpc}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def run(server, workdir) -> Any:
    """The run opened again: what the offline evaluator measures. The server loads its models meanwhile."""
    from trainer import experiment

    return experiment.reopen(workdir, [])


@pytest.fixture(scope="session")
def model(workdir) -> Any:
    """The SavedModel, loaded again."""
    import tensorflow as tf

    return tf.saved_model.load(str(workdir / "bundle" / "models" / "recommender" / "1"))


@pytest.fixture(scope="session")
def ask(model) -> Callable[..., dict[str, Any]]:
    """Asks a signature of the SavedModel; strings come back as strings. `None` is a batch of no row."""
    return asking(model)


@pytest.fixture(scope="session")
def asking_of() -> Callable[..., Callable[..., dict[str, Any]]]:
    return asking


def asking(model: Any) -> Callable[..., dict[str, Any]]:
    import tensorflow as tf

    def ask(signature: str, **inputs: Any) -> dict[str, Any]:
        function = model.signatures[signature]
        specs = function.structured_input_signature[1]
        tensors = {}
        for name, value in inputs.items():
            spec = specs[name]
            empty = tf.zeros([0] * len(spec.shape), spec.dtype)
            tensors[name] = empty if value is None else tf.constant(value, spec.dtype)
        outputs = {name: tensor.numpy() for name, tensor in function(**tensors).items()}
        return {
            name: np.char.decode(value.astype(bytes), "utf-8") if value.dtype == object else value
            for name, value in outputs.items()
        }

    return ask


@dataclass(frozen=True)
class Lists:
    """What the offline evaluator recommends: users, and their lists of ids and scores, best first."""

    users: list[str]
    ids: list[list[str]]
    scores: list[list[float]]


@pytest.fixture(scope="session")
def offline(run) -> Callable[..., Lists]:
    """Returns the evaluator's own lists for the test cases, with their context or without any."""
    import dataclasses

    from trainer.evaluation.retrieval import evaluate_retrieval
    from trainer.retrieval.inference import scorer

    prepared = run.prepared

    @functools.cache
    def lists(context: bool) -> Lists:
        cases = prepared.test
        if not context:
            nothing = {
                name: np.full(len(cases), np.nan if column.dtype.kind == "f" else "", column.dtype)
                for name, column in cases.context.items()
            }
            cases = dataclasses.replace(cases, context=nothing)
        settings = run.config.evaluate.model_copy(update={"cutoffs": (10,)})
        rows = evaluate_retrieval(scorer(run.retrieval.retriever, prepared), cases, prepared, settings).lists
        scores = np.take_along_axis(scorer(run.retrieval.retriever, prepared).scores(cases), rows, axis=1)
        return Lists(
            prepared.users.decode(cases.user), [prepared.items.decode(row) for row in rows], scores.tolist()
        )

    return lists


@pytest.fixture(scope="session")
def predict(server) -> Callable[..., dict[str, Any]]:
    """Asks a signature over REST, in the column format."""

    def call(signature: str, inputs: Any) -> dict[str, Any]:
        with Recommender(server[0]) as recommender:
            recommender.wait_until_ready(START_SECONDS)
        url = f"{server[0]}/v1/models/recommender"
        body = {"signature_name": signature, "inputs": inputs}
        response = httpx.post(f"{url}:predict", json=body, trust_env=False, timeout=30)
        assert response.status_code == 200, response.text
        return response.json()["outputs"]

    return call
