"""Users and items of the test part alone, in a bundle for use after the test: they have no row in any table that was trained."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.blocks.block import Block
from trainer.experiment import histories
from trainer.export.serving_model import ServingModel
from trainer.export.signatures import longest
from trainer.index.brute_force import BruteForce
from trainer.ranking.cascade import Cascade
from trainer.retrieval.blending import combine, popularity_block
from trainer.retrieval.retriever import Retriever
from trainer.settings import CascadeSettings, ExportSettings

HAD = [5, 3, 8]  # item rows


@pytest.fixture(scope="module")
def serving(tiny_config, tiny_prepared) -> Any:
    last = len(tiny_prepared.users)
    columns = dataclasses.asdict(tiny_prepared.everything)
    new = {
        "user": np.full(len(HAD), last, np.int32),
        "item": np.array(HAD, np.int32),
        "timestamp": np.arange(len(HAD)),
        "rating": np.ones(len(HAD), np.float32),
        "weight": np.ones(len(HAD), np.float32),
    }
    joined = {name: np.concatenate([columns[name], column]) for name, column in new.items()}
    everything = dataclasses.replace(tiny_prepared.everything, context={}, **joined)
    served = dataclasses.replace(tiny_prepared, everything=everything, newcomers=("new",)).with_test()
    retriever = Retriever(tiny_config.retrieval, tiny_prepared)
    retriever.history_length = 10
    combine(retriever, None, served.before_test, served, 0)
    cascade, settings = Cascade(None, CascadeSettings()), ExportSettings(similar_users=False)
    return ServingModel(retriever, served, histories(served), BruteForce(), cascade, settings)


def test_a_newcomer_is_answered_by_history_and_gets_none_of_it_back(serving, tiny_prepared):
    count, nothing = len(tiny_prepared.items) - 1, tf.constant([[""]])
    found = serving.recommend(tf.constant(["new"]), tf.constant([count]), nothing)
    had = tiny_prepared.items.decode(np.array(HAD))
    ids = [item.decode() for item in found["item_id"].numpy()[0] if item]
    assert found["path"].numpy().tolist() == [b"history"]
    assert not {*ids} & {*had} and len(ids) == count - len(HAD)
    told = serving.history(tf.constant(["new"]), tf.constant([3]))["item_id"].numpy()[0].tolist()
    assert [item.decode() for item in told] == had[::-1]
    same = serving.recommend_history(tf.constant([had]), tf.constant([count]), nothing)
    np.testing.assert_allclose(found["score"], same["score"], atol=1e-5)


def test_one_batch_holds_a_newcomer_a_known_user_and_a_stranger(serving, tiny_prepared):
    users = tf.constant(["new", tiny_prepared.users.values[0], "nobody"])
    found = serving.recommend(users, tf.constant([3] * 3), tf.fill([3, 0], ""))
    assert found["path"].numpy().tolist() == [b"history", b"known", b"popularity"]
    assert (found["item_id"].numpy() != b"").all()


def test_answers_one_row_at_a_time_are_those_at_once(serving, tiny_prepared, monkeypatch):
    """With and without wishes, and of what is alike: wide batches hold no more scores than that."""
    users, items = ["new", *tiny_prepared.users.values[:2]], list(tiny_prepared.items.values[:3])
    k, nothing = tf.constant([4, 300, 2]), tf.fill([3, 1], "")
    wishes = [tf.constant([[items[0], items[2]], ["", ""], ["", ""]]), nothing, tf.constant([0.0, 0.5, 0.0])]
    dials = tf.constant([0.0, 1.0, -1.0])

    excluded = tf.constant([[items[1]], ["x"], [""]])

    def answers():
        return [
            serving.recommend(tf.constant(users), k, nothing),
            serving.recommend_with(tf.constant(users), nothing, k, excluded, *wishes, dials),
            serving.similar_items(tf.constant(items), k),
        ]

    at_once = answers()
    monkeypatch.setattr("trainer.index.top.MOST_SCORES", 1)
    for one, other in zip(answers(), at_once, strict=True):
        assert one["item_id"].numpy().tolist() == other["item_id"].numpy().tolist()
        np.testing.assert_allclose(one["score"], other["score"], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def told(tiny_config, tiny_prepared) -> Any:
    """A bundle without towers, and two items that came after their training: a block knows the first."""
    new = {"fresh": "A fresh one", "silent": "Nobody had it"}
    served = dataclasses.replace(tiny_prepared, new_items=new).with_test()
    vectors = np.random.default_rng(0).normal(size=(len(served.items), 4)).astype(np.float32)
    vectors[[0, -1]] = 0
    retriever = Retriever(tiny_config.retrieval, tiny_prepared)
    degree = np.arange(1.0, len(served.items) + 1)
    retriever.combine(0.0, [Block("ease", vectors, vectors), popularity_block(degree, 1e-3)])
    cascade, settings = Cascade(None, CascadeSettings()), ExportSettings(similar_users=False)
    return ServingModel(retriever, served, histories(served), BruteForce(), cascade, settings)


def test_an_item_of_the_test_is_recommended_named_and_has_its_like(told):
    nothing = tf.constant([[""]])
    found = told.recommend_history(tf.constant([["fresh"]]), tf.constant([3]), nothing)
    assert found["path"].numpy().tolist() == [b"history"] and (found["score"].numpy() > 0.1).all()
    every = told.recommend(tf.constant(["nobody"]), tf.constant([len(told.item_ids) - 1]), nothing)
    assert {b"fresh", b"silent"} < {*every["item_id"].numpy()[0]}
    assert told.titles(tf.constant(["fresh"]))["title"].numpy().tolist() == [b"A fresh one"]
    alike = told.similar_items(tf.constant(["fresh", "silent"]), tf.constant([2, 2]))["item_id"].numpy()
    assert (alike[0] != b"").all() and (alike[1] == b"").all()  # all are as much like what nobody had


def test_an_item_that_tells_nothing_leaves_the_answer_as_it_was(told, tiny_prepared):
    user, k, none = tf.constant([tiny_prepared.users.values[0]]), tf.constant([5]), tf.constant([[""]])
    wishes = [none, none, tf.constant([0.0]), tf.constant([0.0])]
    usual = told.recommend(user, k, none)
    given = told.recommend_with(user, tf.constant([["silent"]]), k, none, *wishes)
    assert given["path"].numpy().tolist() == [b"known"]
    assert given["item_id"].numpy().tolist() == usual["item_id"].numpy().tolist()
    alone = told.recommend_history(tf.constant([["silent"]]), k, none)
    assert alone["path"].numpy().tolist() == [b"popularity"]
    every = tf.constant([len(told.item_ids) - 1])
    again = told.recommend_with(user, tf.constant([["silent"]]), every, none, *wishes)
    assert b"silent" not in again["item_id"].numpy()  # it was had all the same


def test_what_only_towers_read_is_told_where_they_have_no_weight(tiny_config, tiny_prepared):
    retriever = Retriever(tiny_config.retrieval, tiny_prepared)
    assert retriever.unheard(tiny_prepared) == []
    retriever.combine(0.0, [])
    (line,) = retriever.unheard(tiny_prepared)
    schema = tiny_prepared.schema
    assert all(one.name in line for one in (*schema.user, *schema.item, *schema.context))
    assert "no say in what is retrieved" in line


def test_where_no_validation_weighs_the_towers_it_is_said(tiny_config, tiny_prepared):
    retriever = Retriever(tiny_config.retrieval, tiny_prepared)
    unweighed = dataclasses.replace(tiny_prepared, validation=tiny_prepared.validation.at_most(0))
    assert retriever.unheard(unweighed) == []
    retriever.combine(0.0, [])
    (line,) = retriever.unheard(unweighed)
    assert line.startswith(
        "no user has events enough for a case of validation, so the towers have no weight: "
    )


@pytest.mark.parametrize(
    ("k", "columns"),
    [
        ([5, 3], 5),
        ([-2], 0),
        ([], 0),
        ([2**31 - 1], 4_194_304),
        ([2**31 - 1] * 3_000, 1_398),
        ([7] * 5_000_000, 1),
    ],
)
def test_an_answer_has_four_million_places_at_most(k, columns):
    assert longest(tf.constant(k, tf.int32)).numpy() == columns
