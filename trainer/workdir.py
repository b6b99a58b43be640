"""A work directory: whose it is, the settings recorded in it, and files that nobody reads half of."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from trainer.config import Config, load, to_toml
from trainer.errors import UserError
from trainer.memory import Cost

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
    for name in (*LEARNED, *MEASURED) if restart else ():
        path = workdir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    workdir.mkdir(parents=True, exist_ok=True)
    replace(workdir / CONFIG, to_toml(config))


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
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
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
    return any(path.name not in (CONFIG, DATA, BUNDLE) for path in workdir.iterdir())


def keep(path: Path, costs: dict[str, Cost]) -> dict[str, Cost]:
    """Returns the costs that `path` records, or records these: loading a trained model must not replace what training it cost."""
    if path.exists():
        return {task: Cost(**cost) for task, cost in json.loads(path.read_text(encoding="utf-8")).items()}
    replace(path, json.dumps({task: asdict(cost) for task, cost in costs.items()}) + "\n")
    return costs


def write_json(path: Path, value: object) -> None:
    """Writes a value beside and renames it."""
    replace(path, json.dumps(value, indent=2) + "\n")


def replace(path: Path, text: str) -> None:
    """Writes a file beside and renames it, so that nobody reads half of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
