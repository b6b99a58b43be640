"""Id embeddings by hand: messages over a graph of two users and three items, starts from factorisations, norm limits."""

import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from trainer import memory, registry
from trainer.checks import check
from trainer.config import with_settings
from trainer.errors import UserError
from trainer.export.cascade_choice import choose
from trainer.ranking.cascade import Cascade
from trainer.ranking.train import build_ranking
from trainer.retrieval.blending import attach
from trainer.retrieval.retriever import Retriever
from trainer.retrieval.train import build_retrieval
from trainer.towers.tower import IdEmbedding

PAIRS = (np.array([1, 1, 2, 2, 2]), np.array([1, 2, 2, 2, 3]))  # user 2 had item 2 twice: one edge


def graph_of(**settings):
    users, items = IdEmbedding(3, 2), IdEmbedding(4, 2)  # user 3 and item 4 have no edges
    made = registry.build("embedding", "lightgcn", settings, users=users, items=items, pairs=PAIRS)
    return made, users, items


def test_messages_by_hand():
    made, users, items = graph_of(layers=2)
    users.embedding.set_weights([np.array([[9, 9], [1, 0], [0, 1], [4, 4]], np.float32)])
    items.embedding.set_weights([np.array([[8, 8], [2, 0], [0, 2], [1, 1], [6, 6]], np.float32)])
    made.refresh()
    root = np.sqrt(2)
    # degrees: users 2, 2; items 1, 2, 1. First round: user 1 = item 1 / sqrt(2 * 1) + item 2 / sqrt(2 * 2)
    first_user = np.array([2, 0]) / root + np.array([0, 2]) / 2
    first_items = [
        np.array([1, 0]) / root,
        np.array([1, 0]) / 2 + np.array([0, 1]) / 2,
        np.array([0, 1]) / root,
    ]
    second_user = first_items[0] / root + first_items[1] / 2
    wanted = (np.array([1, 0]) + first_user + second_user) / 3
    np.testing.assert_allclose(users(tf.constant([1]))[0], wanted, rtol=1e-6)
    np.testing.assert_allclose(users(tf.constant([3]))[0], np.array([4, 4]) / 3, rtol=1e-6)
    np.testing.assert_allclose(items(tf.constant([4, 0])), [[2, 2], [8 / 3, 8 / 3]], rtol=1e-6)


def test_only_training_passes_gradients_through_the_graph():
    for when, reached in (("training", True), ("inference", False)):
        made, users, items = graph_of(layers=1, when=when)
        with tf.GradientTape() as tape, made.step():
            loss = tf.reduce_sum(users(tf.constant([1])) ** 2)
        gradient = tape.gradient(loss, items.embedding.embeddings)
        assert (gradient is not None) is reached


def test_inference_reads_what_was_last_refreshed():
    made, users, _ = graph_of(layers=1)
    before = users(tf.constant([1])).numpy()
    users.embedding.embeddings.assign_add(tf.ones_like(users.embedding.embeddings))
    np.testing.assert_array_equal(users(tf.constant([1])), before)
    made.refresh()
    assert (users(tf.constant([1])).numpy() != before).all()


def test_later_events_speak_without_training():
    """User 1 has had item 3 since; user 4 and item 5 came later, and have no vectors that could pass."""
    made, users, items = graph_of(layers=1)
    before = users(tf.constant([1, 2, 3])).numpy()
    later = (np.append(PAIRS[0], [1, 4, 2]), np.append(PAIRS[1], [3, 1, 5]))
    made.refresh(later)
    table, other = users.embedding.embeddings.numpy(), items.embedding.embeddings.numpy()
    # degrees: users 3, 2; items 1, 2, 2
    message = other[1] / np.sqrt(3) + other[2] / np.sqrt(6) + other[3] / np.sqrt(6)
    np.testing.assert_allclose(users(tf.constant([1]))[0], (table[1] + message) / 2, rtol=1e-5)
    made.refresh()
    np.testing.assert_allclose(users(tf.constant([1, 2, 3])), before, rtol=1e-6)


def test_later_events_may_be_left_out_of_the_graph():
    made, users, _ = graph_of(layers=1, over="trained")
    before = users(tf.constant([1, 2, 3])).numpy()
    made.refresh((np.append(PAIRS[0], [1]), np.append(PAIRS[1], [3])))
    np.testing.assert_array_equal(users(tf.constant([1, 2, 3])), before)


@pytest.mark.slow
def test_an_exported_graph_holds_the_validation_events(tiny_config, tiny_prepared, tmp_path, quiet):
    """Also after the weights of the cascade were chosen, for which they are left out."""
    graph = {"retrieval.embedding": {"name": "lightgcn", "layers": 1}, "retrieval.factorisation": "none"}
    config = with_settings(tiny_config, graph)
    retriever = build_retrieval(config, tiny_prepared).model.retriever
    trained = retriever.embedding.made[0].numpy()
    attach(retriever, config, tiny_prepared, tmp_path, quiet)
    exported = retriever.embedding.made[0].numpy()
    assert (
        np.abs(exported - trained).max(axis=1) > 0
    ).mean() > 0.9  # nearly every user has a validation event
    ranker = build_ranking(config, tiny_prepared, quiet).model.network
    choose(retriever, Cascade(ranker, config.export.cascade), config, tiny_prepared, tmp_path)
    np.testing.assert_array_equal(retriever.embedding.made[0], exported)


def test_a_graph_needs_users_and_a_layer(tiny_config):
    settings = {"retrieval.embedding": {"name": "lightgcn"}, "retrieval.user_id": False}
    with pytest.raises(UserError, match=r"retrieval\.user_id=true"):
        check(with_settings(tiny_config, settings))
    with pytest.raises(UserError, match=r"embedding\.layers=0"):
        graph_of(layers=0)


def test_a_dimension_beyond_the_memory_is_told_by_its_setting(tiny_config, tiny_prepared):
    settings = with_settings(tiny_config, {"retrieval.embedding_dimension": 10**9}).retrieval
    with pytest.raises(UserError, match=r"1,000,000,000 dimensions needs .* retrieval\.embedding_dimension"):
        Retriever(settings, tiny_prepared)


def test_long_vectors_are_shortened():
    table = IdEmbedding(2, 2, max_norm=1.0)
    table.embedding.build(None)
    table.embedding.set_weights([np.array([[3, 4], [0.3, 0.4], [0, 2]], np.float32)])
    np.testing.assert_allclose(table(tf.constant([0, 1, 2])), [[0.6, 0.8], [0.3, 0.4], [0, 1]], rtol=1e-6)


def test_messages_come_from_shortened_vectors():
    """What training reads is what messages are made of."""
    tables = [IdEmbedding(1, 2, max_norm=1.0) for _ in range(2)]
    pairs = (np.array([1]), np.array([1]))
    settings = {"layers": 1, "when": "inference"}
    made = registry.build("embedding", "lightgcn", settings, users=tables[0], items=tables[1], pairs=pairs)
    for table in tables:
        table.embedding.set_weights([np.array([[0, 0], [3, 4]], np.float32)])
    made.refresh()
    np.testing.assert_allclose(tables[0].instead[1], [0.6, 0.8], rtol=1e-6)


def test_weight_decay_is_the_mean_square_of_what_a_batch_reads():
    table = IdEmbedding(2, 2, l2=0.5)
    table.embedding.build(None)
    table.embedding.set_weights([np.array([[9, 9], [3, 4], [0, 2]], np.float32)])
    table(tf.constant([1, 2, 2]))
    assert [float(loss) for loss in table.losses] == [0.5 * (25 + 4 + 4) / 3]


FITTED = [name for name in registry.names("start") if name != "random"]


@pytest.mark.parametrize(
    ("name", "dimension", "free", "advice"),
    [
        *((name, 200_000_000, None, r"retrieval\.embedding_dimension") for name in FITTED),
        ("item2vec", 4, 0, r"retrieval\.start\.window"),
    ],
)
def test_a_start_above_the_memory_is_told_and_left_out(
    tiny_prepared, monkeypatch, caplog, name, dimension, free, advice
):
    if free is not None:
        monkeypatch.setattr(memory, "available", lambda: free)
    caplog.set_level("WARNING", "trainer")
    given = {"prepared": tiny_prepared, "dimension": dimension}
    assert registry.build("start", name, {}, "retrieval.start", **given) is None
    (line,) = caplog.messages
    assert re.fullmatch(
        rf"retrieval\.start\.name={name} needs .* GB .*the embeddings start random \(.*{advice}.*", line
    )


def test_a_model_goes_on_from_random_rows(tiny_config, tiny_prepared, monkeypatch):
    rows = max(tiny_prepared.users.trained, tiny_prepared.items.trained) + 1
    monkeypatch.setattr(memory, "available", lambda: 4 * rows * 64)  # as much as a table takes
    vectors = []
    for name in ("svd", "random"):
        tf.keras.utils.set_random_seed(1)
        settings = with_settings(tiny_config, {"retrieval.start": {"name": name}})
        retriever = Retriever(settings.retrieval, tiny_prepared)
        vectors.append(retriever.candidate_tower.ids(tf.range(5)).numpy())
    np.testing.assert_array_equal(*vectors)


def test_a_start_whose_library_is_missing_is_told_by_its_setting(tiny_prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(UserError, match=r"retrieval\.start\.name=als needs the library implicit"):
        registry.build("start", "als", {}, "retrieval.start", prepared=tiny_prepared, dimension=4)


@pytest.mark.parametrize("name", FITTED)
def test_a_start_puts_items_near_that_share_users(tiny_config, tiny_prepared, name):
    """Items that many users share have nearer vectors than items that none share; dimension beyond the rank is filled with zeros."""
    settings = with_settings(
        tiny_config, {"retrieval.start": {"name": name}, "retrieval.embedding_dimension": 16}
    )
    retriever = Retriever(settings.retrieval, tiny_prepared)
    items, train = tiny_prepared.items.trained, tiny_prepared.train
    both = np.zeros((len(tiny_prepared.users), items + 1))
    both[train.user, train.item] = 1
    shared = (both.T @ both)[1:, 1:]
    vectors = retriever.candidate_tower.ids(tf.range(1, items + 1)).numpy()
    assert np.isfinite(vectors).all()
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    cosines, apart = unit @ unit.T, ~np.eye(items, dtype=bool)
    often = shared >= np.quantile(shared[apart], 0.98)
    assert cosines[often & apart].mean() > cosines[(shared == 0) & apart].mean() + 0.05
