"""How long a vector should be for a vocabulary: rules of thumb, to be checked by a sweep (`python -m trainer tune --sweep`)."""

import math
from collections.abc import Sequence
from typing import Literal

from trainer.data.examples import Prepared
from trainer.settings import RetrievalSettings

BY_SIZE = ((1_000, 16), (10_000, 32), (100_000, 64), (1_000_000, 128))  # rows below -> numbers a vector
Dimension = int | Literal["auto"]


def suggested(rows: int) -> int:
    """Returns the dimension that the table suggests for a vocabulary of `rows`: twice as long for ten times the rows."""
    return next((dimension for most, dimension in BY_SIZE if rows < most), 256)


def fourth_root(rows: int) -> int:
    """Returns the fourth root of the vocabulary's size, the rule for features of a larger model (TensorFlow team, 2017)."""
    return max(round(math.sqrt(math.sqrt(rows))), 1)


RULES = {"fourth root": fourth_root, "table by size (auto)": suggested}


def resolved(dimension: Dimension, rows: int) -> int:
    """Returns the dimension itself, or for `auto` the one that the table suggests for a vocabulary of `rows`."""
    return suggested(rows) if dimension == "auto" else dimension


def dimension_of(settings: RetrievalSettings, prepared: Prepared) -> int:
    """Returns the length of the towers' vectors: as set, or suggested by the number of items."""
    return resolved(settings.embedding_dimension, prepared.items.trained)


def beside_rules(
    measured: Sequence[tuple[Dimension, float]], rows: int
) -> list[tuple[int, int, float, list[str]]]:
    """Returns each dimension that was `measured` or that a rule suggests for a vocabulary of `rows`, the shortest first.

    With each: how many figures there are, the best of them (NaN for none), and the rules that suggest it.
    """
    rules = {name: rule(rows) for name, rule in RULES.items()}
    known = [(resolved(dimension, rows), figure) for dimension, figure in measured]
    lines = []
    for dimension in sorted({*rules.values(), *(dimension for dimension, _ in known)}):
        figures = [figure for at, figure in known if at == dimension]
        named = [name for name, suggests in rules.items() if suggests == dimension]
        lines.append((dimension, len(figures), max(figures, default=math.nan), named))
    return lines
