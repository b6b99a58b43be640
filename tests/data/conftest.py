from collections.abc import Callable, Sequence

import polars as pl
import pytest

from trainer.data.interactions import Corpus, Dataset, Interactions, Schema


def events(rows: Sequence[tuple[object, ...]], **context: Sequence[object]) -> Interactions:
    """Rows of user, item, and as far as given: timestamp, rating, weight."""
    full = [(*row, *(None, None, 1.0)[len(row) - 2 :]) for row in rows]
    frame = pl.DataFrame(
        full,
        orient="row",
        schema={
            "user_id": pl.String,
            "item_id": pl.String,
            "timestamp": pl.Int64,
            "rating": pl.Float32,
            "weight": pl.Float32,
        },
    )
    return Interactions(frame.with_columns(pl.Series(name, values) for name, values in context.items()))


@pytest.fixture
def make() -> Callable[..., Dataset]:
    """Builds a data set of rows of user, item, timestamp, rating, weight; parts and tables by keyword."""

    def build(
        rows: Sequence[tuple[object, ...]],
        validation: Sequence[tuple[object, ...]] | None = None,
        test: Sequence[tuple[object, ...]] | None = None,
        users: pl.DataFrame | None = None,
        items: pl.DataFrame | None = None,
        schema: Schema | None = None,
        **context: Sequence[object],
    ) -> Dataset:
        train = events(rows, **context)
        parts = [train, *(events(part) for part in (validation, test) if part is not None)]
        ids = pl.concat([part.frame.select("user_id", "item_id") for part in parts])
        return Dataset(
            name="made",
            interactions=train,
            users=Corpus(ids.select("user_id").unique() if users is None else users, "user_id"),
            items=Corpus(ids.select("item_id").unique() if items is None else items, "item_id"),
            schema=schema or Schema(),
            validation=None if validation is None else events(validation),
            test=None if test is None else events(test),
        )

    return build
