"""MovieLens out of an unpacked folder, in any of the formats that it was published in."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from trainer.data.reading import files
from trainer.data.reading.layout import Layout
from trainer.errors import UserError

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
Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]  # ratings, movies, users


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
