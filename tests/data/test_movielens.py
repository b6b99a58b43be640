import shutil
from pathlib import Path

import pytest

from trainer import registry
from trainer.data.movielens.source import MovieLens
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.settings import DataSettings


def latest(folder):
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,4.0,20\n1,9,3.5,20\n1,2,5.0,10\n2,2,1.0,5\n10,9,2.0,6\n2,9,0.5,7\n"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n2,"Net, The (1995)",Action|Crime\n9,Twins (1988),(no genres listed)\n'
        "10,No year,IMAX\n11,Never rated (2001–2004) ,Drama\n",
        encoding="utf-8",
    )
    return folder


def of_100k(folder):
    (folder / "u.data").write_text("1\t2\t5\t10\n2\t9\t1\t7\n1\t9\t3\t20\n")
    flags = {"2": "0|1|0|0|1|" + "0|" * 13 + "0", "9": "1|" + "0|" * 17 + "0"}
    (folder / "u.item").write_bytes(
        f"2|Café (1995)|01-Jan-1995||http://x|{flags['2']}\n9|unknown||||{flags['9']}\n".encode("iso-8859-1")
    )
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    return folder


def of_1m(folder):
    (folder / "ratings.dat").write_text("1::2::5::10\n2::9::1::7\n1::9::3::20\n")
    (folder / "movies.dat").write_bytes(
        "2::Café (1995)::Animation|Children's\n9::Twins (1988)::Comedy\n".encode("iso-8859-1")
    )
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    return folder


def test_the_csv_versions(tmp_path):
    data = MovieLens(path=latest(tmp_path)).load()
    assert data.interactions.frame.select("user_id", "item_id", "timestamp", "rating").rows() == [
        ("1", "2", 10, 5.0),
        ("1", "9", 20, 3.5),  # at one second, by movie number
        ("1", "10", 20, 4.0),
        ("2", "2", 5, 1.0),
        ("2", "9", 7, 0.5),
        ("10", "9", 6, 2.0),
    ]
    assert data.items.frame.rows() == [
        ("2", "Net, The (1995)", ["Action", "Crime"], 1995.0),
        ("9", "Twins (1988)", None, 1988.0),
        ("10", "No year", ["IMAX"], None),
        ("11", "Never rated (2001–2004) ", ["Drama"], 2001.0),
    ]
    assert data.schema.user == ()
    assert data.name == "movielens-latest-small"


def test_100k(tmp_path):
    data = MovieLens(version="100k", path=of_100k(tmp_path)).load()
    assert len(data.interactions) == 3
    assert data.items.frame.rows() == [
        ("2", "Café (1995)", ["Action", "Children"], 1995.0),
        ("9", "unknown", None, None),
    ]
    assert data.users.frame.rows() == [
        ("1", 24.0, "M", "technician", "85711", "8"),
        ("2", 53.0, "F", "other", "94043", "9"),
    ]
    assert [feature.name for feature in data.schema.user] == ["age", "gender", "occupation", "region"]


def test_1m(tmp_path):
    data = MovieLens(version="1m", path=of_1m(tmp_path)).load()
    assert len(data.interactions) == 3
    assert data.items.frame["genres"].to_list() == [["Animation", "Children"], ["Comedy"]]
    assert data.users.frame.rows() == [
        ("1", 1.0, "F", "K-12 student", "48067", "4"),
        ("2", 56.0, "M", "self-employed", "70072", "7"),
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "ratings.csv").unlink(), "not an unpacked MovieLens"),
        (lambda folder: (folder / "movies.csv").unlink(), "no movies.csv in"),
        (lambda folder: (folder / "ratings.csv").write_text(""), "ratings.csv is empty"),
        (
            lambda folder: (folder / "ratings.csv").write_text("a,b\n1,2\n"),
            "no column 'userId'; there are: a, b",
        ),
        (
            lambda folder: (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n"),
            "has no ratings",
        ),
        (
            lambda folder: (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,x,4\n"),
            r"ratings.csv, line 2: rating is not a number \('x'\)",
        ),
    ],
)
def test_folders_that_are_not_movielens(tmp_path, spoil, message):
    folder = tmp_path / "ml"
    folder.mkdir()
    spoil(latest(folder))
    with pytest.raises(UserError, match=message):
        MovieLens(path=folder).load()


def test_a_short_line_of_the_old_formats(tmp_path):
    of_100k(tmp_path)
    with (tmp_path / "u.data").open("a") as file:
        file.write("1\t2\t5\n")
    with pytest.raises(UserError, match=r"u.data, line 4: 3 fields instead of 4"):
        MovieLens(version="100k", path=tmp_path).load()


def test_settings():
    with pytest.raises(UserError, match=r"data.source.version='2m'"):
        registry.build("source", "movielens", {"version": "2m"}, "data.source")


def test_latest_small(movielens_folder):
    data = MovieLens(path=movielens_folder).load()
    assert len(data.interactions) == 100_836
    assert data.items.frame.height == 9_742
    assert data.items.frame["year"].null_count() == 12
    prepared = prepare(data, DataSettings())
    assert len(prepared.test) == len(prepared.validation) == 610
    assert len(prepared.train) == 100_836 - 2 * 610


@pytest.fixture
def local(monkeypatch):
    """Points TFDS's own download manager at a folder; TFDS itself then parses, prepares and reads back."""
    tfds = pytest.importorskip("tensorflow_datasets")

    def point(folder: Path) -> None:
        monkeypatch.setattr("trainer.data.movielens.tfds._reach", lambda url: None)
        monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: folder)

    return point


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("version", "write"), [("latest-small", latest), ("100k", of_100k), ("1m", of_1m)])
def test_tfds_gives_what_the_folder_gives(tmp_path, local, version, write):
    folder = tmp_path / f"ml-{version}"
    folder.mkdir()
    write(folder)
    local(tmp_path)
    kept = tmp_path / "tfds"
    expected = MovieLens(version=version, path=folder).load()
    for _ in ("prepared", "read again"):
        found = MovieLens(version=version, data_dir=kept).load()
        assert found.interactions.frame.equals(expected.interactions.frame)
        assert found.items.frame.equals(expected.items.frame)
        assert found.users.frame.equals(expected.users.frame)
        assert found.fingerprint() == expected.fingerprint()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_tfds_prepares_latest_small(tmp_path, local, movielens_folder):
    local(movielens_folder.parent)
    found = MovieLens(data_dir=tmp_path).load()
    assert found.fingerprint() == MovieLens(path=movielens_folder).load().fingerprint()


@pytest.mark.filterwarnings("default")
def test_offline_is_one_clear_line(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def refuse(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no route")

    import requests

    monkeypatch.setattr(requests, "head", refuse)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", refuse)
    with pytest.raises(UserError) as caught:
        MovieLens(data_dir=tmp_path).load()
    assert "\n" not in str(caught.value)
    assert "latest-small" in str(caught.value)
    assert "data.source.path=FOLDER" in str(caught.value)
    assert "where there is a network" in str(caught.value)
