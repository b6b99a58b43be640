"""Which versions are loaded: polled from disk, the new one loaded before the old one goes."""

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.server.config import ModelConfig, read_models
from serving.server.errors import Code, RequestError, StartError, invalid
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions

if TYPE_CHECKING:
    from serving.server.servable import Servable

logger = logging.getLogger("serving.server")
Load = Callable[[str, int, Path], "Servable"]


@dataclass
class Version:
    """One version of a model: its state, in TensorFlow Serving's words, and what went wrong with it if anything."""

    number: int
    path: Path
    state: str = "START"
    code: Code = Code.OK
    message: str = ""
    servable: "Servable | None" = None
    attempts: int = 0
    retry_at: float = 0.0
    files: object = None

    def due(self, files: object, retries: int) -> bool:
        """Whether to load it now: it is new, its files have changed, or the time for another attempt has come."""
        again = self.attempts <= retries and time.monotonic() >= self.retry_at
        return not self.code or files != self.files or again


class Manager:
    """The models of a server. `poll` brings them in line with the disk, `get` hands one out for a request.

    A version that does not load is reported as ENDed with its error at once, where the real server shows LOADING until the
    retries are used up, for minutes and without the error. It is tried again all the same, and the version before it keeps
    serving. A version that is dropped closes when the last request that holds it is done.
    """

    def __init__(
        self, configs: Sequence[ModelConfig], options: ServerOptions, load: Load, metrics: Metrics
    ) -> None:
        self._options, self._load, self._metrics = options, load, metrics
        self._configs = {config.name: config for config in configs}
        self._versions: dict[str, dict[int, Version]] = {}
        self._aspired: dict[str, dict[int, Path]] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._stopped, self._turn = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Loads what is there and keeps watching; raises StartError for a model with nothing that loads."""
        with self._turn:
            self.configure(list(self._configs.values()))
        for name, versions in self._versions.items():
            if not any(version.servable for version in versions.values()):
                worst = versions[max(versions)]
                raise StartError(f"model {name!r}: {worst.path} does not load: {worst.message}")
        self._repeat(self.poll, self._options.file_system_poll_wait_seconds)
        self._repeat(self._reread, self._options.model_config_file_poll_wait_seconds)

    def stop(self) -> None:
        """Ends the watching; what is loaded stays so."""
        self._stopped.set()

    def get(self, name: str, version: int | None = None, label: str | None = None) -> "Servable":
        """The version of a model that a request asks for, the highest one by default."""
        if not name:
            raise invalid("ModelSpec has no name specified.")
        version = self._number(name, version, label)
        found = dict(self._versions.get(name, {}))
        for number in sorted(found, reverse=True):
            servable = found[number].servable
            if servable is not None and version in (None, number):
                return servable
        request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise RequestError(Code.NOT_FOUND, f"Servable not found for request: {request}")

    def status(self, name: str, version: int | None = None, label: str | None = None) -> list[Version]:
        """The versions of a model, the highest first, or the one asked for."""
        found = dict(self._versions.get(name, {}))
        if not found and version is None:
            raise RequestError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        version = self._number(name, version, label)
        if version is not None and version not in found:
            raise RequestError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        return [found[number] for number in sorted(found, reverse=True) if version in (None, number)]

    def known(self, name: str) -> str:
        """`name` if it is a model of this server, else "": callers must not fill the metrics with names of their own."""
        return name if name in self._configs else ""

    def poll(self) -> None:
        """One round: looks what there is, loads what is new, then drops what is no longer wanted."""
        for name in list(self._versions):
            config = self._configs.get(name)
            try:
                self._aspired[name] = config.aspired() if config else {}
            except (StartError, OSError) as error:
                logger.warning("%s", error)  # the versions in memory keep serving
        self._settle()

    def _settle(self) -> None:
        for name, aspired in self._aspired.items():
            for number in sorted(aspired):
                self._bring_up(name, number, aspired[number])
            self._take_down(name, set(aspired))

    def _reread(self) -> None:
        configs = read_models(self._options)
        if configs is not None:
            self.configure(configs)

    def _repeat(self, work: Callable[[], None], seconds: int) -> None:
        """Does `work` every so many seconds in a thread of its own; 0 is never."""

        def watch() -> None:
            while not self._stopped.wait(seconds):
                self._in_turn(work)

        if seconds:
            threading.Thread(target=watch, name="poll", daemon=True).start()

    def _in_turn(self, work: Callable[[], None]) -> None:
        try:
            with self._turn:
                work()
        except Exception as error:  # whatever one round meets, the next one is due
            logger.warning("%s", error)

    def configure(self, configs: Sequence[ModelConfig]) -> None:
        """Moves the labels, takes over models and policies, and loads what these ask for: all of it or nothing.

        A label must name a version that is loaded already, before the change. Kinder than the real server in one thing: at
        start it may also name one that loads now.
        """
        starting = not self._versions
        for config in configs:
            config.versions()
        if not starting:
            self._check_labels(configs)
        self._labels = {config.name: config.labels for config in configs}
        self._configs = {config.name: config for config in configs}
        for name in self._configs:
            self._versions.setdefault(name, {})
        self.poll()
        if starting:
            self._check_labels(configs)

    def _check_labels(self, configs: Sequence[ModelConfig]) -> None:
        for config in configs:
            for label, number in config.labels.items():
                known = self._versions.get(config.name, {}).get(number)
                fresh = self._labels.get(config.name, {}).get(label, number) == number
                allowed = fresh and self._options.allow_version_labels_for_unavailable_models
                if not allowed and (known is None or known.servable is None):
                    hint = " (--allow_version_labels_for_unavailable_models allows it)" if fresh else ""
                    raise StartError(
                        f"Request to assign label to version {number} of model {config.name}, which is not "
                        f"currently available for inference{hint}"
                    )

    def _bring_up(self, name: str, number: int, path: Path) -> None:
        version = self._versions[name].get(number) or Version(number, path)
        if version.servable is not None:
            return
        files = _fingerprint(path)
        if not version.due(files, self._options.max_num_load_retries):
            return
        version.attempts = version.attempts + 1 if files == version.files else 1
        version.path, version.files, version.state = path, files, "LOADING"
        self._versions[name][number] = version
        started = time.perf_counter()
        try:
            version.servable = self._load(name, number, path)
        except Exception as error:
            self._metrics.count("cc:saved_model:load_attempt_count", model_path=str(path), status="fail")
            reason = RequestError.of(error)
            version.state, version.code, version.message = "END", reason.code, reason.message
            logger.warning("%s version %d does not load: %s", name, number, reason.message)
            if version.attempts > self._options.max_num_load_retries:
                return
            wait = max(0, self._options.load_retry_interval_micros / 1e6)
            version.retry_at = time.monotonic() + wait
            retry = threading.Timer(wait, self._in_turn, [self._settle])
            retry.daemon = True
            retry.start()
            return
        version.state, version.code, version.message = "AVAILABLE", Code.OK, ""
        took = (time.perf_counter() - started) * 1e6
        self._metrics.count("cc:saved_model:load_attempt_count", model_path=str(path), status="success")
        self._metrics.count("cc:saved_model:load_latency", int(took), model_path=str(path))
        logger.info("loaded %s version %d in %.1f s", name, number, took / 1e6)

    def _take_down(self, name: str, aspired: set[int]) -> None:
        versions = self._versions[name]
        if aspired and not any(versions[number].servable for number in aspired):
            return
        for number, version in versions.items():
            if number in aspired:
                continue
            version.files = None  # should it come back, it is loaded anew
            if version.servable is not None:
                version.servable, version.state = None, "END"
                logger.info("unloaded %s version %d", name, number)
                gc.collect()  # a graph is full of cycles, and holds its constants

    def _number(self, name: str, version: int | None, label: str | None) -> int | None:
        if label is None:
            return version
        try:
            return self._labels[name][label]
        except KeyError:
            raise invalid(f"Unrecognized servable version label: {label}") from None


def _fingerprint(path: Path) -> list[tuple[str, int, int]]:
    """The files of a version with their sizes and times: one that failed is worth a try when they change."""
    found = []
    with contextlib.suppress(OSError):  # a file may go away meanwhile
        for entry in path.rglob("*"):
            status = entry.stat()
            found.append((str(entry), status.st_size, status.st_mtime_ns))
    return sorted(found)
