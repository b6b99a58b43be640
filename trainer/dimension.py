"""How long a vector should be for a vocabulary: rules of thumb, to be checked by a sweep (`python -m trainer tune`)."""

import math

from trainer.config import RetrievalSettings
from trainer.data.examples import Prepared

BY_SIZE = ((1_000, 16), (10_000, 32), (100_000, 64), (1_000_000, 128))  # rows below -> numbers a vector


def suggested(rows: int) -> int:
    """Returns the dimension that the table suggests for a vocabulary of `rows`: twice as long for ten times the rows."""
    return next((dimension for most, dimension in BY_SIZE if rows < most), 256)


def fourth_root(rows: int) -> int:
    """Returns the fourth root of the vocabulary's size, the rule for features of a larger model (TensorFlow team, 2017)."""
    return max(round(math.sqrt(math.sqrt(rows))), 1)


def dimension_of(settings: RetrievalSettings, prepared: Prepared) -> int:
    """Returns the length of the towers' vectors: as set, or suggested by the number of items."""
    if settings.embedding_dimension == "auto":
        return suggested(prepared.items.trained)
    return int(settings.embedding_dimension)
