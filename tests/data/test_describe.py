import tomllib
from datetime import time, timedelta

import polars as pl
import pytest
from described import EXPORTED, export, pasted

from trainer.data.describe.draft import describe
from trainer.data.prepare import prepare
from trainer.data.reading.kinds import kind_of
from trainer.errors import UserError


def test_latest_small(movielens_folder):
    data, settings = pasted(describe(str(movielens_folder)))
    assert len(data.interactions) == 100_836
    assert data.interactions.has_time and data.interactions.frame["rating"].null_count() < len(
        data.interactions
    )
    assert data.schema.title == "title"
    assert {feature.name: feature.kind for feature in data.schema.item} == {"title": "text", "genres": "bag"}
    assert settings.split.method == "auto"


def test_columns_left_out_are_told(tmp_path):
    path = tmp_path / "a.csv"
    lines = [f"u{i % 5},i{i % 7},ref{i},{i % 3}|{i % 4}" for i in range(60)]
    path.write_text("\n".join(["user_id,item_id,order,tags", *lines]))
    toml = describe(str(path))
    assert "# column 'order' of a.csv is left out" in toml
    data, _ = pasted(toml)
    assert data.interactions.frame["tags"].to_list()[4] == ["1", "0"]


def test_commas_between_labels(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id\na,x\nb,y\n")
    tags = ["red,blue", "blue", "red,green", "green,blue"] * 5
    pl.DataFrame({"item_id": [f"i{i}" for i in range(20)], "tags": tags}).write_csv(tmp_path / "i.csv")
    toml = describe(str(tmp_path / "a.csv"), items=str(tmp_path / "i.csv"))
    data, _ = pasted(toml)
    assert data.items.frame["tags"].to_list()[0] == ["red", "blue"]


def test_spaces_around_ids_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("user, item\na, 24\nb, 25\n")
    toml = describe(str(tmp_path / "a.csv"))
    told = "# column ' item' has ids with spaces around them, which are part of the id: ' 24'"
    assert told in toml and "column 'user'" not in toml
    assert pasted(toml)[0].interactions.frame["item_id"].to_list() == [" 24", " 25"]


@pytest.mark.parametrize("word", ["NULL", "nan", "None", "<NA>", r"\N"])
def test_ids_that_are_words_for_none_are_told(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"user,item\n{word},x\nb,nanette\n{word},z\n")
    toml = describe(str(tmp_path / "a.csv"))
    assert f"# 2 of the rows seen have the user {word!r} (column 'user'), a user like any other; " in toml
    assert toml.count("like any other") == 1


def test_no_user_column(tmp_path):
    (tmp_path / "a.csv").write_text("who,item_id\na,x\n")
    with pytest.raises(UserError, match=r"no column that looks like the user.*there are: who, item_id"):
        describe(str(tmp_path / "a.csv"))
    with pytest.raises(UserError, match=r"both the user and the item; name them: .*: a.csv \(who, item_id\)"):
        describe(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, None, 2.5], "number"),
        ([1577836800, 1577836900], "time"),
        (["2020-01-01", None, "2020-01-02"], "time"),
        (["tv", "web", "tv"], "category"),
        ([True, False], "category"),
        ([["a"], None], "bag"),
        (["a|b", "a|b", "b", "a"], "bag"),
        ([f"the long story of {i}" for i in range(50)], "text"),
        ([f"x{i}" for i in range(50)], None),
        ([None, None], None),
        ([0, 1, 2, 0, 3, 5000], "count"),
        ([0.5, 1, 2, 0, 3, 5000], "number"),
        ([-1, 1, 2, 0, 3, 5000], "number"),
        ([1990, 1991, 2020], "number"),
        ([[0.5, 1.0], [0.1, 0.2], None], "vector"),
        ([[1, 2], [2, 3]], "bag"),
        ([[0.5, 1.0], [0.1]], "bag"),
        (["0.5 1 2", None, "[0.1, 0.2, -3e-1]"], "vector"),
        (["0.5|1|2", "1|2|0.1"], "vector"),
        (["1|2|3", "2|3|1"], "bag"),
        ([19550312, None, 20201130], "time"),
        (["19550312", "20201130"], "time"),
        ([19550312, 20201350], "number"),
        ([timedelta(1), timedelta(2)], None),
        ([b"1", b"\xff"], None),
        ([{"a": 1}, {"a": 2}], None),
        ([time(1), time(2)], None),
        ([[[1]], [[2]]], None),
        ([[b"\xff"], [b"a"]], None),
        ([1.0, float("inf")], "count"),
        (["1,50", "-0,5", "1.234,00", "7", None] * 9, None),
        (["1,50", "7,1,2", "7"] * 9, "bag"),
        ([1e19, 2.0], "number"),
        (pl.Series([["a"], ["b"]], dtype=pl.List(pl.Categorical)), "bag"),
    ],
)
def test_kinds(values, kind):
    assert kind_of(pl.Series(values))[0] == kind


def test_behaviours_vectors_and_friends_are_seen(tmp_path):
    events = [f"u{i % 9},i{i % 7},{('view', 'like', 'skip')[i % 3]}" for i in range(60)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,event_type", *events]))
    items = [f'i{i},"[0.{i}, 1.5, -2]",{10 ** (i % 4)}' for i in range(7)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,image,sold", *items]))
    users = [f"u{i},u{(i + 1) % 9}|u{(i + 2) % 9}" for i in range(9)]
    (tmp_path / "users.csv").write_text("\n".join(["user_id,friends", *users]))
    toml = describe(str(tmp_path))
    assert "# column 'event_type' says what a user did" in toml
    data, settings = pasted(toml)
    assert settings.behaviours == {"like": 1.0, "skip": -1.0, "view": 1.0}
    assert data.interactions.frame["behaviour"].n_unique() == 3
    assert [(f.name, f.kind) for f in data.schema.item] == [("image", "vector"), ("sold", "count")]
    assert [(f.name, f.kind, f.of) for f in data.schema.user] == [("friends", "ids", "user")]
    assert not data.schema.context
    assert len(prepare(data, settings).negative)


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["skip", "view"]), pl.String])
def test_behaviours_of_any_type_of_text_and_with_gaps(tmp_path, dtype):
    frame = pl.DataFrame({"user_id": list("abcd") * 5, "item_id": list("vwxyz") * 4})
    said = pl.Series("event", ["view", "skip", "view", None] * 5, dtype=dtype)
    frame.with_columns(said).write_parquet(tmp_path / "a.parquet")
    toml = describe(str(tmp_path / "a.parquet"))
    assert "# column 'event' is empty in 5 of the rows seen: loading refuses them, or leaves them out" in toml
    with pytest.raises(UserError, match="column 'event': empty"):
        pasted(toml)
    frame.with_columns(said.fill_null("view")).write_parquet(tmp_path / "a.parquet")
    data, settings = pasted(describe(str(tmp_path / "a.parquet")))
    assert settings.behaviours == {"skip": -1.0, "view": 1.0}
    assert data.interactions.frame["behaviour"].to_list() == ["view", "skip", "view", "view"] * 5


def test_a_flat_log_is_parted_into_its_sides(tmp_path):
    """What follows from the item is the item's: as context of a request it would give the answer away."""
    rows = [
        f"2024-01-{1 + n // 20:02d} 10:00:{n % 20:02d} UTC,i{n % 71},{1.5 * (n % 71)},u{n % 9},{'ab'[n % 9 % 2]},{'wxyz'[n % 4]},9"
        for n in range(200)
    ]
    header = "event_time,product_id,price,customer_id,country,device,shop"
    (tmp_path / "log.csv").write_text("\n".join([header, *rows, "2024-02-01 00:00:00 UTC,i0,,u0,,x,8"]))
    data, settings = pasted(describe(str(tmp_path / "log.csv")))
    assert settings.split.method == "auto" and data.interactions.frame["timestamp"][0] == 1_704_103_200
    assert [(f.name, f.kind) for f in data.schema.item] == [("price", "number")]
    assert [(f.name, f.kind) for f in data.schema.user] == [("country", "category")]
    assert [f.name for f in data.schema.context] == ["device", "shop"]  # nearly constant is nobody's own
    assert dict(data.items.frame.select("item_id", "price").rows()) == {f"i{n}": 1.5 * n for n in range(71)}
    prepare(data, settings)


def test_decimal_commas_are_told(tmp_path):
    rows = [f"u{n % 9};i{n % 7};{n % 5},5;{n % 7},50" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id;item_id;rating;price", *rows]))
    toml = describe(str(tmp_path / "a.csv"))
    assert "# column 'price' of a.csv is left out: '0,50'; decimal commas are not read: write 1.50" in toml
    assert (
        "# column 'rating' in 60 of the rows seen: not a number" in toml and "'0,5'; loading refuses" in toml
    )
    assert "bag" not in toml and "min_rating" not in toml
    with pytest.raises(UserError, match=r"line 2: column 'rating'.*decimal commas are not read"):
        pasted(toml)


def test_a_column_of_many_events_names_is_no_behaviour(tmp_path):
    rows = [f"u{i % 9},i{i % 7},event {i}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,event", *rows]))
    assert "behaviour" not in describe(str(tmp_path / "a.csv"))


def test_context_columns_that_no_request_can_have_are_left_out(tmp_path):
    rows = [f"{i},u{i % 9},i{i % 7},{i % 24},{'ab'[i % 2]},{i % 3}" for i in range(60)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([",user_id,item_id,Hour of day,device,Unnamed: 0", *rows]))
    toml = describe(str(path))
    assert "# column '' of a.csv is left out: it has no name" in toml
    assert "# column 'Unnamed: 0' of a.csv is left out: it has no name" in toml
    assert "# column 'Hour of day' is left out of the context; to have it there, rename it: letters" in toml
    assert [feature.name for feature in pasted(toml)[0].schema.context] == ["device"]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_lists_beside_the_events(tmp_path, suffix):
    rows = [
        {"user_id": n % 9, "item_id": n % 7, "genres": [f"g{n % 7}"], "seen": ["ab"[n % 2]]}
        for n in range(60)
    ]
    path, frame = tmp_path / f"a.{suffix}", pl.DataFrame(rows)
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ndjson(path)
    data, _ = pasted(describe(str(path)))
    assert [(f.name, f.kind) for f in data.schema.item] == [("genres", "bag")]
    assert [(f.name, f.kind) for f in data.schema.context] == [("seen", "bag")]
    assert dict(data.items.frame.rows())["3"] == ["g3"]


def test_types_that_are_not_read(tmp_path):
    frame = pl.DataFrame({"user_id": ["a", "b"] * 5, "item_id": ["x", "y", "z", "x", "y"] * 2})
    frame = frame.with_columns(time=pl.lit(time(1)), took=pl.lit(timedelta(1)), raw=pl.lit(b"\xff"))
    frame.write_parquet(tmp_path / "a.parquet")
    toml = describe(str(tmp_path / "a.parquet"))
    assert "# column 'time' is not the timestamp: it holds Time" in toml
    assert "# column 'raw' of a.parquet is left out" in toml and "(Duration" in toml
    data, settings = pasted(toml)
    assert not data.interactions.has_time and settings.split.method == "random"
    frame.with_columns(user_id=pl.lit(b"\xff")).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: column 'user_id' holds Binary, which is not read as id"):
        describe(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(("ages", "kind"), [("30,NULL,41", "number"), ("30,old,41", "category")])
def test_numbers_with_words_that_mean_none_are_numbers(ages, kind):
    assert kind_of(pl.Series(ages.split(",") * 9))[0] == kind


def test_a_log_of_what_was_shown(tmp_path):
    rows = [f"u{n % 9},i{n % 7},{n % 2},{int(n % 4 == 1)},{1_600_000_000 + n}" for n in range(60)]
    (tmp_path / "shown.csv").write_text("\n".join(["user_id,item_id,click,purchase,time", *rows]))
    toml = describe(str(tmp_path / "shown.csv"))
    assert "# column 'click' is 1 where the user did it and 0 where it was only shown" in toml
    assert "# column 'purchase' is left out of the context, for it came of the row" in toml
    data = tomllib.loads(toml)["data"]
    assert data["source"]["columns"]["rating"] == "click" and data["min_rating"] == 1.0
    assert "context" not in data["source"]
    prepared = prepare(*pasted(toml))
    assert set(prepared.train.rating) == {1.0}
    assert set(prepared.rated_train.rating) == {0.0, 1.0}  # what was only shown teaches the ranking model


def test_ids_of_visits_are_no_context_and_ids_of_brands_are_no_numbers(tmp_path):
    rows = [
        f"{n // 8 % 20},{n // 4},i{n % 50},{100 + n % 50 % 5},{n % 3},Cool thing {n % 50}" for n in range(800)
    ]
    (tmp_path / "a.csv").write_text(
        "\n".join(["household_id,basket_id,item_id,brand_id,store_id,item_title", *rows])
    )
    toml = describe(str(tmp_path / "a.csv"))
    assert "# column 'basket_id' is left out: the rows of one basket_id are all of one user" in toml
    source = tomllib.loads(toml)["data"]["source"]
    assert source["context"] == {"store_id": "category"}
    assert source["items"]["title"] == "item_title"
    assert source["items"]["features"] == {"brand_id": "category", "item_title": "text"}
    assert list(source["columns"]) == ["user", "item"]


def test_columns_that_no_name_tells_may_be_named(tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(["who,what,moment", *EXPORTED]))
    (tmp_path / "b.csv").write_text("what,colour\ni1,red\n")
    with pytest.raises(UserError, match="no column that looks like the user; name it: --user COLUMN"):
        describe(str(tmp_path / "a.csv"))
    columns = {"user": "who", "item": "what", "timestamp": "moment"}
    for path in (str(tmp_path / "a.csv"), str(tmp_path)):
        data = tomllib.loads(describe(path, columns=columns))["data"]
        assert data["source"]["columns"] == columns
    assert data["source"]["items"]["id"] == "what"
    with pytest.raises(UserError, match="has no column 'whom'; did you mean 'who'"):
        describe(str(tmp_path / "a.csv"), columns={"user": "whom"})


def test_usual_names_come_before_other_words(tmp_path):
    export(tmp_path, "events.csv")
    (tmp_path / "listings.csv").write_text("item_id,member_id\n" + "i0,m0\ni1,m0\ni2,m1\n")
    source = tomllib.loads(describe(str(tmp_path)))["data"]["source"]
    assert source["path"].endswith("events.csv") and source["items"]["path"].endswith("listings.csv")


def test_flags_of_the_item_are_its_own_however_rare_and_are_no_behaviours(tmp_path):
    rows = [
        f"u{n % 40},i{n % 100},{int(n % 100 == 7)},{int(n % 100 < 30)},{int(n % 93 == 1)}"
        for n in range(4_000)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,Western,Action,mobile", *rows]))
    data = tomllib.loads(describe(str(tmp_path / "a.csv")))["data"]
    assert data["source"]["items"]["features"] == {"Western": "number", "Action": "number"}
    assert data["source"]["context"] == {"mobile": "number"}
    assert "behaviours" not in data


@pytest.mark.parametrize("written", ["['red', 'dark blue']", '["red","dark blue"]', "[red, dark blue]"])
def test_lists_as_python_and_json_write_them_are_bags(tmp_path, written):
    table = ("\t".join(["item_id", "colours"]), *(f"i{n}\t{written if n else '[]'}" for n in range(30)))
    (tmp_path / "items.tsv").write_text("\n".join(table))
    export(tmp_path, "a.csv")
    toml = describe(str(tmp_path))
    assert tomllib.loads(toml)["data"]["source"]["items"]["features"] == {"colours": "bag"}
    assert pasted(toml)[0].items.frame["colours"].to_list()[:2] == [None, ["red", "dark blue"]]


def test_a_column_of_the_item_beside_a_table_of_items_is_left_out_and_told(tmp_path):
    rows = [f"u{n % 9},i{n % 7},{n % 7 + 0.5}" for n in range(200)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,price", *rows]))
    (tmp_path / "items.csv").write_text("item_id,colour\n" + "".join(f"i{n},red\n" for n in range(7)))
    toml = describe(str(tmp_path))
    assert "# price: left out, the same in all rows of one item, whose features are in a table" in toml
    source = tomllib.loads(toml)["data"]["source"]
    assert "context" not in source and source["items"]["features"] == {"colour": "category"}
