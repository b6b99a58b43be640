"""Tables as other systems write them: what was read wrongly, or left out without a word, before it was tried."""

import gzip
import json
import tomllib
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_describe import pasted

from trainer.data.describe.draft import describe
from trainer.data.table import Table
from trainer.errors import UserError

START = 1_600_000_000


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def events(count, *more, header="user_id,item_id,timestamp"):
    """Lines of a log; `more` are functions of the row's number, its user and its item, a column each."""
    lines = [header]
    for n in range(count):
        user, item = n % 9, (n * 7 + n // 9) % 11
        values = (f"u{user}", f"i{item}", START + 60 * n, *(one(n, user, item) for one in more))
        lines.append(",".join(str(value) for value in values))
    return "\n".join(lines) + "\n"


def settings_of(path):
    return tomllib.loads(describe(str(path)))["data"]


@pytest.mark.parametrize("skip", [False, True])
def test_a_row_with_too_many_fields_is_told_whichever_columns_are_read(here, skip):
    """Its fields stand in other columns, and polars looks at that only where all columns are read."""
    rows = "".join(f"T{n},u{n},i{n},x\n" for n in range(6))
    (here / "a.csv").write_text(f"title,user_id,item_id,note\n{rows}Hello, world,u1,i1,x\n")
    if not skip:
        with pytest.raises(UserError, match=r"a\.csv, line 8: 5 fields where there are 4"):
            Table(path="a.csv").load()
        return
    assert Table(path="a.csv", on_bad_rows="skip").load().interactions.frame.height == 6
    assert "5 fields" in (here / "rejects.csv").read_text()


def test_the_labels_of_items_in_the_events_are_parted_as_they_are_written(here):
    lines = events(200, lambda n, u, i: f'"g{i % 2},g{2 + i % 3}"', header="user_id,item_id,timestamp,genres")
    (here / "a.csv").write_text(lines)
    data, settings = pasted(describe("a.csv"))
    assert settings.source.settings["items"]["bag_separator"] == ","
    assert all(len(labels) == 2 for labels in data.items.frame["genres"])


def test_one_separator_parts_the_labels_of_a_table_and_another_is_told(here):
    (here / "e.csv").write_text(events(200))
    rows = "".join(f'i{n},g{n % 2}|h{n % 3},"s{n % 2},t{n % 3}"\n' for n in range(11))
    (here / "i.csv").write_text(f"item_id,genres,tags\n{rows}")
    toml = describe("e.csv", items="i.csv")
    assert tomllib.loads(toml)["data"]["source"]["items"]["features"] == {"genres": "bag"}
    assert (
        "# column 'tags' of i.csv is left out: its labels are parted by ',', and those of 'genres' by '|'"
        in toml
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_outcomes_may_be_true_and_false(here, suffix):
    clicked = [n % 5 == 0 for n in range(400)]
    frame = pl.read_csv(events(400).encode()).with_columns(clicked=pl.Series(clicked))
    frame.write_csv("a.csv") if suffix == "csv" else frame.write_parquet("a.parquet")
    settings = settings_of(f"a.{suffix}")
    assert (settings["source"]["columns"]["rating"], settings["min_rating"]) == ("clicked", 1.0)
    assert "context" not in settings["source"]
    data, _ = pasted(describe(f"a.{suffix}"))
    assert data.interactions.frame["rating"].sum() == 80


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order_id", lambda n, u, i: 1_400_000_000 + n // 2),
        ("ean", lambda n, u, i: 3_017_620_422_003 + i),
        ("tweet_id", lambda n, u, i: 1_300_000_000_000_000_000 + n),
        ("order_number", lambda n, u, i: 100_234 + n // 3),
    ],
)
def test_ids_are_no_times_and_no_numbers(here, name, value):
    (here / "a.csv").write_text(events(400, value, header=f"user_id,item_id,created_at,{name}"))
    source = settings_of("a.csv")["source"]
    assert source["columns"]["timestamp"] == "created_at"
    assert source.get("context", {}).get(name) in (None, "category")
    (here / "b.csv").write_text(pl.read_csv("a.csv").drop("created_at").write_csv())
    assert settings_of("b.csv")["split"] == {"method": "random"}


def test_numbers_that_tell_the_user_are_no_context(here):
    """An order number stands in several rows, all of one user, whatever its column is called."""
    (here / "a.csv").write_text(
        events(600, lambda n, u, i: (n // 27) * 9 + u + 5_000, header="user_id,item_id,timestamp,beleg")
    )
    toml = describe("a.csv")
    assert "context" not in tomllib.loads(toml)["data"]["source"]
    assert "column 'beleg' is left out: the rows of one beleg are all of one user" in toml


@pytest.mark.parametrize(("name", "side"), [("release_date", "items"), ("signup_date", "users")])
def test_a_date_of_the_item_or_the_user_is_not_when_it_happened(here, name, side):
    rows = ["user_id,movie_id,rating," + name]
    for n in range(400):
        user, item = n % 20, (n * 7 + n // 20) % 11
        rows.append(
            f"u{user},i{item},{n % 5},20{10 + (item if side == 'items' else user):02d}-03-0{1 + n % 1}"
        )
    (here / "a.csv").write_text("\n".join(rows))
    settings = settings_of("a.csv")
    assert settings["split"] == {"method": "random"}
    assert settings["source"][side]["features"] == {name: "time"}


def test_what_folders_hold_are_columns(here):
    """As Hive and Spark write them: `event_type=view/date=2024-01-31/part-0.parquet`."""
    for number, kind in enumerate(("view", "add%20to%20cart", "__HIVE_DEFAULT_PARTITION__")):
        folder = here / "log" / f"event_type={kind}" / f"date=2024-01-0{number + 1}"
        folder.mkdir(parents=True)
        frame = pl.read_csv(events(60).encode()).drop("timestamp")
        frame.write_parquet(folder / "part-0.parquet")
    (here / "log" / "_SUCCESS").write_text("")
    settings = settings_of("log")
    assert settings["source"]["columns"]["timestamp"] == "date"
    assert settings["behaviours"] == {"view": 1.0, "add to cart": 1.0}
    table = Table(path="log", context={"event_type": "category"})
    found = table.load().interactions.frame
    assert found["event_type"].value_counts(sort=True).height == 3
    assert set(found["event_type"]) == {"view", "add to cart", None}
    assert found["timestamp"].n_unique() == 3


def test_a_folder_above_the_table_that_is_named_so_is_no_column(here):
    (here / "run=3").mkdir()
    (here / "run=3" / "a.csv").write_text(events(60))
    assert "context" not in settings_of("run=3/a.csv")["source"]
    (here / "rating=5").mkdir()
    for path in ("rating=5/a.csv", "rating=5"):
        (here / "rating=5" / "a.csv").write_text(events(60))
        assert Table(path=path).load().interactions.frame["rating"].null_count() == 60


def test_blank_lines_in_a_folder_that_holds_a_column(here):
    (here / "log" / "date=2024-01-31").mkdir(parents=True)
    text = events(20, header="user_id,item_id,n") + "\n\n\n"
    (here / "log" / "date=2024-01-31" / "a.csv").write_text(text)
    for path in ("log", "log/date=*/*.csv"):
        found = Table(path=path).load().interactions.frame
        assert (found.height, set(found["timestamp"])) == (20, {1_706_659_200})


def test_an_empty_column_of_times_gives_way_to_a_filled_one(here):
    lines = events(60, lambda n, u, i: "", header="user_id,item_id,datetime,timestamp")
    (here / "a.csv").write_text(lines)
    assert settings_of("a.csv")["source"]["columns"]["timestamp"] == "datetime"


def test_a_very_long_field_among_the_first_lines(here):
    long = "x" * 200_000
    lines = events(60, lambda n, u, i: long if n == 3 else "y", header="user_id,item_id,timestamp,text")
    (here / "a.csv").write_text(lines)
    assert settings_of("a.csv")["source"]["columns"]["user"] == "user_id"
    assert Table(path="a.csv").load().interactions.frame.height == 60


def test_a_time_of_another_day_is_not_the_time_of_day_of_the_date(here):
    """Such as when the account was made."""
    columns = (
        lambda n, u, i: f"2024-01-{1 + n % 9:02d}",
        lambda n, u, i: f"2020-0{1 + u % 9}-03T10:30:0{u % 9}",
    )
    lines = events(60, *columns, header="user_id,item_id,n,date,created_at")
    pl.read_csv(lines.encode(), infer_schema=False).drop("n").write_csv("a.csv")
    assert settings_of("a.csv")["source"]["columns"]["timestamp"] == "date"


def test_what_is_written_for_oneself_is_not_read(here):
    for name in ("log/a.csv", "log/_temporary/0/a.csv", "log/.ipynb_checkpoints/a-checkpoint.csv"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(events(60))
    (here / "log" / "empty.csv").write_text("")
    assert Table(path="log").load().interactions.frame.height == 60
    assert settings_of("log")["source"]["path"].endswith("log/a.csv")


def test_a_published_split_in_folders_does_not_train(here):
    for part in ("train", "test"):
        (here / "shop" / part).mkdir(parents=True)
        (here / "shop" / part / "part-0.csv").write_text(events(60))
    toml = describe("shop")
    assert tomllib.loads(toml)["data"]["source"]["path"].endswith("shop/train/part-0.csv")
    assert "# left out as a part of a published split: test/part-0.csv; data.source.test=FILE" in toml


def test_json_lines_leave_out_what_is_empty(here):
    (here / "log").mkdir()
    for number in range(2):
        rows = pl.read_csv(events(60).encode()).to_dicts()
        more = {"device": "phone"} if number == 0 else {}
        (here / "log" / f"part-{number}.json").write_text(
            "".join(f"{json.dumps(row | more)}\n" for row in rows)
        )
    assert settings_of("log")["source"]["path"] == "log"
    found = Table(path="log", context={"device": "category"}).load().interactions.frame
    assert (found.height, found["device"].null_count()) == (120, 60)


def test_of_usual_names_the_one_that_can_be_read_and_has_a_time_of_day(here):
    columns = (lambda n, u, i: f"2024-01-{1 + n % 9:02d}", lambda n, u, i: f"00:{n:02d}:00")
    lines = events(60, *columns, header="user_id,item_id,n,date,time")
    frame = pl.read_csv(lines.encode(), infer_schema=False).drop("n")
    frame.write_csv("a.csv")
    assert settings_of("a.csv")["source"]["columns"]["timestamp"] == "date"
    frame.with_columns(event_time=pl.col("date") + "T10:30:00").drop("time").write_csv("b.csv")
    assert settings_of("b.csv")["source"]["columns"]["timestamp"] == "event_time"


def test_a_user_comes_before_a_session(here):
    (here / "a.csv").write_text(
        events(90, lambda n, u, i: f"a{u % 3}", header="session_id,item_id,timestamp,account_id")
    )
    assert settings_of("a.csv")["source"]["columns"]["user"] == "account_id"


def test_what_an_item_is_is_no_behaviour(here):
    kinds = ("movie", "series", "short")
    (here / "a.csv").write_text(
        events(300, lambda n, u, i: kinds[i % 3], header="user_id,item_id,timestamp,type")
    )
    settings = settings_of("a.csv")
    assert "behaviours" not in settings
    assert settings["source"]["items"]["features"] == {"type": "category"}


def test_behaviours_are_those_of_all_rows(here, monkeypatch):
    monkeypatch.setattr("trainer.data.describe.look.SAMPLE", 50)
    (here / "a.csv").write_text(
        events(
            90,
            lambda n, u, i: "refund" if n > 80 else ("view", "purchase")[n % 2],
            header="user_id,item_id,timestamp,event_name",
        )
    )
    assert set(settings_of("a.csv")["behaviours"]) == {"view", "purchase", "refund"}


def test_a_line_break_in_a_header_does_not_break_the_settings(here):
    lines = events(300, lambda n, u, i: i * 10, header='user_id,item_id,timestamp,"Unit\nPrice"')
    (here / "a.csv").write_text(lines)
    assert settings_of("a.csv")["source"]["items"]["features"] == {"Unit\nPrice": "number"}


def test_spaces_behind_commas(here):
    lines = events(60, lambda n, u, i: n % 5, header="user_id,item_id,timestamp,rating").replace(",", ", ")
    (here / "a.csv").write_text(lines.replace(", ", ",", 3).replace("user_id,", "user_id,"))
    frame = Table(path="a.csv", columns={"user": 1, "item": 2, "timestamp": 3, "rating": 4}).load()
    assert frame.interactions.frame["rating"].sum() == 120
    assert frame.interactions.frame["timestamp"][0] == START


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_comma_in_a_header_does_not_part_the_fields(here, mark):
    lines = events(60, lambda n, u, i: "x", header='user_id,item_id,timestamp,"Preis@ EUR"')
    text = lines.replace(",", mark).replace("@", ",")
    (here / "a.txt").write_text(text)
    source = settings_of("a.txt")["source"]
    assert source["columns"] == {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}
    with gzip.open(here / "b.csv.gz", "wt") as file:
        file.write(text)
    assert Table(path="b.csv.gz").load().interactions.frame.height == 60


def test_whole_decimals_are_ids_as_whole_numbers_are(here):
    rows = {"user_id": [Decimal(7), Decimal(12)], "item_id": ["a", "b"]}
    pl.DataFrame(rows, schema_overrides={"user_id": pl.Decimal(38, 9)}).write_parquet("a.parquet")
    assert Table(path="a.parquet").load().interactions.frame["user_id"].to_list() == ["7", "12"]


@pytest.mark.parametrize(
    "written",
    [
        "2024-01-31T12:30Z",
        "2024-01-31T13:30+01:00",
        "20240131T123000Z",
        "2024-01-31T12:30:00 UTC",
        "2024/01/31 12:30",
        " 1706704200 ",
    ],
)
def test_times_as_iso_8601_has_them(here, written):
    (here / "a.csv").write_text(f"user_id,item_id,timestamp\nu,i,{written}\nv,j,{written}\n")
    found = Table(path="a.csv").load().interactions.frame["timestamp"]
    assert found.to_list() == [1_706_704_200] * 2
    assert np.datetime64(int(found[0]), "s") == np.datetime64("2024-01-31T12:30:00")


def test_a_bad_line_of_packed_json_lines_is_told(here):
    lines = [json.dumps({"user_id": f"u{n}", "item_id": f"i{n}", "timestamp": START + n}) for n in range(5)]
    lines[2] = '{"user_id": "u2", "item_id":'
    (here / "a.jsonl.zst").write_bytes(zstd(("\n".join(lines) + "\n").encode()))
    with pytest.raises(UserError, match=r"a\.jsonl\.zst, line 3: not JSON"):
        Table(path="a.jsonl.zst").load()


def zstd(content):
    """Bytes as one zstd frame of one raw block (RFC 8878)."""
    size = len(content)
    header = bytes([0x28, 0xB5, 0x2F, 0xFD, 0b1010_0000]) + size.to_bytes(4, "little")
    return header + ((size << 3) | 1).to_bytes(3, "little") + content


def test_a_bad_row_of_events_and_sides_is_counted_once(here, caplog):
    (here / "a.csv").write_text(
        events(60, lambda n, u, i: i, header="user_id,item_id,timestamp,size") + "u1,,5,3\n"
    )
    items = {"path": "a.csv", "features": {"size": "number"}}
    with caplog.at_level("WARNING", "trainer"):
        Table(path="a.csv", on_bad_rows="skip", items=items).load()
    assert "skipped 1 bad rows" in caplog.text
    assert len((here / "rejects.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("written", ["31.01.2024 12:00", "1/31/2024", "31/01/2024"])
def test_dates_whose_order_is_not_told_are_named(here, written):
    rows = "".join(f"u{n % 5},i{n % 7},{written}\n" for n in range(40))
    (here / "events.csv").write_text(f"user,item,enrolled\n{rows}")
    toml = describe("events.csv")
    assert (
        f"column 'enrolled' of events.csv is left out: '{written}'; whether the day or the month comes first"
        in toml
    )
    assert "enrolled" not in tomllib.loads(toml)["data"]["source"].get("context", {})


def test_what_was_written_of_the_item_is_no_context(here):
    rows = "".join(f"u{n % 5},i{n % 7},{n},{'good' if n % 3 else 'bad'},{n % 2}\n" for n in range(1, 60))
    (here / "events.csv").write_text(f"user,item,timestamp,ReviewText,device\n{rows}")
    toml = describe("events.csv")
    assert "column 'ReviewText' is left out of the context" in toml
    assert "ReviewText" not in tomllib.loads(toml)["data"]["source"].get("context", {})


def test_a_header_alone_is_no_table(here):
    (here / "events.csv").write_text("user,item,timestamp\n")
    with pytest.raises(UserError, match=r"events\.csv has a header and no rows"):
        describe("events.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "spoil",
    [lambda packed: packed[:-10], lambda packed: packed[:60] + b"\xff" * 20 + packed[80:]],
    ids=["cut off", "damaged"],
)
def test_a_damaged_gzip_file_is_named(here, suffix, spoil):
    lines = ["user_id,item_id"] * (suffix == "csv")
    form = "u{},i{}" if suffix == "csv" else '{{"user_id": "u{}", "item_id": "i{}"}}'
    random = np.random.default_rng(0)
    lines += [form.format(*row) for row in random.integers(0, 999, (500, 2))]
    file = Path(f"events.{suffix}.gz")
    file.write_bytes(spoil(gzip.compress("\n".join(lines).encode())))
    for work in (lambda: describe(str(file)), lambda: Table(path=str(file)).load()):
        with pytest.raises(UserError, match=file.name) as told:
            work()
        assert "quotation mark" not in str(told.value)
