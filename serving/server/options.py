"""The server's flags: tensorflow_model_server's own names and meanings, and a few more."""

import argparse
import os
import ssl
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from serving.server.errors import StartError

API_KEY_VARIABLE = "RECOMMENDER_API_KEY"
AT_LEAST_ONE = ("rest_api_num_threads", "grpc_max_threads", "max_connections", "max_batch", "max_body_bytes")
LARGEST_MESSAGE = 2**31 - 1
LARGEST_PORT = 65_535
File = Path | None
OWN = object()  # marks a flag that tensorflow_model_server does not have

# Flags of tensorflow_model_server that the embedded server does not have: refused by name, never ignored.
# fmt: off
UNSUPPORTED = (
    "enable_per_model_batching_parameters", "enable_profiler", "enable_serialization_as_tensor_content",
    "enable_signature_method_name_check", "force_allow_any_version_labels_for_unavailable_models",
    "grpc_channel_arguments", "grpc_socket_path", "mixed_precision",
    "num_tflite_interpreters_per_pool", "num_tflite_pools",
    "per_process_gpu_memory_fraction", "platform_config_file", "prefer_tflite_model",
    "remove_unused_fields_from_bundle_metagraph", "skip_initialize_tpu", "ssl_config_file",
    "tensorflow_session_config_file", "thread_pool_factory_config_file",
    "use_alts_credentials", "xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled",
)
# fmt: on


@dataclass(frozen=True)
class ServerOptions:
    """Every flag of the server, with its default; the names are tensorflow_model_server's."""

    bundle: Annotated[File, "bundle to serve: every model in DIR/models", OWN] = None
    host: Annotated[str, "address to listen on", OWN] = "127.0.0.1"
    tls_certificate: Annotated[File, "PEM certificate chain for both ports", OWN] = None
    tls_key: Annotated[File, "PEM private key of --tls_certificate", OWN] = None
    api_key_file: Annotated[File, f"file with the bearer token; else ${API_KEY_VARIABLE}", OWN] = None
    max_body_bytes: Annotated[int, "largest request, in bytes", OWN] = 32 << 20
    max_batch: Annotated[int, "most rows (dimension 0 of an input) in one request", OWN] = 10_000
    max_connections: Annotated[int, "REST connections served at once; more are answered 503", OWN] = 2_048
    drain_seconds: Annotated[int, "time that running requests get after SIGTERM", OWN] = 30
    json: Annotated[bool, "print a line of JSON with host, ports and models when ready", OWN] = False
    port: Annotated[int, "gRPC port; 0 turns gRPC off"] = 8500
    rest_api_port: Annotated[int, "REST port; 0 turns REST off"] = 8501
    model_name: Annotated[str, "name of the model in --model_base_path"] = "default"
    model_base_path: Annotated[File, "directory that holds the version directories"] = None
    model_config_file: Annotated[File, "text ModelServerConfig: models, version policies, labels"] = None
    model_config_file_poll_wait_seconds: Annotated[int, "how often to read it again; 0 is never"] = 0
    allow_version_labels_for_unavailable_models: Annotated[bool, "labels may name unloaded versions"] = False
    file_system_poll_wait_seconds: Annotated[int, "how often to look for versions; 0 is once, at start"] = 1
    max_num_load_retries: Annotated[int, "further attempts at a version that does not load"] = 5
    load_retry_interval_micros: Annotated[int, "time between those attempts; none below 0"] = 60_000_000
    enable_model_warmup: Annotated[bool, "replay assets.extra/tf_serving_warmup_requests at load"] = True
    num_request_iterations_for_warmup: Annotated[int, "times that each warm-up request is replayed"] = 1
    enable_batching: Annotated[bool, "merge concurrent requests along dimension 0"] = False
    batching_parameters_file: Annotated[File, "text BatchingParameters"] = None
    monitoring_config_file: Annotated[File, "text MonitoringConfig, to serve Prometheus metrics"] = None
    rest_api_timeout_in_ms: Annotated[int, "time that a REST request gets; no limit below 1"] = 30_000
    rest_api_num_threads: Annotated[int, "threads that answer REST requests"] = 16
    rest_api_enable_cors_support: Annotated[bool, "let browsers ask for pages of any site"] = False
    grpc_max_threads: Annotated[int, "threads that answer gRPC requests"] = 16
    # On, where the real server's is off: probes find it.
    enable_grpc_healthcheck_service: Annotated[bool, "serve grpc.health.v1.Health"] = True
    num_load_threads: Annotated[int, "accepted; versions load one after the other"] = 0
    num_unload_threads: Annotated[int, "accepted; versions unload one after the other"] = 0
    flush_filesystem_caches: Annotated[bool, "accepted; there are none to flush"] = True
    saved_model_tags: Annotated[str, "tags of the graph to load, separated by commas"] = "serve"
    tensorflow_session_parallelism: Annotated[int, "threads for both pools below; 0 is automatic"] = 0
    tensorflow_intra_op_parallelism: Annotated[int, "threads of one operation; 0 is automatic"] = 0
    tensorflow_inter_op_parallelism: Annotated[int, "operations at the same time; 0 is automatic"] = 0

    @classmethod
    def of(cls, namespace: argparse.Namespace) -> "ServerOptions":
        """The options in a parsed command line; raises StartError where they contradict each other."""
        options = cls(**{flag.name: getattr(namespace, flag.name) for flag in fields(cls)})
        if options.port == options.rest_api_port:
            rule = "they must differ" if options.port else "one must be a port to listen on"
            raise StartError(f"--port and --rest_api_port are both {options.port}; {rule}")
        if (options.tls_certificate is None) != (options.tls_key is None):
            raise StartError("--tls_certificate and --tls_key go together")
        if options.batching_parameters_file and not options.enable_batching:
            raise StartError("--batching_parameters_file without --enable_batching")
        for flag in fields(cls):
            value = getattr(options, flag.name)
            named_file = isinstance(value, Path) and flag.name not in ("bundle", "model_base_path")
            if named_file and not value.is_file():
                raise StartError(f"--{flag.name}: there is no file {value}")
            if flag.name.endswith("port") and value > LARGEST_PORT:
                raise StartError(f"--{flag.name}={value} is no port; the largest is {LARGEST_PORT}")
            if flag.name in AT_LEAST_ONE and not value:
                raise StartError(f"--{flag.name}=0 would answer nobody; it must be at least 1")
        if options.port and options.max_body_bytes > LARGEST_MESSAGE:
            raise StartError(
                f"--max_body_bytes={options.max_body_bytes} is more than gRPC takes, {LARGEST_MESSAGE}"
            )
        if options.tls_certificate and options.tls_key:
            _check_tls(options.tls_certificate, options.tls_key)
        options.api_key()
        return options

    def api_key(self) -> str | None:
        """The key that callers must send, from the file or else the environment; None where none is set."""
        key, place = os.environ.get(API_KEY_VARIABLE), API_KEY_VARIABLE
        if self.api_key_file is not None:
            place = f"--api_key_file {self.api_key_file}"
            key = self.api_key_file.read_text(encoding="utf-8", errors="replace")
        elif not key:
            return None
        key = (key or "").strip()
        if not key.isascii() or not key.isprintable() or not key:
            raise StartError(f"{place} holds no key of printable ASCII characters")
        return key


def _check_tls(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fault = f"--tls_certificate {certificate} holds no PEM certificate"
    try:
        context.load_verify_locations(certificate)
        fault = f"--tls_key {key} holds no PEM key, without a password, of --tls_certificate {certificate}"
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise StartError(fault) from None


class _Refuse(argparse.Action):
    """Refuses what the embedded server has not; a flag that turns it off asks for nothing."""

    def __call__(self, _parser: Any, _namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values and values.lower() in ("false", "0"):
            return
        raise StartError(f"{option_string} is not supported here; start tensorflow_model_server itself")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"TensorFlow ModelServer: {version('tensorflow-serving-api')}")
        print(f"TensorFlow Library: {version('tensorflow')}")
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `ServerOptions` to `parser`, and those it refuses; imports no TensorFlow."""
    for flag in fields(ServerOptions):
        text = described(flag.name)[0]
        if flag.default not in (None, ""):
            text += f" (default: {str(flag.default).lower()})"
        settings: dict[str, Any] = {
            "help": text.replace("%", "%%"),
            "default": flag.default,
            "type": {bool: _boolean, int: _count, str: str}.get(type(flag.default), Path),
        }
        if isinstance(flag.default, bool):
            settings |= {"nargs": "?", "const": True, "metavar": "BOOL"}
        if flag.name in ("load_retry_interval_micros", "rest_api_timeout_in_ms"):
            settings["type"] = int
        parser.add_argument(f"--{flag.name}", **settings)
    parser.add_argument("--version", nargs=0, action=_Version, help="print the versions and exit")
    for name in UNSUPPORTED:
        parser.add_argument(f"--{name}", nargs="?", action=_Refuse, help=argparse.SUPPRESS)


def described(flag: str) -> tuple[str, bool]:
    """What a flag does, and whether only the embedded server has it."""
    text, *marks = get_type_hints(ServerOptions, include_extras=True)[flag].__metadata__
    return text, OWN in marks


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
