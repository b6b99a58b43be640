"""The real server instead of the embedded one, from the same options."""

import os
import shutil
import tempfile
from pathlib import Path

from serving.server.errors import StartError
from serving.server.options import ServerOptions

BINARY = "tensorflow_model_server"


def run_tensorflow_model_server(options: ServerOptions) -> int:
    """Replaces this process by `tensorflow_model_server`; raises `StartError` where that is not on the PATH."""
    binary = shutil.which(BINARY)
    if binary is None:
        raise StartError(f"--engine tensorflow: {BINARY} is not on the PATH; install it, or leave the flag out for the embedded server")
    os.execv(binary, command(binary, options))


def command(binary: str, options: ServerOptions) -> list[str]:
    """Returns the real server's command line."""
    flags = {
        "port": options.grpc_port,
        "rest_api_port": options.rest_port,
        "rest_api_timeout_in_ms": int(options.timeout_seconds * 1000),
        "file_system_poll_wait_seconds": int(options.poll_seconds),
        "model_config_file": options.config_file or _write_config(options),
        "enable_batching": "true" if options.batching else None,
        "batching_parameters_file": options.batching_file,
        "monitoring_config_file": options.monitoring_file,
    }
    return [binary, *(f"--{name}={value}" for name, value in flags.items() if value is not None)]


def _write_config(options: ServerOptions) -> Path:
    entries = "".join(
        f'  config {{ name: "{model.name}" base_path: "{model.base_path.resolve()}" model_platform: "tensorflow" }}\n'
        for model in options.models
    )
    file = Path(tempfile.mkdtemp(prefix="models-")) / "models.config"
    file.write_text(f"model_config_list {{\n{entries}}}\n", encoding="utf-8")
    return file
