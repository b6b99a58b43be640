"""A hand-made world of 4 users and 6 items, and scorers whose answers are known."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from trainer.data.examples import Cases, Events, Lists, Prepared
from trainer.data.interactions import Feature, Schema
from trainer.data.vocabulary import Vocabulary

ITEMS = 6


def lists(rows: Sequence[Sequence[int]], start: int = 0) -> Lists:
    """Returns lists whose events are one second apart, from second `start` in each."""
    lengths = [len(row) for row in rows]
    times = [start + number for row in rows for number in range(len(row))]
    return Lists(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([item for row in rows for item in row], np.int32),
        np.array(times, np.int64),
    )


def events(
    users: Sequence[int], items: Sequence[int], times: Sequence[int], ratings: Sequence[float]
) -> Events:
    count = len(users)
    return Events(
        np.array(users, np.int32),
        np.array(items, np.int32),
        np.array(times, np.int64),
        np.array(ratings, np.float32),
        np.ones(count, np.float32),
        {"device": np.array(["phone", "desk"], object)[np.arange(count) % 2]},
    )


class Table:
    """Gives case `i` the scores of row `i` of a table, whatever the block it comes in."""

    def __init__(self, table, users=None):
        self.table = np.asarray(table, np.float32)

    def scores(self, cases):
        return self.table[cases.user - 1]


@pytest.fixture
def prepared() -> Prepared:
    histories = [[1, 2], [1], [1, 2, 3], [1]]
    train = events([1, 1, 2, 3, 3, 3, 4], [1, 2, 1, 1, 2, 3, 1], [0, 1, 0, 0, 1, 2, 0], [5, 4, 3, 2, 1, 5, 4])
    test = Cases(
        np.array([1, 2, 3, 4], np.int32),
        lists(histories),
        lists([[3], [2, 4], [5], [0]], start=10),
        np.full(4, 10, np.int64),
        {"device": np.array(["phone", "desk", "phone", "phone"], object)},
    )
    rated = events([1, 2, 2, 3, 4], [3, 2, 4, 5, 0], [10] * 5, [5, 4, 2, 3, 1])
    return Prepared(
        schema=Schema(
            user=(Feature(name="age", kind="number"),),
            item=(Feature(name="genres", kind="bag"), Feature(name="name", kind="text")),
            context=(Feature(name="device", kind="category"),),
        ),
        users=Vocabulary(("u1", "u2", "u3", "u4"), 4),
        items=Vocabulary(("a", "b", "c", "d", "e", "f"), 6),
        user_features={"age": np.array([np.nan, 20, 30, 40, np.nan])},
        item_features={
            "genres": [[], ["x"], ["x"], ["y"], ["x", "y"], ["z"], []],
            "name": np.array([""] * 7, object),
        },
        titles=("", "a", "b", "c", "d", "e", "f"),
        train=train,
        validation=test.take(np.arange(0)),
        test=test,
        rated_train=train,
        rated_validation=rated.take(np.arange(0)),
        rated_test=rated,
        ordered=True,
        before_test=train,
        everything=train,
    )


@pytest.fixture
def replaced(prepared):
    """Returns the world with some of its fields changed."""
    return lambda **changes: dataclasses.replace(prepared, **changes)
