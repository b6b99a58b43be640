"""A work directory: whose it is, the settings recorded in it, and files that nobody reads half of."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from trainer.config import Config, load, to_toml
from trainer.errors import UserError
from trainer.memory import Cost


def claim(workdir: Path, config: Config, restart: bool) -> None:
    """Makes `workdir` this experiment's; raises `UserError` where it holds another run, or anything else."""
    check_workdir(workdir, config, restart)
    if restart and workdir.exists():
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    replace(workdir / "config.toml", to_toml(config))


def check_workdir(workdir: Path, config: Config, restart: bool) -> None:
    """Raises `UserError` where `workdir` holds anything but this run; `restart` forgives another one.

    A run that ended before its first epoch left its settings alone: nothing is lost with them.
    """
    recorded = workdir / "config.toml"
    if recorded.exists():
        earlier = load(None, recorded)
        changed = [
            name
            for name in ("data", "retrieval", "ranking", "train")
            if getattr(earlier, name) != getattr(config, name)
        ]
        begun = any(path != recorded for path in workdir.iterdir())
        if changed and begun and not restart:
            raise UserError(
                f"{workdir} holds another run ({earlier.name}; its settings differ in {', '.join(changed)}): "
                "give another --workdir, or --restart to throw that run away"
            )
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is not empty and holds no run; give another --workdir")


def keep(path: Path, costs: dict[str, Cost]) -> dict[str, Cost]:
    """Returns what training cost, as `path` recorded it when it was done: to load the models again costs nothing."""
    if path.exists():
        return {task: Cost(**cost) for task, cost in json.loads(path.read_text(encoding="utf-8")).items()}
    replace(path, json.dumps({task: asdict(cost) for task, cost in costs.items()}) + "\n")
    return costs


def replace(path: Path, text: str) -> None:
    """Writes a file beside and renames it, so that nobody reads half of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
