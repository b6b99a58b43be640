"""The bundle: SavedModel versions in TensorFlow Serving's layout, with a manifest, settings, metrics and vocabularies.

Everything is written into a hidden sibling first and renamed into place, so a reader sees a whole version or none.
"""

import fcntl
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer.config import Config, to_toml
from trainer.data.examples import Prepared
from trainer.errors import UserError
from trainer.export import warmup
from trainer.export.serving_model import ServingModel

FORMAT = 1  # of the bundle; a reader refuses any other
DIALS = {"diversity": 0.3, "popularity": 0.1}  # in the example requests
LIBRARIES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "numpy")


def export(
    serving: ServingModel,
    prepared: Prepared,
    config: Config,
    metrics: Mapping[str, Any],
    fingerprint: str,
    bundle: Path,
) -> Path:
    """Publishes a new version of the model into `bundle` and returns the version's directory.

    Raises `UserError` where the bundle cannot be written; the versions already there stay as they are.
    """
    home = bundle / "models" / config.export.model_name
    with _staging(bundle) as staging:
        home.mkdir(parents=True, exist_ok=True)
        version = max(versions(home), default=0) + 1
        _write_model(serving, config, staging / "model")
        manifest = _manifest(serving, prepared, config, fingerprint, version)
        manifest["cascade"] |= metrics.get("cascade", {})  # what was measured of its stages
        _write_sides(staging, manifest, prepared, config, metrics)
        extra = staging / "model" / "assets.extra"
        extra.mkdir(exist_ok=True)
        shutil.copy(staging / "manifest.json", extra / "manifest.json")
        warmup.write(extra / warmup.NAME, config.export.model_name, manifest["signatures"])
        (staging / "model").rename(home / str(version))
        for side in ("vocabularies.json", "metrics.json", "config.toml", "manifest.json"):
            (staging / side).replace(bundle / side)
        for old in sorted(versions(home))[: -config.export.keep_versions]:
            shutil.rmtree(home / str(old))
    return home / str(version)


@contextmanager
def _staging(bundle: Path) -> Iterator[Path]:
    """Yields a hidden folder of the bundle to write in, to one export at a time: another one waits."""
    staging = bundle / ".staging"
    try:
        bundle.mkdir(parents=True, exist_ok=True)
        turn = os.open(bundle, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems have no such locks
                fcntl.flock(turn, fcntl.LOCK_EX)
            shutil.rmtree(staging, ignore_errors=True)  # a killed export left it
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(turn)
    except (OSError, tf.errors.OpError) as error:  # TensorFlow tells of a full disk in a type of its own
        raise UserError(
            f"could not write the bundle {bundle}: {error}; the versions there are as they were"
        ) from error


def versions(home: Path) -> list[int]:
    """Returns the version numbers in a model's base path; other names are ignored, as TensorFlow Serving does."""
    return [int(path.name) for path in home.iterdir() if path.is_dir() and path.name.isdecimal()]


def _write_model(serving: ServingModel, config: Config, directory: Path) -> None:
    spaces = ["Scann"] if config.export.index.name == "scann" else []
    options = tf.saved_model.SaveOptions(namespace_whitelist=spaces)
    tf.saved_model.save(serving, str(directory), signatures=serving.signatures, options=options)


def _write_sides(
    staging: Path, manifest: Mapping[str, Any], prepared: Prepared, config: Config, metrics: Mapping[str, Any]
) -> None:
    vocabularies = {
        "users": prepared.users.values,
        "items": prepared.items.values,
        "titles": prepared.titles[1:],
    }
    (staging / "vocabularies.json").write_text(json.dumps(vocabularies, ensure_ascii=False), encoding="utf-8")
    (staging / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (staging / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (staging / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _manifest(
    serving: ServingModel, prepared: Prepared, config: Config, fingerprint: str, version: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": config.export.model_name,
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "experiment": config.name,
        "data_fingerprint": fingerprint,
        "users": prepared.users.trained,
        "items": len(prepared.items) - 1,
        "dimension": serving.index.vectors.dimension,
        "index": config.export.index.model_dump() | serving.index.describe(),
        "category": serving.filters,
        "cascade": config.export.cascade.model_dump(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "left_out": dict(serving.left_out),
        "signatures": {name: _signature(function, prepared) for name, function in serving.signatures.items()},
    }


def _signature(function: Any, prepared: Prepared) -> dict[str, Any]:
    positional, named = function.structured_input_signature
    inputs = {spec.name: spec for spec in (*positional, *named.values())}
    outputs = function.structured_outputs
    return {
        "inputs": {name: _spec(spec) for name, spec in inputs.items()},
        "outputs": {name: _spec(spec) for name, spec in outputs.items()},
        "example": {name: _example(name, spec, prepared) for name, spec in inputs.items()},
    }


def _spec(spec: tf.TensorSpec) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": [size if size is not None else -1 for size in spec.shape]}


def _example(name: str, spec: tf.TensorSpec, prepared: Prepared) -> Any:
    if name == "k":
        return [3]
    if spec.dtype != tf.string:
        number = DIALS.get(name, 0.0)
        return [number if len(spec.shape) == 1 else [number] * (spec.shape[1] or 1)]
    value = {
        "user_id": prepared.users.values[0],
        "item_id": prepared.items.values[0],
        "history": prepared.items.values[0],
        "exclude": prepared.items.values[-1],
    }.get(name, "")
    return [value] if len(spec.shape) == 1 else [[value]]
