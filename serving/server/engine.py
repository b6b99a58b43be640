"""tensorflow_model_server instead of the embedded server, from the same flags."""

import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.server.config import read_models
from serving.server.errors import StartError
from serving.server.options import API_KEY_VARIABLE, ServerOptions, described

BINARY = "tensorflow_model_server"
_ALWAYS = (
    "port",
    "rest_api_port",
    "enable_grpc_healthcheck_service",
)  # whose defaults differ from the real server's


def run_tensorflow_model_server(options: ServerOptions) -> NoReturn:
    """Turns this process into tensorflow_model_server; raises StartError where that is not on the PATH."""
    words = command(options)
    if shutil.which(BINARY) is None:
        text = f"there is no {BINARY} on the PATH; the embedded engine needs none"
        raise StartError(f"--engine tensorflow: {text}")
    os.execvp(BINARY, words)


def command(options: ServerOptions) -> list[str]:
    """The command line of tensorflow_model_server that serves as `options` say; a bundle becomes a models.config."""
    words = [BINARY]
    for flag in fields(options):
        value = getattr(options, flag.name)
        if flag.name not in _ALWAYS and value == flag.default:
            continue
        _, own = described(flag.name)
        if not own:
            words.append(f"--{flag.name}={str(value).lower() if isinstance(value, bool) else value}")
        elif flag.name not in ("engine", "bundle", "drain_seconds"):
            raise StartError(f"--{flag.name} has no counterpart in {BINARY}")
    if options.api_key():
        raise StartError(f"${API_KEY_VARIABLE} has no counterpart in {BINARY}; unset it")
    if options.bundle:
        words.append(f"--model_config_file={_bundle_config(options)}")
    return words


def _bundle_config(options: ServerOptions) -> Path:
    config = model_server_config_pb2.ModelServerConfig()
    for model in read_models(options):
        model.check()
        path = str(model.base_path.resolve())
        config.model_config_list.config.add(name=model.name, base_path=path, model_platform="tensorflow")
    file = Path(tempfile.mkdtemp(prefix="models-")) / "models.config"
    file.write_text(text_format.MessageToString(config), encoding="utf-8")
    return file
