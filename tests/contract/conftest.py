"""The server that the serving conformance suite asks, shared by its files, and further ones on demand."""

import contextlib
import os

import grpc
import pytest
from serving_models import write_half, write_models
from serving_process import Server, running


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A directory with the suite's models and their configuration."""
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    return root


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Two versions that differ: x / 2 + 1 and x / 2 + 2."""
    root = tmp_path_factory.mktemp("half")
    for plus in (1, 2):
        write_half(root / str(plus), float(plus))
    return root


@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    """The server under test: that of SERVING_URL (and SERVING_GRPC), or an embedded one of its own."""
    if url := os.environ.get("SERVING_URL"):
        return (yield Server(url.rstrip("/"), os.environ.get("SERVING_GRPC", "127.0.0.1:8500")))
    root = request.getfixturevalue("models")
    flags = [
        f"--model_config_file={root}/models.config",
        f"--monitoring_config_file={root}/monitoring.config",
    ]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running(log, *flags, "--allow_version_labels_for_unavailable_models=true") as embedded:
        yield embedded


@pytest.fixture(scope="session")
def channel(server):
    """A gRPC channel to the server under test."""
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture
def start(tmp_path):
    """Starts further servers, `start(*flags)`, that stop with the test; not for a server given by SERVING_URL."""
    if os.environ.get("SERVING_URL"):
        pytest.skip("needs a server of its own")
    with contextlib.ExitStack() as stack:
        yield lambda *flags, **kwargs: stack.enter_context(
            running(tmp_path / f"server-{len(list(tmp_path.iterdir()))}.log", *flags, **kwargs)
        )
