"""MovieLens, from TensorFlow Datasets or an unpacked folder: the same rows in the same order."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from trainer.data.interactions import Corpus, Dataset, Feature, Interactions, Schema
from trainer.data.reading import files
from trainer.data.reading.layout import Layout
from trainer.errors import UserError
from trainer.registry import register
from trainer.settings import Settings

BATCH = 65_536  # rows read back at a time
DEMOGRAPHIC = ("age", "gender", "occupation", "zip")
NO_GENRES = ("(no genres listed)", "Unknown")
GENRES_100K = (
    "Unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
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


def from_folder(folder: Path) -> Tables:
    """Returns ratings, movies and users of an unpacked folder, told by the files in it."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} (data.source.path: an unpacked MovieLens)")
    for ratings, reader in (("ratings.csv", _read_csv), ("u.data", _read_100k), ("ratings.dat", _read_1m)):
        if (folder / ratings).is_file():
            return reader(folder)
    raise UserError(
        f"{folder} is not an unpacked MovieLens: it has neither ratings.csv with movies.csv, nor u.data with "
        'u.item, nor ratings.dat with movies.dat; for other files, data.source.name = "table"'
    )


def from_tfds(version: str, data_dir: Path | None) -> Tables:
    """Returns ratings, movies and users out of TensorFlow Datasets, which prepares them once."""
    ratings, movies = _prepared(f"{version}-ratings", data_dir), _prepared(f"{version}-movies", data_dir)
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
    events = _rows(ratings, columns)
    films = _rows(movies, {"movie_id": "item_id", "movie_title": "title", "movie_genres": "genres"})
    genres = dict(enumerate(movies.info.features["movie_genres"].feature.names))
    films = films.with_columns(pl.col("genres").list.eval(pl.element().replace_strict(genres)))
    users = events.select("user_id", *(name for name in DEMOGRAPHIC if name in events.columns)).unique(
        "user_id"
    )
    if "gender" in users.columns:
        users = users.with_columns(gender=pl.when("gender").then(pl.lit("M")).otherwise(pl.lit("F")))
    return events.select("user_id", "item_id", "rating", "timestamp"), films, users


def _prepared(config: str, data_dir: Path | None) -> Any:
    import tensorflow_datasets as tfds

    builder = tfds.builder(f"movielens/{config}", data_dir=None if data_dir is None else str(data_dir))
    try:
        if not builder.data_path.exists():
            _reach(builder.builder_config.download_url)
        builder.download_and_prepare()
    except (OSError, tfds.download.DownloadError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserError(
            f"MovieLens {config.rpartition('-')[0]} is not in {builder.data_path.parent.parent} and "
            f"cannot be downloaded ({reason}): give data.source.path=FOLDER with an unpacked copy, "
            "or run once where there is a network"
        ) from error
    return builder


def _reach(url: str) -> None:
    """Raises `OSError` where nothing can be downloaded: the downloader itself would try again for minutes."""
    import requests

    try:
        requests.head(url, timeout=20).raise_for_status()
    except requests.ConnectionError:
        raise OSError(f"no connection to {url}") from None


def _rows(builder: Any, columns: Mapping[str, str]) -> pl.DataFrame:
    """Returns the features `columns` (its name -> ours) of all rows, as far as the version has them."""
    import tensorflow_datasets as tfds

    there = {name: ours for name, ours in columns.items() if name in builder.info.features}
    logging.getLogger("absl").addFilter(_not_deprecated)  # about TFDS's own code
    decoders = tfds.decode.PartialDecoding(dict.fromkeys(there, True))
    # A batch of lists comes padded with 0, which is also the first label: lists are read one by one.
    size = None if "movie_genres" in there else BATCH
    found = tfds.as_numpy(builder.as_dataset(split="train", batch_size=size, decoders=decoders))
    if size is None:
        rows = list(found)
        return pl.DataFrame({ours: _series([row[name] for row in rows]) for name, ours in there.items()})
    return pl.concat(
        [pl.DataFrame({ours: _series(batch[name]) for name, ours in there.items()}) for batch in found]
    )


def _not_deprecated(record: logging.LogRecord) -> bool:
    return "FeatureConnector.dtype" not in record.getMessage()


def _series(values: Any) -> pl.Series:
    """Returns a column of numbers, byte strings or lists of label numbers."""
    if isinstance(values[0], bytes):
        return pl.Series(values, dtype=pl.Binary).cast(pl.String)
    return pl.Series([value.tolist() for value in values]) if isinstance(values, list) else pl.Series(values)


def _read_csv(folder: Path) -> Tables:
    ratings = _csv(folder / "ratings.csv", ("userId", "movieId", "rating", "timestamp"))
    movies = _csv(folder / "movies.csv", ("movieId", "title", "genres"))
    ratings.columns = ["user_id", "item_id", "rating", "timestamp"]
    movies.columns = ["item_id", "title", "genres"]
    _check_numbers(folder / "ratings.csv", ratings, first=2)
    _check_numbers(folder / "movies.csv", movies.select("item_id"), first=2)
    return ratings, movies.with_columns(pl.col("genres").str.split("|")), ratings.select("user_id").unique()


def _read_1m(folder: Path) -> Tables:
    ratings = _plain(folder / "ratings.dat", "::", ("user_id", "item_id", "rating", "timestamp"))
    _check_numbers(folder / "ratings.dat", ratings)
    movies = _plain(folder / "movies.dat", "::", ("item_id", "title", "genres"))
    genres = pl.col("genres").str.replace_all("Children's", "Children", literal=True).str.split("|")
    users = _plain(folder / "users.dat", "::", ("user_id", "gender", "age", "occupation", "zip"))
    occupations = {str(number): name for number, name in enumerate(OCCUPATIONS_1M)}
    users = users.with_columns(pl.col("occupation").replace_strict(occupations, default=None))
    return ratings, movies.with_columns(genres), users


def _read_100k(folder: Path) -> Tables:
    ratings = _plain(folder / "u.data", "\t", ("user_id", "item_id", "rating", "timestamp"))
    _check_numbers(folder / "u.data", ratings)
    wide = _plain(
        folder / "u.item",
        "|",
        ("item_id", "title", "released", "video", "url", *(f"flag{i}" for i in range(19))),
    )
    flags = [
        pl.when(pl.col(f"flag{number}") == "1").then(pl.lit(genre))
        for number, genre in enumerate(GENRES_100K)
    ]
    movies = wide.select("item_id", "title", genres=pl.concat_list(flags).list.drop_nulls())
    users = _plain(folder / "u.user", "|", ("user_id", "age", "gender", "occupation", "zip"))
    return ratings, movies, users


def _csv(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    return files.read(
        _there(path), Layout(format="csv", separator=","), _checked(path, columns), skip=False
    ).frame.select(columns)


def _checked(path: Path, columns: Sequence[str]) -> Sequence[str]:
    there = files.names(path, Layout(format="csv", separator=","))
    absent = [name for name in columns if name not in there]
    if absent:
        raise UserError(f"{path} has no column {absent[0]!r}; there are: {', '.join(there)}")
    return columns


def _plain(path: Path, separator: str, columns: Sequence[str]) -> pl.DataFrame:
    """Returns a file of the old formats: ISO-8859-1, no header, a separator of one or two characters."""
    lines = _there(path).read_bytes().decode("iso-8859-1").replace("\r", "").rstrip("\n").split("\n")
    fields = pl.Series("line", lines).str.split(separator).to_frame()
    wrong = fields.select(pl.col("line").list.len() != len(columns)).to_series()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise UserError(
            f"{path}, line {row + 1}: {len(fields['line'][row])} fields instead of {len(columns)} "
            f"({lines[row][:80]!r})"
        )
    return fields.select(pl.col("line").list.get(i).alias(name) for i, name in enumerate(columns))


def _check_numbers(path: Path, frame: pl.DataFrame, first: int = 1) -> None:
    """Raises `UserError` naming the line where a column holds something else; `first` is the first row's."""
    for column in frame:
        wrong = column.cast(pl.Float64, strict=False).is_null()
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise UserError(f"{path}, line {row + first}: {column.name} is not a number ({column[row]!r})")


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"there is no {path.name} in {path.parent}")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    return path


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
