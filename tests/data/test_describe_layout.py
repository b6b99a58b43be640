"""How a stranger's file is written, as `describe` tells it: header, separator, lists, packing, and what it cannot read."""

import gzip
import tomllib

import polars as pl
import pytest
from described import pasted

from trainer.data.describe.draft import describe
from trainer.errors import UserError


def test_no_header(tmp_path):
    path = tmp_path / "u.data"
    path.write_text("".join(f"{i % 9}\t{i % 7}\t{i % 5 + 1}\t{881250949 + i}\n" for i in range(100)))
    data, _ = pasted(describe(str(path)))
    assert len(data.interactions) == 100
    assert data.interactions.frame["timestamp"][0] == 881250949
    assert data.interactions.frame["rating"].max() == 5


@pytest.mark.parametrize(("names", "timed"), [("user,item,ts,ts", True), ('"user","item",,', False)])
def test_a_header_with_a_name_twice_or_without_names(tmp_path, names, timed):
    path = tmp_path / "a.csv"
    path.write_text(
        "\n".join([names, *(f"u{i % 9},i{i % 7},{1_600_000_000 + i},{i % 3}" for i in range(60))])
    )
    toml = describe(str(path))
    assert "no header" not in toml
    assert (
        "# the header has 'ts' more than once: a later column is read as 'ts_duplicated_0'" in toml
    ) == timed
    data, _ = pasted(toml)
    assert len(data.interactions) == 60 and data.interactions.has_time == timed


@pytest.mark.parametrize("line", ["x,x,{}", '"1","2",{}'])
def test_a_first_line_of_values_is_no_header(tmp_path, line):
    (tmp_path / "a.csv").write_text("".join(line.format(n) + "\n" for n in range(9)))
    assert "# the file has no header" in describe(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_packed_files_are_looked_into(tmp_path, suffix, mark):
    frame = pl.DataFrame({"user_id": list("abcd") * 5, "item_id": list("vwxyz") * 4, "hour": range(20)})
    path = tmp_path / f"a.csv.{suffix}"
    if suffix == "gz":
        path.write_bytes(gzip.compress(frame.write_csv(separator=mark).encode()))
    else:
        frame.lazy().sink_csv(path, separator=mark, compression="zstd")
    toml = describe(str(path))
    assert ("separator" in toml or "format" in toml) == (mark == "\t")
    assert len(pasted(toml)[0].interactions) == 20
    path.write_bytes(gzip.compress(b"1\t2\n2\t3\n"))
    assert "has_header = false" in describe(str(path))


def test_lists_parted_by_tabs(tmp_path):
    (tmp_path / "train.txt").write_text("0\t1\t2\n1\t2\t3\t4\n2\t1\n")
    data, _ = pasted(describe(str(tmp_path / "train.txt")))
    assert len(data.interactions) == 6


def test_adjacency(tmp_path):
    (tmp_path / "train.txt").write_text("0 1 2 3\n1 2\n")
    data, settings = pasted(describe(str(tmp_path / "train.txt")))
    assert len(data.interactions) == 4
    assert settings.split.method == "random"


def test_rows_that_are_not_utf8_are_told(tmp_path):
    (tmp_path / "a.csv").write_bytes("user,item\né,x\nà,y\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"no row of it can be read: .*a.csv, line 2: not UTF-8"):
        describe(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_bytes("user,item\na,x\nà,y\nb,z\n".encode("latin-1"))
    toml = describe(str(tmp_path / "a.csv"))
    assert (
        "# rows that cannot be read: 1; loading refuses them" in toml and "a.csv, line 3: not UTF-8" in toml
    )


@pytest.mark.parametrize("comment", ["# exported", "#exported", "# by us on Monday"])
def test_a_comment_is_no_line_of_items(tmp_path, comment):
    (tmp_path / "a.csv").write_text(f"{comment}\nuser,item\na,x\nb,y\n")
    with pytest.raises(UserError, match=f"a.csv begins with a comment, '{comment}'"):
        describe(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("#user,user,item\n1,a,x\n2,b,y\n")
    assert len(pasted(describe(str(tmp_path / "a.csv")))[0].interactions) == 2


def test_no_header_over_ids_that_are_no_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("u1,i1\nu2,i2\n")
    with pytest.raises(UserError, match=r"data.source.has_header=false by hand, .*there are: u1, i1"):
        describe(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        (lambda n: f"u{n % 9},i{n % 10},{n // 10 % 5 + 1}.0,{1_369_699_200 + n}", (1, 2, 4, 3)),
        (
            lambda n: f"{n % 9},2010-10-{n % 28 + 1:02}T23:55:27Z,{30 + n % 10 / 8},-97.{n % 10}5,{n % 10}",
            (1, 5, 2),
        ),
        (lambda n: f"{n % 9},2014-04-07T10:{n % 60:02}:09.277Z,{214_536_500 + n % 10},0", (1, 3, 2)),
    ],
    ids=["reviews", "check-ins", "clicks"],
)
def test_published_files_without_a_header(tmp_path, row, roles):
    """As Amazon's ratings, Gowalla's check-ins and YooChoose's clicks are: user, item, time, and perhaps a rating."""
    (tmp_path / "a.csv").write_text("".join(f"{row(n)}\n" for n in range(60)))
    toml = describe(str(tmp_path / "a.csv"))
    names = dict(
        zip(("user", "item", "timestamp", "rating"), (f"column_{place}" for place in roles), strict=False)
    )
    assert tomllib.loads(toml)["data"]["source"]["columns"] == names
    assert len(pasted(toml)[0].interactions) == 60


def test_what_is_parted_by_two_colons_is_told_how_to_be_read(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n")
    with pytest.raises(UserError, match=r"parts its fields by '::'.*sed .*data.source.name=movielens"):
        describe(str(tmp_path / "ratings.dat"))


def test_the_types_that_recbole_writes_behind_names_are_read_over(tmp_path):
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t1600000000\n")
    columns = tomllib.loads(describe(str(tmp_path / "a.inter")))["data"]["source"]["columns"]
    assert columns == {"user": "user_id:token", "item": "item_id:token", "timestamp": "timestamp:float"}
