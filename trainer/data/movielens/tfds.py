"""MovieLens out of TensorFlow Datasets, which downloads and prepares it once."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from trainer.errors import UserError

BATCH = 65_536  # rows read back at a time
DEMOGRAPHIC = ("age", "gender", "occupation", "zip")


def from_tfds(version: str, data_dir: Path | None) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
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
