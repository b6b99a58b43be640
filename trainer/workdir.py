"""A work directory: whose it is, the settings recorded in it, and files that nobody reads half of."""

import fcntl
import io
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.config import Config, load, to_toml
from trainer.errors import UserError
from trainer.memory import Cost

_HELD: dict[
    tuple[int, int], int
] = {}  # device and inode of the work directories of this process, to their descriptors
_NEW = ".new"  # ends the hidden name of what is being written
CONFIG, DATA, BUNDLE = "config.toml", "data.json", "bundle"
LEARNED = ("retrieval", "ranking", "joint", "blend.json", "costs.json", DATA)
MEASURED = (
    *("metrics.json", "metrics-bundle.json", "metrics-server.json"),
    *("leaderboard.json", "leaderboard.md", "figures.npz"),
)


def claim(workdir: Path, config: Config, restart: bool) -> None:
    """Makes `workdir` this experiment's; raises `UserError` where it holds another run, or anything else.

    `restart` throws away what a run learned and measured, and nothing else: what its bundle published stays.
    """
    check_workdir(workdir, config, restart)
    hold(workdir)
    for name in (*LEARNED, *MEASURED) if restart else ():
        path = workdir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    replace(workdir / CONFIG, to_toml(config))


def hold(workdir: Path) -> None:
    """Keeps `workdir` for this process until it ends; raises `UserError` where another one has it, or it cannot be made."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"could not make {workdir}: {error.strerror}") from error
    entry = os.fstat(descriptor)
    if (entry.st_dev, entry.st_ino) in _HELD:
        os.close(descriptor)
        return
    _HELD[entry.st_dev, entry.st_ino] = descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(_HELD.pop((entry.st_dev, entry.st_ino)))
        raise UserError(
            f"another process is at work in {workdir}: wait until it is done, or give another --workdir"
        ) from None
    except OSError:
        pass  # some network file systems have no such locks


def check_workdir(workdir: Path, config: Config, restart: bool) -> None:
    """Raises `UserError` where `workdir` holds anything but this run; `restart` forgives another one.

    A run that ended before its first epoch left its settings alone: nothing is lost with them.
    """
    recorded = workdir / CONFIG
    if recorded.exists():
        try:
            earlier = load(None, recorded)
        except UserError as error:
            raise UserError(f"{recorded}: {error}") from None
        changed = [
            name
            for name in ("data", "retrieval", "ranking", "train")
            if getattr(earlier, name) != getattr(config, name)
        ]
        if changed and _begun(workdir) and not restart:
            raise UserError(
                f"{workdir} holds another run ({earlier.name}; its settings differ in {', '.join(changed)}): "
                "give another --workdir, or --restart to throw that run away"
            )
    elif workdir.exists() and (not workdir.is_dir() or any(_inside(workdir))):
        raise UserError(f"{workdir} is not empty and holds no run; give another --workdir")


def same_data(workdir: Path, fingerprint: str) -> None:
    """Records the data set's fingerprint; raises `UserError` where `workdir` was begun on other data.

    The rows of a vocabulary are those of the data: weights of other data would be read as other ids'.
    """
    recorded = workdir / DATA
    if recorded.exists() and _begun(workdir):
        if json.loads(recorded.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
            raise UserError(
                f"the data is not what {workdir} was begun with: give another --workdir, or train with --restart "
                "(what its bundle published stays)"
            )
        return
    replace(recorded, json.dumps({"fingerprint": fingerprint}) + "\n")


def _begun(workdir: Path) -> bool:
    return any(name not in (CONFIG, DATA, BUNDLE) for name in _inside(workdir))


def _inside(workdir: Path) -> list[str]:
    """Returns the names in a work directory, without what was being written when it was killed."""
    names = [path.name for path in workdir.iterdir()]
    return [name for name in names if not (name.startswith(".") and name.endswith(_NEW))]


def keep(path: Path, costs: dict[str, Cost]) -> dict[str, Cost]:
    """Returns the costs that `path` records, or records these: loading a trained model must not replace what training it cost."""
    if path.exists():
        return {task: Cost(**cost) for task, cost in json.loads(path.read_text(encoding="utf-8")).items()}
    replace(path, json.dumps({task: asdict(cost) for task, cost in costs.items()}) + "\n")
    return costs


def write_json(path: Path, value: object) -> None:
    """Writes a value beside and renames it."""
    replace(path, json.dumps(value, indent=2) + "\n")


def save_picture(path: Path, figure: Any) -> None:
    """Writes a figure of matplotlib beside and renames it."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130)
    replace(path, drawn.getvalue())


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file beside and renames it, so that nobody reads half of it; raises `UserError` where it cannot."""
    beside = path.with_name(f".{path.name}{_NEW}")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UserError(f"could not write {path}: {error.strerror}") from error
