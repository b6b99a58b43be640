"""A hand-written table of twenty users, and a way to call the command line and see all that it says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer.__main__ import main


@dataclass(frozen=True)
class Answer:
    """What one command came to."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Returns the one line of error; fails where there is none, several, or a stack trace."""
        assert "Traceback" not in self.err + self.out
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        assert self.code != 0
        return lines[0].removeprefix("error: ")


@pytest.fixture
def trainer(capsys, tmp_path, monkeypatch) -> Callable[..., Answer]:
    """Runs `python -m trainer` with some words, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Answer:
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


HEADER = "user_id,item_id,timestamp,rating"
ROWS = tuple(
    f"u{user},i{(user * 3 + event * event) % 17},{1_600_000_000 + 1_000 * event + user},{1 + (user + event) % 5}"
    for user in range(20)
    for event in range(6)
)


@pytest.fixture
def rows() -> tuple[str, ...]:
    return ROWS


@pytest.fixture
def table(tmp_path) -> Callable[..., Path]:
    """Writes a table of some lines and returns its path."""

    def write(*lines: str, header: str = HEADER, name: str = "events.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def train(trainer, tmp_path) -> Callable[..., Answer]:
    """Trains on a table into `tmp_path / "run"`, as small as can be."""
    small = ("train.epochs=1", "retrieval.embedding_dimension=4", "retrieval.factorisation_rank=4")
    small += ("ranking.enabled=false", "evaluate.bootstrap=0")

    def call(path: Path, *words: str, allow: bool = True) -> Answer:
        source = ("data.source.name=table", f"data.source.path={path}")
        run = ("--workdir", str(tmp_path / "run"), *(["--allow-below-baseline"] if allow else []))
        return trainer("train", *run, *source, *small, *words)

    return call
