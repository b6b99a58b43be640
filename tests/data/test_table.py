import gzip
import logging
from datetime import timedelta
from itertools import permutations

import polars as pl
import pytest

from trainer import registry
from trainer.data.prepare import prepare
from trainer.data.reading.roles import usual_column
from trainer.data.table import Table
from trainer.errors import UserError
from trainer.settings import DataSettings, SplitSettings

HEAD = "userId,movieId,rating,timestamp\n"
GOOD = HEAD + "1,2,3.5,100\n1,3,,200\n2,2,1,300\n"
EVENTS = [("1", "2", 100, 3.5, 1.0), ("1", "3", 200, None, 1.0), ("2", "2", 300, 1.0, 1.0)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(content, name="a.csv", **settings):
    with open(name, "wb") as file:  # noqa: PTH123
        file.write(content if isinstance(content, bytes) else content.encode())
    return registry.build("source", "table", {"path": name, **settings}, "data.source").load()


def rows(data):
    return data.interactions.frame.rows()


def test_csv_with_usual_names(here):
    assert rows(load(GOOD)) == EVENTS


@pytest.mark.parametrize(
    "header",
    [
        "User ID,StockCode,InvoiceDate,Event Time",
        "customerId,Article-ID,PurchaseDate,customer",
        "Customer-ID,ISBN,order date,user id 2",
        "user_id,song,Event-Time,User ID",
    ],
)
def test_usual_names_in_any_spelling(here, header):
    data = load(f"{header}\n1,2,1600000000,9\n2,3,1600000001,9\n", columns={"timestamp": 3})
    assert [row[:2] for row in rows(data)] == [("1", "2"), ("2", "3")]
    assert usual_column(header.split(",")[:3], "timestamp") == header.split(",")[2]


def test_tsv_semicolons_gzip_and_a_byte_order_mark(here):
    assert rows(load(GOOD.replace(",", "\t"), "a.tsv")) == EVENTS
    assert rows(load(GOOD.replace(",", ";"))) == EVENTS
    assert rows(load(GOOD.replace(",", "|"), "a.txt")) == EVENTS
    assert rows(load(gzip.compress(GOOD.encode()), "a.csv.gz")) == EVENTS
    assert rows(load(gzip.compress(GOOD.replace(",", ";").encode()), "a.csv.gz")) == EVENTS
    assert rows(load(GOOD.replace(",", ";"), "b.csv.gz")) == EVENTS  # unpacked, under its old name
    assert rows(load(b"\xef\xbb\xbf" + GOOD.encode())) == EVENTS
    assert rows(load(GOOD.replace("\n", "\r\n"))) == EVENTS


def test_events_within_a_second_keep_their_order(here):
    text = "user,item,timestamp\n1,c,1600000000900\n1,a,1600000000100\n2,b,1600000000500\n"
    found = [(item, when) for _, item, when, *_ in rows(load(text))]
    assert found == [("a", 1_600_000_000), ("b", 1_600_000_000), ("c", 1_600_000_000)]
    text = "user,item,time\n1,c,2020-09-13 12:26:40.9\n1,a,2020-09-13 12:26:40.1\n2,b,2020-09-13T12:26:40.5\n"
    assert [(item, when) for _, item, when, *_ in rows(load(text))] == found


def test_true_and_false_are_1_and_0(here):
    told = "user,item,liked\n1,2,true\n1,3,\n2,2,False\n"
    assert load(told, context={"liked": "number"}).interactions.frame["liked"].to_list() == [1.0, None, 0.0]
    pl.DataFrame({"user": [1, 1, 2], "item": [2, 3, 2], "liked": [True, None, False]}).write_parquet(
        "a.parquet"
    )
    found = Table(path="a.parquet", context={"liked": "number"}).load()
    assert found.interactions.frame["liked"].to_list() == [1.0, None, 0.0]


def test_parquet(here):
    frame = pl.DataFrame(
        {"user": [1, 1, 2], "item": [2.0, 3.0, None], "ts": [100, 200, 300], "score": [3.5, None, 1]}
    )
    frame = frame.with_columns(pl.col("item").fill_null(2.0))
    frame.write_parquet("a.parquet")
    assert rows(Table(path="a.parquet").load()) == EVENTS


def test_ids_that_are_floats_of_any_size(here):
    pl.DataFrame({"user": [1.0, float("inf")], "item": [1e19, 2.0]}).write_parquet("a.parquet")
    assert [row[:2] for row in rows(Table(path="a.parquet").load())] == [("1.0", "1e+19"), ("inf", "2.0")]


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        ([b"\xff", b"a"], "category", "Binary"),
        ([timedelta(1), timedelta(2)], "number", "Duration"),
        ([{"a": 1}, {"a": 2}], "number", "Struct"),
        ([["a"], ["b"]], "category", "List"),
        ([[[1]], [[2]]], "vector", "List"),
        (pl.Series(["1", "2"], dtype=pl.Categorical), "number", "Categorical"),
    ],
)
def test_a_type_that_a_kind_is_not_read_from(here, values, kind, told):
    pl.DataFrame({"user": [1, 2], "item": [2, 3], "extra": values}).write_parquet("a.parquet")
    with pytest.raises(
        UserError, match=f"a.parquet: column 'extra' holds {told}.*, which is not read as {kind}"
    ):
        Table(path="a.parquet", context={"extra": kind}).load()


def test_json_lines(here):
    text = (
        '{"user_id":1,"item_id":"2","time":100,"rating":3.5}\n{"user_id":"1","item_id":3,"time":200}\n\n'
        '{"user_id":2,"item_id":2,"time":300,"rating":1}\n'
    )
    assert rows(load(text, "a.jsonl")) == EVENTS


def test_without_a_header(here):
    text = "1\t2\t3.5\t100\n1\t3\t\t200\n2\t2\t1\t300\n"
    settings = {"has_header": False, "columns": {"rating": 3, "timestamp": "column_4"}}
    assert rows(load(text, "u.data", **settings)) == EVENTS
    assert [row[:2] for row in rows(load("1 2\n1 3\n2 2\n", "u.txt", has_header=False))] == [
        e[:2] for e in EVENTS
    ]


def test_adjacency_lines_of_published_splits(here):
    data = load("0 1 2 3\n1 2 5\n2\n3  7 \n", "train.txt", format="adjacency", test="train.txt")
    assert [row[:2] for row in rows(data)] == [
        ("0", "1"),
        ("0", "2"),
        ("0", "3"),
        ("1", "2"),
        ("1", "5"),
        ("3", "7"),
    ]
    assert len(data.test) == 6
    assert not data.interactions.has_time


def test_a_published_split_goes_through(here):
    (here / "train.txt").write_text("0 1 2\n1 2 3\n2 1 3\n")
    (here / "test.txt").write_text("0 3\n1 1\n2 2\n")
    data = Table(path="train.txt", test="test.txt", format="adjacency").load()
    prepared = prepare(data, DataSettings(split=SplitSettings(method="predefined")))
    assert len(prepared.test) == 3
    assert not prepared.ordered


def test_lines_of_items_are_known_by_themselves(here):
    """Their test may hold one item a user; what has a header, or equal lines, is a table."""
    (here / "train.txt").write_text("0 1 2\n1 2 3 4\n2 1\n")
    (here / "test.txt").write_text("0 3\n1 1\n2 2\n")
    data = Table(path="train.txt", test="test.txt").load()
    assert len(data.interactions) == 6 and [row[:2] for row in data.test.frame.rows()] == [
        ("0", "3"),
        ("1", "1"),
        ("2", "2"),
    ]
    assert [row[:2] for row in rows(load("user item\n1 2\n1 3\n2 2\n", "u.txt"))] == [
        event[:2] for event in EVENTS
    ]
    with pytest.raises(UserError, match=r"u.csv has no column that looks like the user"):
        load("0 1 2\n1 2 3\n", "u.csv")


def test_mapped_columns_and_their_absence(here):
    text = "who,what,when,userId,rating\na,x,5,1,3\nb,y,6,2,4\n"
    data = load(text, columns={"user": "who", "item": "what", "timestamp": "when", "rating": ""})
    assert rows(data) == [("a", "x", 5, None, 1.0), ("b", "y", 6, None, 1.0)]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1577836800", 1577836800),
        ("1577836800.9", 1577836800),
        ("1577836800123", 1577836800),
        ("1577836800123456", 1577836800),
        ("1577836800123456789", 1577836800),
        ("2020-01-01T00:00:00Z", 1577836800),
        ("2020-01-01T02:00:00.5+02:00", 1577836800),
        ("2020-01-01 00:00:00", 1577836800),
        ("2020-01-01 00:00:00.123", 1577836800),
        ("2020-01-01", 1577836800),
        ("2020-01-01T00:00", 1577836800),
        ("2020/01/01", 1577836800),
        ("20200101", 1577836800),
        ("20200101.0", 1577836800),
        ("20201301", 20201301),
    ],
)
def test_times(here, written, seconds):
    data = load(f"user,item,date\na,x,{written}\nb,y,{written}\n")
    assert data.interactions.frame["timestamp"].to_list() == [seconds, seconds]


def test_days_written_as_numbers(here):
    for days in ([20200101, 19790230, 20210101], [20200101.0, 0.0, 20210101.0]):
        pl.DataFrame({"user": ["a", "b", "a"], "item": ["x", "y", "y"], "date": days}).write_parquet(
            "a.parquet"
        )
        with pytest.raises(UserError, match="line 2: column 'date': not a time"):
            Table(path="a.parquet").load()
    found = load("user,item,date\n1,2,20200101\n2,3,20210101\n").interactions.frame["timestamp"].to_list()
    assert found == [1577836800, 1609459200]


def test_times_of_parquet(here):
    stamps = pl.Series(["2020-01-01T00:00:00"]).str.to_datetime()
    for when in (
        stamps,
        stamps.dt.replace_time_zone("UTC"),
        stamps.dt.convert_time_zone("Asia/Tokyo"),
        stamps.dt.date(),
    ):
        pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "time": pl.concat([when, when])}).write_parquet(
            "a.parquet"
        )
        assert Table(path="a.parquet").load().interactions.frame["timestamp"].to_list() == [1577836800] * 2


def test_folder_and_glob(here):
    (here / "d" / "deep").mkdir(parents=True)
    (here / "d" / "1.csv").write_text(HEAD + "1,2,3.5,100\n")
    (here / "d" / "deep" / "2.csv").write_text(HEAD + "1,3,,200\n2,2,1,300\n")
    (here / "d" / "items.csv").write_text("movieId,title\n2,Two\n")
    (here / "d" / "notes.txt").write_text("not a table")
    (here / "d" / "_SUCCESS").write_text("")
    data = Table(path="d", items={"path": "d/items.csv", "title": "title"}).load()
    assert rows(data) == EVENTS
    assert rows(Table(path="d/**/[0-9].csv").load()) == EVENTS


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "csv.gz"])
def test_a_name_with_marks_of_a_pattern_is_a_name(here, suffix):
    folder = here / "a[1]*?"
    folder.mkdir()
    frame = pl.read_csv(GOOD.encode())
    if suffix == "parquet":
        frame.write_parquet(folder / f"b[c].{suffix}")
    elif suffix == "jsonl":
        frame.write_ndjson(folder / f"b[c].{suffix}")
    else:
        raw = GOOD.encode()
        (folder / f"b[c].{suffix}").write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    assert rows(Table(path="a[1]*?").load()) == EVENTS
    assert rows(Table(path=f"a[1]*?/b[c].{suffix}").load()) == EVENTS


@pytest.mark.parametrize("column", ["timestamp", "when"])
def test_the_time_of_an_event_is_context_where_it_is_asked_for(here, column):
    data = load(
        GOOD.replace("timestamp", column), columns={"timestamp": column}, context={"timestamp": "time"}
    )
    assert rows(data) == EVENTS
    assert [(feature.name, feature.kind) for feature in data.schema.context] == [("timestamp", "time")]
    with pytest.raises(UserError, match="cannot be called 'timestamp'"):
        load(GOOD, context={"timestamp": "number"})
    with pytest.raises(UserError, match="'timestamp' is the time of the event, and the events have none"):
        load("user,item\n1,2\n2,3\n", context={"timestamp": "time"})


def test_user_and_item_tables_and_context(here):
    (here / "users.csv").write_text("user,age,city,since\n1,30,Rome,2020-01-01\n2,,,\n")
    (here / "items.jsonl").write_text(
        '{"id":2,"name":"Two","tags":["a","b"]}\n{"id":3,"name":null,"tags":[]}\n'
    )
    data = load(
        "user,item,device,hour,likes\n1,2,tv,3,x;y\n1,3,,,\n2,2,web,nan,z\n",
        context={"device": "category", "hour": "number", "likes": "bag"},
        bag_separator=";",
        users={"path": "users.csv", "features": {"age": "number", "city": "category", "since": "time"}},
        items={
            "path": "items.jsonl",
            "id": "id",
            "title": "name",
            "features": {"tags": "bag", "name": "text"},
        },
    )
    assert data.users.frame.rows() == [("1", 30.0, "Rome", 1577836800.0), ("2", None, None, None)]
    assert data.items.frame.rows() == [("2", ["a", "b"], "Two"), ("3", None, None)]
    assert data.interactions.frame["device"].to_list() == ["tv", None, "web"]
    assert data.interactions.frame["hour"].to_list() == [3.0, None, None]
    assert data.interactions.frame["likes"].to_list() == [["x", "y"], None, ["z"]]
    assert data.schema.title == "name"
    assert [feature.name for feature in data.schema.context] == ["device", "hour", "likes"]


def test_features_stand_in_one_order_however_the_settings_were_written(here):
    """Settings that are written and read again have what is one word before what is a table."""
    declared = {"tv": {"kind": "text", "ngrams": 3}, "hour": "number", "device": "category"}
    lines = "user,item,tv,hour,device\n1,2,a,3,x\n2,3,b,4,y\n"
    orders = [load(lines, context=dict(order)).schema for order in permutations(declared.items())]
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("", {}, "a.csv is empty"),
        (HEAD, {}, "a.csv has a header and no rows"),
        (HEAD + "\n\n", {}, "a.csv has a header and no rows"),
        (
            "u,x\n1,2\n",
            {},
            r"no column that looks like the user; set data.source.columns.user to one of: u, x; is the first line no "
            r"header\? \(data.source.has_header=false\)",
        ),
        (
            GOOD,
            {"columns": {"user": "userid"}},
            r"no column 'userid' .*did you mean 'userId'.*movieId, rating",
        ),
        (
            GOOD,
            {"columns": {"user": "zzz"}},
            r"no column 'zzz' .*there are: movieId, rating, timestamp, userId",
        ),
        (GOOD, {"columns": {"user": 9}}, "columns.user=9, but a.csv has 4 columns"),
        (GOOD, {"context": {"devise": "category"}}, "no column 'devise'"),
        (GOOD, {"context": {"rating": "number"}}, "cannot be called 'rating'"),
        (
            HEAD + "1,2,3,4\n1,3,good,5\n",
            {},
            r"a.csv, line 3: column 'rating': not a number from -1e\+15 to 1e\+15 \('good'\)",
        ),
        (
            HEAD + "1,2,1e39,4\n1,3,2,5\n",
            {},
            r"a.csv, line 2: column 'rating': not a number from .* \('1e39'\)",
        ),
        (
            HEAD + "1,2,inf,4\n1,3,2,5\n",
            {},
            r"a.csv, line 2: column 'rating': not a number from .* \('inf'\)",
        ),
        (HEAD + "1,2,3,4\n\n1,3,2,soon\n", {}, r"line 4: column 'timestamp': not a time .*\('soon'\)"),
        (HEAD + "1,2,3,4\n1,3,2,\n", {}, "a.csv, line 3: column 'timestamp': not a time"),
        (
            HEAD + "1,2,3,09/23/2020 08:26\n",
            {},
            r"not a time \(ISO 8601, seconds to nanoseconds since 1970, or days such as 20240131\) \('09/23/2020",
        ),
        (HEAD + "1,2,3,4\n,3,2,5\n", {}, "a.csv, line 3: column 'userId': empty"),
        (HEAD + "1,2,3,4\n1\n", {}, "a.csv, line 3: column 'movieId': empty"),
        (HEAD + "1,2,3,4\n1,3,2,5,6\n", {}, "a.csv, line 3: 5 fields where there are 4 columns"),
        ('user,item,note\n1,2,"a\nb"\n1,,c\n', {}, "a.csv, line 4: column 'item': empty"),
        (HEAD.encode() + b"1,2,3,4\n1,\xe9,2,5\n", {}, "a.csv, line 3: not UTF-8; .*iconv -f WINDOWS-1252"),
        (
            "user,item\n1,2\n".encode("utf-16"),
            {},
            "a.csv is not UTF-8: it looks like UTF-16; .*iconv -f UTF-16",
        ),
        ('user,item\n1,"x\n3,4\n', {}, "cannot be read as csv.*quotation mark"),
        ("user,item,weight\na,b,1\na,c,-2\n", {}, r"line 3: column 'weight': a weight is.*\('-2'\)"),
        ("user,item,weight\na,b,1\na,c,NaN\n", {}, "line 3: column 'weight': a weight is"),
        ("user,item,weight\na,b,1\na,c,x\n", {}, "line 3: column 'weight': a weight is"),
        (
            "user,item,hour\n1,2,3\n2,3,x\n",
            {"context": {"hour": "number"}},
            "line 3: column 'hour': not a number",
        ),
        (
            "item,user,x,user\n1,2,3,4\n",
            {},
            "two columns 'user', number 2 and 4 .*may also be told by its number",
        ),
        ("user,item\n1,2\n1,3\n", {}, "1 distinct user_id"),
        ("user,item\n1,2\n3,2\n", {}, "1 distinct item_id"),
    ],
)
def test_bad_input_is_one_clear_line(here, content, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        load(content, **settings)
    assert "\n" not in str(caught.value)


def test_of_two_columns_of_one_name_the_number_tells_which(here):
    found = load("item,user,x,user\n1,2,3,4\n2,2,3,5\n", columns={"user": 4})
    assert found.interactions.frame["user_id"].to_list() == ["4", "5"]


def test_bad_json_lines(here):
    with pytest.raises(UserError, match=r"a.jsonl, line 2: not JSON"):
        load('{"user":1,"item":2}\n{"user":1,\n', "a.jsonl")
    with pytest.raises(UserError, match=r"a.jsonl, line 2: not a JSON object"):
        load('{"user":1,"item":2}\n[1]\n', "a.jsonl")
    with pytest.raises(UserError, match=r"a.jsonl is empty"):
        load("", "a.jsonl")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("user;item;rating\n1;2;3\n2;3;x\n", "a.csv.gz", "line 3: column 'rating': not a number"),
        ("user,item\n1,2\n2,3,4\n", "a.csv.gz", "line 3: 3 fields where there are 2 columns"),
        (b"user,item\n1,2\n2,\xe9\n", "a.csv.gz", "line 3: not UTF-8"),
        ('{"user":1,"item":2}\n{"user":1,\n', "a.jsonl.gz", "line 2: not JSON"),
    ],
)
def test_bad_rows_of_packed_files(here, content, name, message):
    packed = gzip.compress(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"{name}, {message}"):
        load(packed, name)


def test_files_that_are_not_there(here):
    (here / "empty").mkdir()
    for folder, name in (("other", "ml.inter"), ("ml-100k", "u.data")):
        (here / folder).mkdir()
        (here / folder / name).write_text("1\t2\n")
    for path, message in (
        ("other", "holds no table .* a file of another name may be given by itself: ml.inter"),
        ("ml-100k", "MovieLens's own is read by data.source.name=movielens data.source.path=ml-100k"),
        ("no.csv", "no file no.csv"),
        ("*.zip", "no file matches"),
        ("empty", "holds no table"),
    ):
        with pytest.raises(UserError, match=message):
            Table(path=path).load()
    with pytest.raises(UserError, match="parquet"):
        load("junk that is no table at all", "a.parquet")


def test_a_table_of_items_without_a_header(here):
    (here / "items.csv").write_text("i1,1990\ni2,1991\n")
    with pytest.raises(UserError, match=r"\(data.source.items.has_header=false\)"):
        load(GOOD, items={"path": "items.csv"})


@pytest.mark.parametrize("spelling", ["./events.csv", "event*.csv", "{here}/events.csv"])
def test_columns_of_the_events_are_the_items_however_the_file_is_spelt(here, spelling):
    (here / "events.csv").write_text("user,item,year\na,2,1990\nb,2,1990\nb,3,\n")
    items = {"path": spelling.format(here=here), "features": {"year": "number"}}
    found = Table(path="events.csv", items=items).load()
    assert found.items.frame.rows() == [("2", 1990.0), ("3", None)]


def test_an_id_has_one_row_in_its_table(here):
    (here / "items.csv").write_text("item,year\n2,1990\n2,1991\n")
    with pytest.raises(UserError, match="'2' stands in two rows"):
        load(GOOD, items={"path": "items.csv", "features": {"year": "number"}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pth": "x"}, "unknown setting data.source.pth; did you mean 'path'"),
        ({}, "setting data.source.path is needed"),
        ({"path": "x", "on_bad_rows": "ignore"}, "data.source.on_bad_rows='ignore'"),
        ({"path": "x", "context": {"device": "kategory"}}, "data.source.context.device='kategory'"),
        ({"path": "x", "columns": {"usr": "a"}}, "data.source.columns.usr"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        registry.build("source", "table", settings, "data.source")


def test_skipped_rows_are_counted_and_told(here, caplog):
    content = (
        (HEAD + "1,2,3.5,100\n1,3,good,200\n\n2,3,4,x\n2,,4,1\n3,4,5,6,7\n3,é,1,2\n").encode()
        + b"3,\xe9,5,7\n"
        + b"2,2,1,300\n"
    )
    with caplog.at_level(logging.WARNING, "trainer"):
        data = load(content, on_bad_rows="skip")
    assert rows(data) == [("1", "2", 100, 3.5, 1.0), ("3", "é", 2, 1.0, 1.0), ("2", "2", 300, 1.0, 1.0)]
    assert "skipped 5 bad rows" in caplog.text
    told = pl.read_csv("rejects.csv", infer_schema=False).sort(pl.col("line").cast(pl.Int64))
    assert told.select("line", "value").rows() == [
        ("3", "good"),
        ("5", "x"),
        ("6", ""),
        ("7", "3,4,5,6,7"),
        ("9", "3,�,5,7"),
    ]


def test_skipped_json_lines(here):
    lines = ['{"user":1,"item":2}', '{"user":1,', '{"user":2,"item":3}', "", '{"user":2}', "[1]"]
    data = load("\n".join(lines), "a.jsonl", on_bad_rows="skip", rejects="out/told.csv")
    assert [row[:2] for row in rows(data)] == [("1", "2"), ("2", "3")]
    assert sorted(pl.read_csv("out/told.csv")["line"]) == [2, 5, 6]


def test_nothing_but_bad_rows(here):
    with pytest.raises(UserError, match="only bad rows"):
        load("user,item\n,1\n2,\n", on_bad_rows="skip")


def test_words_that_mean_none_are_no_numbers_and_no_bad_ones(here):
    (here / "users.csv").write_text("user,age\n1,NULL\n2,30\n")
    settings = {"users": {"path": "users.csv", "features": {"age": "number"}}}
    data = load(GOOD.replace("3.5", "n/a"), **settings)
    assert data.users.frame["age"].to_list() == [None, 30.0]
    assert data.interactions.frame["rating"].to_list() == [None, None, 1.0]
    (here / "users.csv").write_text("user,age\n1,old\n2,30\n")
    with pytest.raises(UserError, match="line 2: column 'age': not a number"):
        load(GOOD, **settings)
