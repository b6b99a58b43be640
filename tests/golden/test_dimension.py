"""The rules of thumb for the length of a vector, and what was measured beside them."""

import math

import pytest

from trainer.towers.dimension import beside_rules, fourth_root, suggested


@pytest.mark.parametrize(
    ("rows", "table", "root"),
    [(1, 16, 1), (999, 16, 6), (1_000, 32, 6), (10_000, 64, 10), (160_000, 128, 20), (10**6, 256, 32)],
)
def test_the_rules(rows, table, root):
    assert (suggested(rows), fourth_root(rows)) == (table, root)


def test_what_was_measured_beside_them():
    """Of 256 items the fourth root is 4 and the table says 16, which is what auto stands for."""
    found = beside_rules([(8, 0.2), ("auto", 0.3), (8, 0.25), (16, 0.1)], 256)
    assert found[1:] == [(8, 2, 0.25, []), (16, 2, 0.3, ["table by size (auto)"])]
    dimension, count, best, rules = found[0]
    assert (dimension, count, rules) == (4, 0, ["fourth root"])
    assert math.isnan(best)
