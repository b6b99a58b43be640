"""MovieLens, from TensorFlow Datasets or from an unpacked folder. Both give the same rows in the same order."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from trainer.config import Settings
from trainer.data.interactions import Corpus, Dataset, Feature, Interactions, Schema
from trainer.errors import UserError
from trainer.registry import register

AGELESS = ("latest-small", "20m", "25m")
NO_GENRES = ("(no genres listed)", "Unknown", "unknown")
GENRES_100K = (
    "Unknown Action Adventure Animation Children Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical Mystery "
    "Romance Sci-Fi Thriller War Western"
).split()
OCCUPATIONS_1M = (
    "other/not specified",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
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

Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]  # ratings, movies, users


@register("source", "movielens")
class MovieLens(Settings):
    """Ratings with the movies' genres, year and title and, in 100k and 1m, the users' age, gender, occupation and region.

    The files' own order says nothing (100k is shuffled, the others go by movie), so events of one user at one second
    are put in the order of their movie numbers.
    """

    version: Literal["latest-small", "100k", "1m", "20m", "25m"] = "latest-small"
    path: Path | None = None  # an unpacked folder; None: TensorFlow Datasets, which downloads it once
    data_dir: Path | None = None  # where TensorFlow Datasets keeps its copies; None: ~/tensorflow_datasets

    def load(self) -> Dataset:
        """Returns the data set; raises `UserError` where the folder is not MovieLens, or the download fails."""
        ratings, movies, users = from_tfds(self.version, self.data_dir) if self.path is None else from_folder(self.path)
        if not ratings.height:
            raise UserError(f"MovieLens {self.version} in {self.path} has no ratings")
        demographics = "age" in users.columns
        return Dataset(
            name=f"movielens-{self.version}",
            interactions=Interactions(_events(ratings)),
            users=Corpus(_people(users) if demographics else users, "user_id"),
            items=Corpus(_films(movies), "item_id"),
            schema=Schema(user=DEMOGRAPHICS if demographics else (), item=ITEM_FEATURES, title="title"),
        )


def from_folder(folder: Path) -> Tables:
    """Returns ratings, movies and users of an unpacked folder, told by the files in it."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} (data.source.path: an unpacked MovieLens)")
    for ratings, reader in (("ratings.csv", _read_csv), ("u.data", _read_100k), ("ratings.dat", _read_1m)):
        if (folder / ratings).is_file():
            return reader(folder)
    raise UserError(
        f"{folder} is not an unpacked MovieLens: it has neither ratings.csv with movies.csv, nor u.data with u.item, "
        "nor ratings.dat with movies.dat; for other files, data.source.name = \"table\""
    )


def from_tfds(version: str, data_dir: Path | None) -> Tables:
    """Returns ratings, movies and users out of TensorFlow Datasets, which downloads and prepares them once."""
    import tensorflow_datasets as tfds

    def prepared(table: str) -> Any:
        try:
            builder = tfds.builder(f"movielens/{version}-{table}", data_dir=str(data_dir) if data_dir else None)
            builder.download_and_prepare(file_format="array_record" if False else None)
        except Exception as error:
            raise UserError(
                f"MovieLens {version} is not here and cannot be downloaded ({_first_line(error)}): give "
                "data.source.path=FOLDER with an unpacked copy, or run once where there is a network"
            ) from error
        return builder

    ratings, movies = prepared("ratings"), prepared("movies")
    columns = {
        "user_id": "user_id",
        "movie_id": "item_id",
        "user_rating": "rating",
        "timestamp": "timestamp",
        "raw_user_age" if version == "100k" else "bucketized_user_age": "age",
        "user_gender": "gender",
        "user_occupation_text": "occupation",
        "user_zip_code": "zip",
    }
    found = _rows(tfds, ratings, columns)
    names = movies.info.features["movie_genres"].feature.names
    films = _rows(tfds, movies, {"movie_id": "item_id", "movie_title": "title", "movie_genres": "genres"})
    films = films.with_columns(pl.col("genres").list.eval(pl.element().replace_strict(dict(enumerate(names)))))
    people = [name for name in ("age", "gender", "occupation", "zip") if name in found.columns]
    users = found.select("user_id", *people).unique("user_id")
    if people:
        users = users.with_columns(pl.when("gender").then(pl.lit("M")).otherwise(pl.lit("F")).alias("gender"))
    return found.select("user_id", "item_id", "rating", "timestamp"), films, users
