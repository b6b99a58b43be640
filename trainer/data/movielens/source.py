"""MovieLens, from TensorFlow Datasets or an unpacked folder: the same rows in the same order."""

from pathlib import Path
from typing import Literal

import polars as pl

from trainer.data.interactions import Corpus, Dataset, Feature, Interactions, Schema
from trainer.data.movielens.folder import from_folder
from trainer.data.movielens.tfds import from_tfds
from trainer.errors import UserError
from trainer.registry import register
from trainer.settings import Settings

NO_GENRES = ("(no genres listed)", "Unknown")
DEMOGRAPHICS = (
    Feature(name="age", kind="number"),
    Feature(name="gender", kind="category"),
    Feature(name="occupation", kind="category"),
    Feature(name="region", kind="category"),
)
ITEM_FEATURES = (
    Feature(name="genres", kind="bag"),
    Feature(name="year", kind="number"),
    Feature(name="title", kind="text"),
)


@register("source", "movielens")
class MovieLens(Settings):
    """Ratings, the movies' genres, year and title; in 100k and 1m the users' age, gender, occupation, region.

    The files' own order says nothing (100k is shuffled, the others go by movie), so events of one user at
    one second are put in the order of their movie numbers.
    """

    version: Literal["latest-small", "100k", "1m", "20m", "25m"] = "latest-small"
    path: Path | None = None  # an unpacked folder; None: TensorFlow Datasets, which downloads it once
    data_dir: Path | None = None  # where TensorFlow Datasets keeps its copies; None: ~/tensorflow_datasets

    def load(self) -> Dataset:
        """Returns the data set; raises `UserError` where there is none in the folder or no network."""
        tables = from_tfds(self.version, self.data_dir) if self.path is None else from_folder(self.path)
        ratings, movies, users = tables
        if not ratings.height:
            raise UserError(f"{self.path} has no ratings")
        return Dataset(
            name=f"movielens-{self.version}",
            interactions=Interactions(_events(ratings)),
            users=Corpus(_people(users), "user_id"),
            items=Corpus(_films(movies), "item_id"),
            schema=Schema(
                user=DEMOGRAPHICS if "age" in users.columns else (), item=ITEM_FEATURES, title="title"
            ),
        )


def _events(ratings: pl.DataFrame) -> pl.DataFrame:
    """Returns the interactions' columns, by user, time and movie."""
    order = [pl.col("user_id").cast(pl.Int64), pl.col("timestamp"), pl.col("item_id").cast(pl.Int64)]
    typed = ratings.select(
        pl.col("user_id").cast(pl.String),
        pl.col("item_id").cast(pl.String),
        pl.col("timestamp").cast(pl.Int64),
        pl.col("rating").cast(pl.Float32),
        weight=pl.lit(1, pl.Float32),
    )
    return typed.sort(order)


def _films(movies: pl.DataFrame) -> pl.DataFrame:
    """Returns the items' features; a year is the last thing of a title, in brackets."""
    genres = pl.col("genres").list.eval(pl.element().filter(~pl.element().is_in(NO_GENRES)))
    year = pl.col("title").str.extract(r"\((\d{4})(?:[-–]\d{0,4})?\)\s*$").cast(pl.Float32)
    listed = movies.with_columns(genres=pl.when(genres.list.len() > 0).then(genres), year=year)
    return listed.select("item_id", "title", "genres", "year").sort(pl.col("item_id").cast(pl.Int64))


def _people(users: pl.DataFrame) -> pl.DataFrame:
    """Returns the users' features; `region` is the first digit of the postal code."""
    if "age" not in users.columns:
        return users.select("user_id").sort(pl.col("user_id").cast(pl.Int64))
    typed = users.select(
        "user_id",
        pl.col("age").cast(pl.Float32),
        "gender",
        "occupation",
        "zip",
        region=pl.col("zip").str.slice(0, 1),
    )
    return typed.sort(pl.col("user_id").cast(pl.Int64))
