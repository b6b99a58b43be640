"""Which versions are served: looks at the base paths, loads the new before it drops the old, and knows every state."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from serving.server.errors import StartError, invalid, not_found
from serving.server.options import ModelOptions
from serving.server.servable import Servable, warm_up

logger = logging.getLogger("serving.server")

START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"


@dataclass
class State:
    """The state of one version, as `GetModelStatus` reports it."""

    state: str
    code: str = "OK"
    message: str = ""


@dataclass
class Model:
    """A model under management."""

    options: ModelOptions
    loaded: dict[int, Servable] = field(default_factory=dict)
    states: dict[int, State] = field(default_factory=dict)
    failed: dict[int, float] = field(default_factory=dict)  # version -> modification time of what would not load


class Manager:
    """Loads, swaps and unloads versions; `get` never waits for any of it."""

    def __init__(self, models: tuple[ModelOptions, ...], load: Callable[[str, int, Path], Servable] = Servable) -> None:
        self._models = {options.name: Model(options) for options in models}
        self._load = load
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, poll_seconds: float) -> None:
        """Loads every model, then polls; raises `StartError` where a model has no version that loads."""
        for model in self._models.values():
            self._check(model)
            if not model.loaded:
                raise StartError(_why_not(model))
        if poll_seconds > 0:
            self._thread = threading.Thread(target=self._poll, args=(poll_seconds,), daemon=True, name="versions")
            self._thread.start()

    def stop(self) -> None:
        """Ends the polling."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """Returns the servable that a request means: a version, a label's, else the latest one available."""
        model = self._models.get(name)
        if label is not None:
            versions = dict(model.options.labels) if model else {}
            if label not in versions:
                raise invalid(f"Unrecognized servable version label: {label}")
            version = versions[label]
        loaded = model.loaded if model else {}
        if version is None:
            if not loaded:
                raise not_found(f"Servable not found for request: Latest({name})")
            return loaded[max(loaded)]
        if version not in loaded:
            raise not_found(f"Servable not found for request: Specific({name}, {version})")
        return loaded[version]

    def status(self, name: str, version: int | None = None, label: str | None = None) -> list[tuple[int, State]]:
        """Returns the states of a model's versions, the newest first; raises where there is none to report."""
        model = self._models.get(name)
        if model is not None and label is not None:
            version = dict(model.options.labels).get(label)
            if version is None:
                raise invalid(f"Unrecognized servable version label: {label}")
        states = dict(model.states) if model else {}
        if version is not None:
            if version not in states:
                raise not_found(f"Could not find version {version} of model {name}")
            return [(version, states[version])]
        if not states:
            raise not_found(f"Could not find any versions of model {name}")
        return sorted(states.items(), reverse=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the models."""
        return tuple(self._models)

    def _poll(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            for model in self._models.values():
                try:
                    self._check(model)
                except OSError as error:
                    logger.warning("model %s: %s", model.options.name, error)

    def _check(self, model: Model) -> None:
        found = versions_in(model.options.base_path)
        wanted = _wanted(model.options, found)
        if not wanted:
            if model.loaded:
                return  # everything vanished: what is loaded goes on serving, as the real server's does
            raise StartError(_why_not(model))
        for version in sorted(wanted - set(model.loaded)):
            self._try(model, version, found[version])
        if wanted & set(model.loaded):
            for version in sorted(set(model.loaded) - wanted):
                model.states[version] = State(UNLOADING)
                model.loaded = {number: one for number, one in model.loaded.items() if number != version}
                model.states[version] = State(END)
                logger.info("model %s: version %d is unloaded", model.options.name, version)

    def _try(self, model: Model, version: int, directory: Path) -> None:
        changed = max((path.stat().st_mtime for path in (directory, *directory.glob("saved_model.*"))), default=0.0)
        if model.failed.get(version) == changed:
            return
        model.states[version] = State(LOADING)
        try:
            servable = self._load(model.options.name, version, directory)
            warm_up(servable, directory)
        except Exception as error:  # whatever a broken version does, the others keep serving
            model.failed[version] = changed
            model.states[version] = State(END, "UNKNOWN", str(error).splitlines()[0] if str(error) else type(error).__name__)
            logger.error("model %s: version %d does not load: %s", model.options.name, version, error)
            return
        model.failed.pop(version, None)
        model.loaded = {**model.loaded, version: servable}
        model.states[version] = State(AVAILABLE)
        logger.info("model %s: version %d is available", model.options.name, version)


def versions_in(base_path: Path) -> dict[int, Path]:
    """Returns the directories with whole numbers for names; others are ignored, as the real server does."""
    try:
        return {int(path.name): path for path in base_path.iterdir() if path.name.isdecimal() and path.is_dir()}
    except OSError as error:
        raise StartError(f"model base path {base_path}: {error.strerror}") from None


def _wanted(options: ModelOptions, found: dict[int, Path]) -> set[int]:
    if options.policy == "all":
        return set(found)
    if options.policy == "specific":
        return set(found) & set(options.specific)
    return set(sorted(found)[-options.latest :])


def _why_not(model: Model) -> str:
    options = model.options
    failures = [f"version {number}: {state.message}" for number, state in model.states.items() if state.code != "OK"]
    if failures:
        return f"model {options.name}: no version below {options.base_path} loads; {'; '.join(failures)}"
    return f"model {options.name}: no servable version below {options.base_path}; a version is a directory with a number for a name"
