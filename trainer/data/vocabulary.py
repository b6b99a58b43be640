"""Ids and labels to integers. Row 0 is the unknown; known rows follow, the most frequent first."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

UNKNOWN = 0


@dataclass(frozen=True)
class Vocabulary:
    """Known values; row `i + 1` stands for `values[i]`, and row 0 for everything else.

    The first `trained` values were seen in the training part; the rest are catalogue entries that only
    their features describe (cold start). Fitted on the training part only.
    """

    values: tuple[str, ...]
    trained: int

    @classmethod
    def fit(cls, column: pl.Series, catalogue: Iterable[str] = ()) -> "Vocabulary":
        """Returns the vocabulary of a training column, most frequent first, ties by name; then the rest."""
        counts = column.drop_nulls().cast(pl.String).value_counts(name="count")
        value = counts.columns[0]
        seen = counts.sort(["count", value], descending=[True, False])[value].to_list()
        known = set(seen)
        cold = sorted(set(catalogue) - known)
        return cls(tuple(seen + cold), len(seen))

    def __len__(self) -> int:
        """Returns the number of rows of a table over this vocabulary, the unknown's included."""
        return len(self.values) + 1

    @cached_property
    def _frame(self) -> pl.DataFrame:
        rows = np.arange(1, len(self), dtype=np.int32)
        return pl.DataFrame({"value": pl.Series(self.values, dtype=pl.String), "row": rows})

    def encode(self, column: pl.Series) -> npt.NDArray[np.int32]:
        """Returns the rows `[n]` of a column's values, 0 for nulls and for values never seen."""
        asked = pl.DataFrame({"value": column.cast(pl.String)})
        joined = asked.join(self._frame, on="value", how="left", maintain_order="left")
        return joined["row"].fill_null(UNKNOWN).cast(pl.Int32).to_numpy()

    def decode(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """Returns the values of rows; the unknown is the empty string."""
        return [self.values[row - 1] if row else "" for row in rows.tolist()]
