"""The real server's configuration files, read with its own protos."""

from pathlib import Path
from typing import Any

from google.protobuf import text_format

from serving.server.errors import StartError
from serving.server.options import ModelOptions


def read_text_proto(path: Path, message: Any, flag: str) -> Any:
    """Returns the message that a text proto file holds; raises `StartError` naming the flag and the line."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except OSError as error:
        raise StartError(f"{flag} {path}: {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise StartError(f"{flag} {path}: {error}") from None


def read_model_config(path: Path) -> tuple[ModelOptions, ...]:
    """Returns the models of a ModelServerConfig file."""
    from tensorflow_serving.config import model_server_config_pb2

    config = read_text_proto(path, model_server_config_pb2.ModelServerConfig(), "--model_config_file")
    if config.WhichOneof("config") != "model_config_list" or not config.model_config_list.config:
        raise StartError(f"--model_config_file {path} lists no model (model_config_list)")
    models = tuple(_model(one, path) for one in config.model_config_list.config)
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise StartError(f"--model_config_file {path}: duplicate model names in {', '.join(names)}")
    return models


def _model(config: Any, path: Path) -> ModelOptions:
    if not config.name or not config.base_path:
        raise StartError(f"--model_config_file {path}: every model needs a name and a base_path")
    if config.model_platform not in ("", "tensorflow"):
        raise StartError(f"--model_config_file {path}: model_platform {config.model_platform!r} is not served; only tensorflow is")
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice") or "latest"
    labels = tuple(sorted(config.version_labels.items()))
    return ModelOptions(
        config.name,
        Path(config.base_path),
        kind,
        max(policy.latest.num_versions, 1),
        tuple(policy.specific.versions),
        labels,
    )
