"""The flags of `tensorflow_model_server` that the embedded server honours, and a few of its own."""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

from serving.server.errors import StartError

API_KEY_VARIABLE = "RECOMMENDER_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ModelOptions:
    """One model: where its versions lie, which of them to serve, and their labels."""

    name: str
    base_path: Path
    policy: str = "latest"  # latest, all or specific
    latest: int = 1  # how many of the latest
    specific: tuple[int, ...] = ()
    labels: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class ServerOptions:
    """What to serve, and where."""

    models: tuple[ModelOptions, ...]
    host: str
    grpc_port: int
    rest_port: int
    poll_seconds: float
    timeout_seconds: float
    max_body_bytes: int
    max_batch: int
    threads: int
    batching: bool
    batching_file: Path | None
    config_file: Path | None
    monitoring_file: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    api_key: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the verb `serve`."""
    what = parser.add_argument_group("what to serve (one of --bundle, --model_base_path, --model_config_file)")
    what.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle that `python -m trainer` wrote")
    what.add_argument("--model_name", default="default", help="name under which --model_base_path is served (default: default)")
    what.add_argument("--model_base_path", type=Path, metavar="DIR", help="directory of numbered versions of one model")
    what.add_argument("--model_config_file", type=Path, metavar="FILE", help="text proto ModelServerConfig: models, policies, labels")
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1, this machine only)")
    where.add_argument("--port", type=int, default=8500, help="gRPC port (default: 8500)")
    where.add_argument("--rest_api_port", type=int, default=8501, help="REST port (default: 8501)")
    how = parser.add_argument_group("how")
    how.add_argument("--engine", choices=("embedded", "tensorflow"), default="embedded", help="tensorflow runs tensorflow_model_server from the PATH instead")
    how.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0, metavar="SECONDS", help="how often to look for versions (default: 1; 0: only at start)")
    how.add_argument("--rest_api_timeout_in_ms", type=int, default=30_000, metavar="MS", help="limit of one REST request (default: 30000)")
    how.add_argument("--enable_batching", nargs="?", const=True, default=False, type=_boolean, metavar="BOOL", help="merge concurrent requests into batches")
    how.add_argument("--batching_parameters_file", type=Path, metavar="FILE", help="text proto BatchingParameters")
    how.add_argument("--monitoring_config_file", type=Path, metavar="FILE", help="text proto MonitoringConfig: the Prometheus path")
    how.add_argument("--threads", type=int, default=4, help="requests computed at a time (default: 4)")
    how.add_argument("--max_body_bytes", type=int, default=32 * 2**20, metavar="N", help="largest request body (default: 32 MiB)")
    how.add_argument("--max_batch", type=int, default=10_000, metavar="N", help="most rows of one request (default: 10000)")
    guard = parser.add_argument_group("for anyone who binds further than this machine")
    guard.add_argument("--tls_certificate", type=Path, metavar="FILE", help="PEM certificate chain")
    guard.add_argument("--tls_key", type=Path, metavar="FILE", help="PEM private key")
    guard.add_argument("--api_key_file", type=Path, metavar="FILE", help=f"file with the key that requests must carry as `Authorization: Bearer KEY`; else the environment's {API_KEY_VARIABLE}")


def read_options(namespace: argparse.Namespace) -> ServerOptions:
    """Returns the checked options; raises `StartError` in one line that names the flag."""
    for flag in ("port", "rest_api_port"):
        if not 0 < getattr(namespace, flag) < 65_536:
            raise StartError(f"--{flag}={getattr(namespace, flag)} is no port; it takes 1 to 65535")
    for flag in ("threads", "max_body_bytes", "max_batch", "rest_api_timeout_in_ms"):
        if getattr(namespace, flag) < 1:
            raise StartError(f"--{flag}={getattr(namespace, flag)} must be at least 1")
    key = _api_key(namespace.api_key_file)
    if bool(namespace.tls_certificate) != bool(namespace.tls_key):
        raise StartError("--tls_certificate and --tls_key go together")
    if namespace.batching_parameters_file and not namespace.enable_batching:
        raise StartError("--batching_parameters_file without --enable_batching")
    return ServerOptions(
        models=_models(namespace),
        host=namespace.host,
        grpc_port=namespace.port,
        rest_port=namespace.rest_api_port,
        poll_seconds=namespace.file_system_poll_wait_seconds,
        timeout_seconds=namespace.rest_api_timeout_in_ms / 1000,
        max_body_bytes=namespace.max_body_bytes,
        max_batch=namespace.max_batch,
        threads=namespace.threads,
        batching=namespace.enable_batching,
        batching_file=namespace.batching_parameters_file,
        config_file=namespace.model_config_file,
        monitoring_file=namespace.monitoring_config_file,
        tls_certificate=namespace.tls_certificate,
        tls_key=namespace.tls_key,
        api_key=key,
    )


def _models(namespace: argparse.Namespace) -> tuple[ModelOptions, ...]:
    given = [flag for flag in ("bundle", "model_base_path", "model_config_file") if getattr(namespace, flag)]
    if len(given) != 1:
        have = " and ".join(f"--{flag}" for flag in given) or "none of them"
        raise StartError(f"give one of --bundle, --model_base_path and --model_config_file; this has {have}")
    if namespace.bundle:
        return _bundle_models(namespace.bundle)
    if namespace.model_base_path:
        return (ModelOptions(namespace.model_name, namespace.model_base_path),)
    from serving.server.model_config import read_model_config

    return read_model_config(namespace.model_config_file)


def _bundle_models(bundle: Path) -> tuple[ModelOptions, ...]:
    if not bundle.is_dir():
        raise StartError(f"--bundle {bundle}: there is no such directory")
    manifest = bundle / "manifest.json"
    try:
        form = json.loads(manifest.read_text(encoding="utf-8"))["format"]
    except FileNotFoundError:
        raise StartError(f"--bundle {bundle}: no manifest.json; it is no bundle, or its export never finished") from None
    except (ValueError, KeyError, TypeError):
        raise StartError(f"--bundle {bundle}: manifest.json is not a bundle's manifest") from None
    if form != 1:
        raise StartError(f"--bundle {bundle} has format {form}; this server reads format 1")
    homes = sorted(path for path in (bundle / "models").glob("*") if path.is_dir())
    if not homes:
        raise StartError(f"--bundle {bundle}: no model below {bundle / 'models'}")
    return tuple(ModelOptions(home.name, home) for home in homes)


def _api_key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartError(f"--api_key_file {file}: {error.strerror}") from None
    if not key:
        raise StartError(f"--api_key_file {file} is empty")
    return key


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
