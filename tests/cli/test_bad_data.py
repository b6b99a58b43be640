"""Tables that will not do: one line with file, line and value, and no work directory is left behind."""

import json
from pathlib import Path

import polars as pl
import pytest


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_that_is_not_there(train, tmp_path):
    assert train(tmp_path / "none.csv").error == f"there is no file {tmp_path / 'none.csv'}"
    assert left(tmp_path) == set()


def test_a_glob_and_a_folder_without_tables(train, tmp_path):
    assert "no file matches" in train(tmp_path / "*.csv").error
    (tmp_path / "folder").mkdir()
    assert "holds no table" in train(tmp_path / "folder").error
    assert left(tmp_path) == {"folder"}


def test_an_empty_file(train, tmp_path):
    (tmp_path / "events.csv").write_text("")
    assert train(tmp_path / "events.csv").error == f"{tmp_path / 'events.csv'} is empty"
    assert left(tmp_path) == {"events.csv"}


def test_a_header_and_nothing_else(train, table, tmp_path):
    assert "has a header and no rows" in train(table()).error
    assert left(tmp_path) == {"events.csv"}


def test_a_mapped_column_that_is_not_there_lists_those_that_are(train, table, rows, tmp_path):
    line = train(table(*rows), "data.source.columns.user=userr").error
    assert "has no column 'userr' (data.source.columns.user); did you mean 'user_id'?" in line
    assert "user_id, item_id, timestamp, rating" in line
    line = train(table(*rows, header="who,what,when,stars")).error
    assert "set data.source.columns.user to one of: who, what, when, stars" in line
    assert "data.source.context" in train(table(*rows), "data.source.context.device=category").error
    assert left(tmp_path) == {"events.csv"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("u1,i2,notatime,3", ("'timestamp'", "'notatime'")),
        ("u1,i2,1600000000,good", ("'rating'", "'good'")),
        (",i2,1600000000,3", ("'user_id'", "''")),
        ("u1,,1600000000,3", ("'item_id'", "''")),
        ("u1,i2,1600000000,3,9,9", ("6 fields where there are 4 columns", "u1,i2")),
    ],
)
def test_a_row_that_does_not_parse_is_told_with_line_and_value(train, table, rows, tmp_path, row, words):
    path = table(*rows[:5], row, *rows[5:])
    line = train(path).error
    assert line.startswith(f"{path}, line 7: ")
    assert all(word in line for word in words), line
    assert left(tmp_path) == {"events.csv"}


@pytest.mark.parametrize("name", ["Hour of day", "größe", "k", "user id"])
def test_a_context_column_that_can_be_no_input_is_told_before_training(train, table, rows, tmp_path, name):
    path = table(
        *(f"{row},{n % 3}" for n, row in enumerate(rows)), header=f"user_id,item_id,timestamp,rating,{name}"
    )
    line = train(path, f'data.source.context={{"{name}"="category"}}').error
    assert line.startswith(
        f"the context column {name!r} cannot be an input of a request; rename it: letters, digits"
    )
    assert left(tmp_path) == {"events.csv"}


@pytest.mark.parametrize("weight", ["nan", "-2", "heavy", "-inf"])
def test_a_weight_that_is_none(train, table, rows, tmp_path, weight):
    weighed = [row.rpartition(",")[0] + "," + (weight if n == 3 else "1") for n, row in enumerate(rows)]
    line = train(table(*weighed, header="user_id,item_id,timestamp,weight")).error
    assert line.endswith(f"line 5: column 'weight': a weight is a number from 0 to 1e+15 ('{weight}')")
    assert left(tmp_path) == {"events.csv"}


def test_text_that_is_not_utf8(train, tmp_path):
    text = "user_id,item_id,timestamp\nu1,i1,1600000000\nu2,caf\xe9,1600000001\n"
    (tmp_path / "events.csv").write_bytes(text.encode("latin-1"))
    line = train(tmp_path / "events.csv").error
    assert "events.csv, line 3: not UTF-8" in line
    (tmp_path / "events.csv").write_bytes(text.encode("utf-16"))
    assert "UTF-16" in train(tmp_path / "events.csv").error
    assert left(tmp_path) == {"events.csv"}


def test_fewer_than_two_users_or_items(train, table, tmp_path):
    one_user = [f"u1,i{n},{1_600_000_000 + n},3" for n in range(9)]
    assert "1 distinct user_id; a recommender needs at least 2" in train(table(*one_user)).error
    one_item = [f"u{n},i1,{1_600_000_000 + n},3" for n in range(9)]
    assert "1 distinct item_id; a recommender needs at least 2" in train(table(*one_item)).error
    assert left(tmp_path) == {"events.csv"}


def test_ratings_that_are_not_there_for_a_model_of_ratings(train, table, rows, tmp_path):
    unrated = [row.rpartition(",")[0] for row in rows]
    path = table(*unrated, header="user_id,item_id,timestamp")
    line = train(path, "ranking.enabled=true").error
    assert "ranking target 'rating'" in line and "ranking.enabled=false" in line
    assert left(tmp_path) == {"events.csv"}


def test_a_movielens_folder_without_its_files(trainer, tmp_path):
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.0,1600000000\n")
    source = ("data.source.name=movielens", "data.source.path=ml")
    assert "there is no movies.csv in ml" in trainer("train", "--workdir", "run", *source).error
    (tmp_path / "ml" / "movies.csv").write_text("movieId,name,genres\n2,A (1999),Drama\n")
    line = trainer("train", "--workdir", "run", *source).error
    assert "movies.csv has no column 'title'; there are: movieId, name, genres" in line
    assert left(tmp_path) == {"ml"}


@pytest.mark.slow
def test_a_mended_file_trains_in_the_same_work_directory(train, table, rows, tmp_path):
    """With the bad rows left out: a count, and a file that tells each of them."""
    bad = ("u1,i2,notatime,3", "u3,i4,1600000000,3,9,9")
    path = table(*rows[:5], bad[0], *rows[5:9], bad[1], *rows[9:])
    assert "line 12" in train(path).error  # the number of fields is looked at first
    rejects = tmp_path / "told" / "rejects.csv"
    answer = train(path, "data.source.on_bad_rows=skip", f"data.source.rejects={rejects}")
    assert answer.code == 0, answer.err
    told = pl.read_csv(rejects).sort("line")
    assert told["line"].to_list() == [7, 12]
    assert "notatime" in told["value"][0]
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists()
    assert set(json.loads((tmp_path / "run" / "metrics.json").read_text())) == {
        "retrieval",
        "cascade",
        "seconds",
    }
