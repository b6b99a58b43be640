"""What the configuration files say, read by the official text formats."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.errors import StartError
from serving.server.options import ServerOptions

# The two messages that the tensorflow-serving-api package leaves out, as a file descriptor.
_MESSAGE = "label: LABEL_OPTIONAL type_name:"
_INT64 = f'{_MESSAGE} ".google.protobuf.Int64Value"'
_PROTO = f"""
name: "serving.proto" package: "serving" syntax: "proto3" dependency: "google/protobuf/wrappers.proto"
message_type {{ name: "BatchingParameters"
  field {{ name: "max_batch_size" number: 1 {_INT64} }}
  field {{ name: "batch_timeout_micros" number: 2 {_INT64} }}
  field {{ name: "max_enqueued_batches" number: 3 {_INT64} }}
  field {{ name: "num_batch_threads" number: 4 {_INT64} }}
  field {{ name: "thread_pool_name" number: 5 {_MESSAGE} ".google.protobuf.StringValue" }}
  field {{ name: "allowed_batch_sizes" number: 6 label: LABEL_REPEATED type: TYPE_INT64 }}
  field {{ name: "pad_variable_length_inputs" number: 7 label: LABEL_OPTIONAL type: TYPE_BOOL }}
  field {{ name: "enable_large_batch_splitting" number: 8 {_MESSAGE} ".google.protobuf.BoolValue" }}
  field {{ name: "max_execution_batch_size" number: 9 {_INT64} }} }}
message_type {{ name: "PrometheusConfig"
  field {{ name: "enable" number: 1 label: LABEL_OPTIONAL type: TYPE_BOOL }}
  field {{ name: "path" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }} }}
message_type {{ name: "MonitoringConfig"
  field {{ name: "prometheus_config" number: 1 {_MESSAGE} ".serving.PrometheusConfig" }} }}
"""
BUNDLE_FORMAT = 1
LARGEST_VERSION = 2**63 - 1
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class ModelConfig:
    """One model: where its versions lie, which of them to load, and the labels that name some of them."""

    name: str
    base_path: Path
    policy: Any = field(default_factory=lambda: model_server_config_pb2.ModelConfig().model_version_policy)
    labels: Mapping[str, int] = field(default_factory=dict)
    bundle: Path | None = None  # all versions lie in it

    def __post_init__(self) -> None:
        if not self.base_path.is_absolute():  # it means the same wherever the server starts
            text = f"to have an absolute path or URI; got base_path()={self.base_path}"
            raise StartError(f"Expected model {self.name} {text}")

    def versions(self) -> dict[int, Path]:
        """The version directories by number; a name that is not a number of 64 bits, such as `.tmp-3`, is not one."""
        if not self.base_path.is_dir():
            raise StartError(f"model {self.name!r}: there is no directory {self.base_path}")
        children = (path for path in self.base_path.iterdir() if re.fullmatch("[0-9]+", path.name))
        numbered = {int(path.name): path for path in children if path.is_dir()}
        found = {number: path for number, path in numbered.items() if number <= LARGEST_VERSION}
        for path in (self.base_path, *found.values()):
            if self.bundle and not (real := path.resolve()).is_relative_to(self.bundle.resolve()):
                raise StartError(f"--bundle {self.bundle}: {path} leads out of the bundle, to {real}")
        return found

    def aspired(self) -> dict[int, Path]:
        """Those of `versions()` that the policy wants loaded: the latest one unless it says otherwise."""
        found = self.versions()
        choice = self.policy.WhichOneof("policy_choice") or "latest"
        if choice == "specific":
            return {number: found[number] for number in self.policy.specific.versions if number in found}
        count = len(found) if choice == "all" else max(1, self.policy.latest.num_versions)
        return {number: found[number] for number in sorted(found, reverse=True)[:count]}

    def check(self) -> None:
        """Raises StartError where there is nothing to load: no version, or none that was ever finished."""
        aspired = self.aspired().values()
        if not aspired:
            raise StartError(f"model {self.name!r}: there is no version to serve in {self.base_path}")
        if not any(
            (path / f"saved_model.{ending}").is_file() for path in aspired for ending in ("pb", "pbtxt")
        ):
            text = f"{max(aspired)} has no saved_model.pb; its export never finished"
            raise StartError(f"model {self.name!r}: {text}")


@dataclass(frozen=True)
class Batching:
    """How concurrent requests are merged: rows, microseconds, batches and threads.

    A request has up to `max_batch_size` rows, and a run too, unless requests are split: then up to `max_execution_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    max_execution_batch_size: int | None = None  # None: requests are not split

    @property
    def most_rows(self) -> int:
        """The rows of the largest run."""
        return self.max_execution_batch_size or self.max_batch_size


def read_models(options: ServerOptions) -> list[ModelConfig] | None:
    """The models that `options` name, by --bundle, --model_config_file or --model_base_path.

    As in the real server a configuration file takes the place of --model_name and --model_base_path. None is for a file
    without a list, which a server may start from, but which changes nothing later.
    """
    if options.bundle:
        if options.model_config_file or options.model_base_path:
            text = "--bundle names its models itself: leave --model_config_file and --model_base_path out"
            raise StartError(text)
        return _bundled(options.bundle)
    if options.model_config_file:
        return _configured(options.model_config_file)
    if options.model_base_path is None:
        raise StartError("nothing to serve: give --bundle, --model_config_file or --model_base_path")
    return [ModelConfig(options.model_name, options.model_base_path)]


def _bundled(bundle: Path) -> list[ModelConfig]:
    try:
        version = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["format"]
    except FileNotFoundError:
        inside = bundle / "bundle"
        hint = f"; {inside} is one" if (inside / "manifest.json").is_file() else ""
        text = f"--bundle {bundle}: no manifest.json; it is no bundle, or its export never finished{hint}"
        raise StartError(text) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise StartError(f"--bundle {bundle}: manifest.json is not a bundle's manifest") from None
    if version != BUNDLE_FORMAT:
        raise StartError(f"--bundle {bundle} has format {version}; this server reads format {BUNDLE_FORMAT}")
    folders = sorted(path for path in (bundle / "models").glob("[!.]*") if path.is_dir())
    if not folders:
        raise StartError(f"--bundle {bundle}: no model in {bundle / 'models'}")
    return [ModelConfig(folder.name, folder.absolute(), bundle=bundle) for folder in folders]


def _configured(file: Path) -> list[ModelConfig] | None:
    config = _read(file, model_server_config_pb2.ModelServerConfig())
    kind, listed = config.WhichOneof("config"), config.model_config_list.config
    if kind is None:
        return None
    if kind != "model_config_list":
        raise StartError(f"{file}: {kind} is not supported")
    names = [model.name for model in listed]
    for model in listed:
        if names.count(model.name) > 1:
            raise StartError(f"{file}: Illegal to list model {model.name} multiple times in config list")
        if model.model_type and model.model_platform:
            raise StartError(
                f"{file}: Illegal setting both of model_type and model_platform of model {model.name!r}"
            )
        old = model.model_type == model_server_config_pb2.TENSORFLOW and not model.model_platform
        if model.model_platform != "tensorflow" and not old:
            raise StartError(
                f"{file}: model {model.name!r} is for the platform {model.model_platform!r}; "
                'it must say model_platform: "tensorflow"'
            )
        if model.HasField("logging_config"):
            raise StartError(f"{file}: model {model.name!r}: logging_config is not supported")
    return [
        ModelConfig(model.name, Path(model.base_path), model.model_version_policy, dict(model.version_labels))
        for model in listed
    ]


def read_batching(options: ServerOptions) -> Batching | None:
    """The batching parameters, or None where batching is off."""
    if not options.enable_batching:
        return None
    if options.batching_parameters_file is None:
        return Batching()
    parameters = _read(options.batching_parameters_file, message("BatchingParameters"))
    numbers = ["max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"]
    if parameters.enable_large_batch_splitting.value:  # else the size of a run is passed over
        numbers.append("max_execution_batch_size")
    wanted = {name: getattr(parameters, name).value for name in numbers if parameters.HasField(name)}
    for name, value in wanted.items():
        if value < (name != "batch_timeout_micros"):
            raise StartError(f"{options.batching_parameters_file}: {name} is {value}, which is too low")
    batching = Batching(
        **wanted,
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
    )
    if parameters.enable_large_batch_splitting.value:
        batching = replace(batching, max_execution_batch_size=batching.most_rows)
    if batching.most_rows > batching.max_batch_size:
        raise StartError(
            f"{options.batching_parameters_file}: max_execution_batch_size must be up to max_batch_size"
        )
    sizes: Sequence[int] = batching.allowed_batch_sizes
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != batching.most_rows):
        limit = "max_batch_size" if batching.max_execution_batch_size is None else "max_execution_batch_size"
        raise StartError(f"{options.batching_parameters_file}: allowed_batch_sizes must rise, up to {limit}")
    return batching


def read_monitoring(options: ServerOptions) -> str | None:
    """The path that serves the metrics, or None where no file turns them on."""
    if options.monitoring_config_file is None:
        return None
    prometheus = _read(options.monitoring_config_file, message("MonitoringConfig")).prometheus_config
    return (prometheus.path or PROMETHEUS_PATH) if prometheus.enable else None


def _read(file: Path, into: Any) -> Any:
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), into)
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise StartError(f"{file} is not a text {into.DESCRIPTOR.name}: {error}") from error


def message(name: str) -> Any:
    """An empty `BatchingParameters` or `MonitoringConfig`, for the text format to fill in."""
    file = text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}"))()
