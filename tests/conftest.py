"""Fixtures for every test folder: a tiny world, a config that trains on it in seconds, and hand-written data.

* `tiny_config`: a `Config` of 3,000 events, 100 users and 300 items; two epochs at dimension 8, blocks of rank 16.
* `tiny_arguments`: the same as `SETTING=VALUE` overrides for `python -m trainer train`.
* `tiny_prepared`: the `Prepared` of `tiny_config`, made once a session: read it, never write into it.
* `make_lists([[1, 2], [3]])`: `Lists` of item rows, one second between the events of a list.
* `make_events([[1, 2], [3]])`: `Events` of one list of item rows a user; list 0 is user row 1.
* `make_prepared([[1, 2, 3], [2, 1, 3]])`: a `Prepared` of one list of item rows a user: the last event is test, the
  one before validation, the rest training. Fields by keyword replace what was made.
* `quiet`: a `Reporter` that prints nothing. `movielens_folder`: MovieLens latest-small, or the test is skipped.

Everything that needs TensorFlow imports it inside, so that tests without it start at once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

from trainer.config import Config, with_settings
from trainer.data.examples import Cases, Events, Lists, Prepared
from trainer.data.interactions import Schema
from trainer.data.vocabulary import Vocabulary

MOVIELENS = Path(__file__).parents[2] / "shared" / "data" / "ml-latest-small"
TRAINED_ONCE = {"parity", "ranking"}
LONGEST = ("presets", "parity", "ranking")  # folders that one process takes whole, or nearly so
TINY: dict[str, Any] = {
    "name": "tiny",
    "data.source.name": "synthetic",
    "data.source.interactions": 3_000,
    "data.source.users": 100,
    "data.source.items": 300,
    "data.history_length": 10,
    "retrieval.embedding_dimension": 8,
    "retrieval.factorisation_rank": 16,
    "ranking.embedding_dimension": 4,
    "ranking.layers": [8],
    "ranking.epochs": 2,
    "ranking.batch_size": 256,
    "ranking.prior_rank": 2,
    "ranking.prior_sweeps": 2,
    "train.epochs": 2,
    "train.batch_size": 256,
    "evaluate.bootstrap": 0,
}


class ByFile(LoadScopeScheduling):
    """Keeps the tests of a file in one of the processes, and those of a folder whose fixtures train a model."""

    def _split_scope(self, nodeid: str) -> str:
        folder, file = Path(nodeid.partition("::")[0]).parts[-2:]
        return folder if folder in TRAINED_ONCE else f"{folder}/{file}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest folders first, so that no process ends long after the others."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Returns how the tests are dealt out to the processes of `make test`."""
    return ByFile(config, log)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return with_settings(Config(), TINY)


@pytest.fixture(scope="session")
def tiny_arguments() -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in TINY.items())


@pytest.fixture(scope="session")
def tiny_prepared(tiny_config: Config) -> Prepared:
    from trainer.data.prepare import load_dataset, prepare

    return prepare(load_dataset(tiny_config.data), tiny_config.data)


@pytest.fixture
def quiet() -> Any:
    from rich.console import Console

    from trainer.progress import Reporter

    return Reporter(Console(quiet=True))


@pytest.fixture(scope="session")
def movielens_folder() -> Path:
    if not MOVIELENS.is_dir():
        pytest.skip("MovieLens latest-small is not in ../shared/data")
    return MOVIELENS


@pytest.fixture(scope="session")
def make_lists() -> Callable[..., Lists]:
    return _lists


@pytest.fixture(scope="session")
def make_events() -> Callable[..., Events]:
    return _events


@pytest.fixture(scope="session")
def make_prepared() -> Callable[..., Prepared]:
    return _prepared


def _lists(rows: Sequence[Sequence[int]], start: int = 0) -> Lists:
    return Lists(
        np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64),
        np.array([item for row in rows for item in row], np.int32),
        np.array([start + second for row in rows for second in range(len(row))], np.int64),
    )


def _events(rows: Sequence[Sequence[int]], first_user: int = 1, start: int = 0) -> Events:
    lists = _lists(rows, start)
    user = np.repeat(np.arange(first_user, first_user + len(rows), dtype=np.int32), lists.lengths)
    rating = (1 + lists.items % 5).astype(np.float32)
    return Events(user, lists.items, lists.timestamps, rating, np.ones(len(user), np.float32))


def _prepared(histories: Sequence[Sequence[int]], items: int | None = None, **fields: Any) -> Prepared:
    items = items or max(max(row) for row in histories)
    train, before = _events([row[:-2] for row in histories]), _events([row[:-1] for row in histories])

    def held_out(place: int) -> Cases:
        ends = [len(row) + place for row in histories]
        moment = np.array(ends, np.int64)
        return Cases(
            user=np.arange(1, len(histories) + 1, dtype=np.int32),
            history=_lists([row[:end] for row, end in zip(histories, ends, strict=True)]),
            positives=dataclasses.replace(_lists([[row[place]] for row in histories]), timestamps=moment),
            timestamp=moment,
        )

    def rated(place: int) -> Events:
        return dataclasses.replace(
            _events([[row[place]] for row in histories]),
            timestamp=np.array([len(row) + place for row in histories], np.int64),
        )

    made = Prepared(
        schema=Schema(),
        users=Vocabulary(tuple(f"u{n}" for n in range(1, len(histories) + 1)), len(histories)),
        items=Vocabulary(tuple(f"i{n}" for n in range(1, items + 1)), items),
        user_features={},
        item_features={},
        titles=("", *(f"Title {n}" for n in range(1, items + 1))),
        train=train,
        validation=held_out(-2),
        test=held_out(-1),
        rated_train=train,
        rated_validation=rated(-2),
        rated_test=rated(-1),
        ordered=True,
        before_test=before,
        everything=_events(histories),
    )
    return dataclasses.replace(made, **fields)
