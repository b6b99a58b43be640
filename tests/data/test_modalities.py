"""Kinds of features from files to raw values: vectors, counts, related ids, shared texts; and what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from trainer import registry
from trainer.data.interactions import Corpus, Feature, Schema
from trainer.data.prepare import prepare
from trainer.data.raw import raw_column
from trainer.errors import UserError
from trainer.settings import DataSettings, SplitSettings

EVENTS = "user,item\nA,a\nA,b\nB,a\nB,b\nC,a\nC,b\n"
NAN = float("nan")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads EVENTS beside a table of items, given as text of CSV, as rows of JSON or as a frame of Parquet."""
    monkeypatch.chdir(tmp_path)

    def made(items, features, **more):
        if isinstance(items, str):
            name = "items.csv"
            (tmp_path / name).write_text(items)
        elif isinstance(items, pl.DataFrame):
            name = "items.parquet"
            items.write_parquet(name)
        else:
            name = "items.jsonl"
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in items))
        (tmp_path / "events.csv").write_text(more.pop("events", EVENTS))
        settings = {"path": "events.csv", "items": {"path": name, "features": features}, **more}
        return registry.build("source", "table", settings, "data.source").load()

    return made


def prepared(data, **settings):
    return prepare(data, DataSettings(split=SplitSettings(method="random", test_fraction=0.3), **settings))


@pytest.mark.parametrize(
    "items",
    [
        'item,image\na,"[0.5, -1]"\nb,\n',
        "item,image\na,0.5 -1\nb,\n",
        "item,image\na,0.5|-1\nb,\n",
        'item,image\na,"(0.5;  -1e0)"\nb,\n',
        [{"item": "a", "image": [0.5, -1]}, {"item": "b", "image": None}],
        [{"item": "a", "image": [0.5, -1]}, {"item": "b", "image": []}],
        pl.DataFrame({"item": ["a", "b"], "image": [[0.5, -1.0], None]}),
        pl.DataFrame(
            {"item": ["a", "b"], "image": [[0.5, -1.0], None]},
            schema={"item": pl.String, "image": pl.Array(pl.Float64, 2)},
        ),
    ],
)
def test_vectors_as_they_are_written(load, items):
    data = load(items, {"image": "vector"})
    assert data.items.frame["image"].to_list() == [[0.5, -1.0], None]
    found = prepared(data)
    place = found.items.values.index("a") + 1
    assert found.item_features["image"].dtype == np.float32
    np.testing.assert_array_equal(found.item_features["image"][place], [0.5, -1])
    assert np.isnan(np.delete(found.item_features["image"], place, axis=0)).all()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            "item,image\na,0.5 1\nb,0.5\nc,1 2\n",
            r"items.csv, line 3: column 'image': not 2 finite.*\('0.5'\)",
        ),
        ("item,image\na,0.5 1\nb,0.5 nan\n", r"items.csv, line 3: column 'image': not 2 finite.*'0.5 nan'"),
        ("item,image\na,0.5 1\nb,0.5 inf\n", r"line 3: column 'image': not 2 finite"),
        ("item,image\na,0.5 1\nb,0.5 x\n", r"line 3: column 'image': not 2 finite.*'0.5 x'"),
        (
            [{"item": "a", "image": [1, 2.5]}, {"item": "b", "image": [1, None]}],
            r"items.jsonl, line 2: column 'image': not 2 finite numbers.*\('\[1.0, None\]'\)",
        ),
        (
            pl.DataFrame({"item": ["a", "b", "c"], "image": [[0.5], [1.0, NAN], [1.0, 2.0]]}),
            r"items.parquet, line 1: column 'image': not 2 finite numbers, as most rows have \('\[0.5\]'\)",
        ),
        ("item,clicks\na,3\nb,-1\n", r"line 3: column 'clicks': a count is a number of at least 0 \('-1'\)"),
        ("item,clicks\na,3\nb,many\n", r"line 3: column 'clicks': a count is a number .*\('many'\)"),
    ],
)
def test_bad_values_are_one_clear_line(load, items, message):
    features = {"clicks": "count"} if "clicks" in str(items) else {"image": "vector"}
    with pytest.raises(UserError, match=message) as caught:
        load(items, features)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_long_bad_vector_is_shown_by_its_beginning(load):
    rows = [{"item": name, "image": [0.25] * 300} for name in "ab"]
    rows[1]["image"] = rows[1]["image"][:-1]
    rows.append({"item": "c", "image": [0.5] * 300})
    with pytest.raises(UserError, match=r"line 2.*not 300 finite numbers.*0\.25\.\.\.'\)") as caught:
        load(rows, {"image": "vector"})
    assert len(str(caught.value)) < 200


def test_bad_vectors_can_be_skipped_like_any_row(load):
    data = load("item,image\na,0.5 1\nb,0.5\nc,1 2\n", {"image": "vector"}, on_bad_rows="skip")
    assert data.items.frame["item_id"].to_list() == ["a", "c"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, 2.0], [1.0]], "vector 'image' of item_id 'b' has 1 numbers; it takes 2 finite"),
        ([[1.0, 2.0], [1.0, NAN]], "vector 'image' of item_id 'b' has one that is missing or not finite"),
        ([[1.0, None], None], "vector 'image' of item_id 'a' has one that is missing"),
    ],
)
def test_every_source_is_checked(make, vectors, message):
    items = pl.DataFrame({"item_id": ["a", "b"], "image": vectors})
    schema = Schema(item=(Feature(name="image", kind="vector"),))
    with pytest.raises(UserError, match=message):
        make([("A", "a", 1), ("B", "b", 2)], items=items, schema=schema)


def test_vectors_of_the_context_go_with_their_events(make):
    rows = [("A", "a", 1), ("A", "b", 2), ("A", "c", 3), ("B", "b", 1), ("B", "a", 2), ("B", "c", 9)]
    query = [[1.0, 2.0], None, None, [3.0, 4.0], None, [5.0, 6.0]]
    schema = Schema(context=(Feature(name="query", kind="vector"),))
    found = prepare(
        make(rows, schema=schema, query=query), DataSettings(split=SplitSettings(method="leave_last_out"))
    )
    np.testing.assert_array_equal(found.train.context["query"], [[1, 2], [3, 4]])
    assert found.validation.context["query"].shape == (2, 2)  # none is there, and yet as wide
    assert np.isnan(found.validation.context["query"]).all()
    np.testing.assert_array_equal(found.test.context["query"][1], [5, 6])
    with pytest.raises(UserError, match="vector 'query' of event 4 has 1 numbers; it takes 2"):
        make(rows, schema=schema, query=[*query[:3], [3.0], *query[4:]])


def test_a_column_without_any_vector_is_all_missing():
    found = raw_column(pl.Series([None, None], dtype=pl.List(pl.Float32)), "vector")
    assert found.shape == (2, 1) and np.isnan(found).all()


def test_related_ids_are_those_of_the_data_set(load):
    (rows := [{"item": "a", "like": ["b", "zz"]}, {"item": "b", "like": []}]).append(
        {"item": "c", "like": ["zz"]}
    )
    data = load(rows, {"like": "ids"})
    assert data.schema.item[0].of == "item"
    found = prepared(data)
    by_id = dict(zip(("", *found.items.values), found.item_features["like"], strict=True))
    assert by_id == {"": [], "a": ["b"], "b": [], "c": []}


def test_friends_are_users_and_a_basket_holds_items(load):
    users = "user,friends\nA,B|C\nB,A|stranger\nC,\n"
    Path("users.csv").write_text(users)
    events = "user,item,basket,seen_with\nA,a,b|no,B\nA,b,,\nB,a,b,C\nB,b,a,C\nC,a,b,\nC,b,a|b,A\n"
    data = load(
        "item\na\nb\n",
        {},
        events=events,
        context={"basket": "ids", "seen_with": {"kind": "ids", "of": "user"}},
        users={"path": "users.csv", "features": {"friends": "ids"}},
    )
    assert [feature.of for feature in data.schema.context] == ["item", "user"]
    found = prepared(data)
    by_id = dict(zip(("", *found.users.values), found.user_features["friends"], strict=True))
    assert by_id == {"": [], "A": ["B", "C"], "B": ["A"], "C": []}
    assert set(found.rated_train.context["basket"]) <= {"", "a", "b", "a|b"}


def test_ids_of_another_data_set(load):
    rows = [{"item": "a", "like": ["x1", "x2"]}, {"item": "b", "like": ["x3"]}]
    with pytest.raises(
        UserError,
        match=r"'like' lists items like 'x1', and none of them is one of this data set.*another one\?",
    ):
        prepared(load(rows, {"like": "ids"}))
    with pytest.raises(UserError, match=r"table of item_ids has a row for none of the 2 .* another data set"):
        prepared(load("item,year\nx1,1990\nx2,1991\n", {"year": "number"}))


def test_settings_of_a_feature(load):
    shared = {"kind": "text", "shares": "words", "ngrams": 3}
    events = "user,item,query\nA,a,red\nA,b,\nB,a,blue\nB,b,red\nC,a,red\nC,b,blue\n"
    data = load("item,title\na,Red\nb,Blue\n", {"title": shared}, events=events, context={"query": shared})
    for feature in (*data.schema.item, *data.schema.context):
        assert (feature.kind, feature.shares, feature.ngrams) == ("text", "words", 3)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (
            "vektor",
            r"data.source.items.features.title='vektor': no such kind of feature; did you mean 'vector'",
        ),
        ({"kind": "number", "ngrams": 3}, r"ngrams are of texts, and this is of kind 'number'"),
        ({"kind": "text", "of": "user"}, r"of='user' is for ids"),
        (
            {"kind": "text", "grams": 3},
            r"unknown setting data.source.items.features.title.grams; did you mean 'ngrams'",
        ),
        ({"kind": "text", "ngrams": 99}, r"data.source.items.features.title.ngrams=99"),
        ({"shares": "x"}, r"data.source.items.features.title.kind"),
    ],
)
def test_wrong_settings_of_a_feature_are_named(load, feature, message):
    with pytest.raises(UserError, match=message) as caught:
        load("item,title\na,Red\nb,Blue\n", {"title": feature})
    assert "\n" not in str(caught.value)


def test_only_like_shares_with_like(load):
    with pytest.raises(
        UserError, match="'title' and 'query' share 'words': they need the same kind, the same ngrams"
    ):
        load(
            "item,title\na,Red\nb,Blue\n",
            {"title": {"kind": "text", "shares": "words"}},
            events="user,item,query\nA,a,x\nB,b,y\n",
            context={"query": {"kind": "category", "shares": "words"}},
        )


def test_the_fingerprint_sees_a_vector_that_changes(make):
    def of(vectors):
        items = pl.DataFrame({"item_id": ["a", "b"], "image": vectors})
        users = pl.DataFrame({"user_id": ["A", "B"]})
        schema = Schema(item=(Feature(name="image", kind="vector"),))
        return make([("A", "a", 1), ("B", "b", 2)], users=users, items=items, schema=schema).fingerprint()

    same = of([[1.0, 2.0], None])
    assert of([[1.0, 2.0], None]) == same != of([[1.0, 2.5], None])


def test_a_corpus_of_other_ids_without_features_is_nobodys_business(make):
    data = make(
        [("A", "a", 1), ("A", "b", 2), ("B", "b", 1), ("B", "a", 2)], items=pl.DataFrame({"item_id": ["x"]})
    )
    assert isinstance(data.items, Corpus)
    assert prepare(data, DataSettings(split=SplitSettings(method="leave_last_out"))).items.values == (
        "a",
        "b",
    )
