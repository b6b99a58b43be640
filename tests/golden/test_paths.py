"""Which path answers a query, and what popularity says of one that brings nothing, beside towers of every similarity."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from trainer.blocks.block import Block
from trainer.data.interactions import Feature, Schema
from trainer.errors import UserError
from trainer.export.neighbours import Queries, SimilarItems, SimilarUsers
from trainer.export.selection import diversified, filter_feature
from trainer.index.top import LOWEST, Vectors
from trainer.retrieval.blending import combine, popularity_block
from trainer.retrieval.inference import in_blocks
from trainer.retrieval.retriever import PATHS, Retriever
from trainer.settings import RetrievalSettings
from trainer.towers.similarity import candidate_side, query_side

HISTORIES = [[1, 2, 3, 4], [3, 2, 1, 5], [3, 1, 2, 4], [3, 4, 5, 1]]


@pytest.fixture(params=["cosine", "dot", "euclidean"])
def retriever(request, make_prepared):
    """Towers alone, untrained; a second one of the same weights carries popularity."""
    prepared = make_prepared(HISTORIES)
    tf.keras.utils.set_random_seed(1)
    made = Retriever(RetrievalSettings(embedding_dimension=4, similarity=request.param), prepared)
    made.history_length = 3
    return made, prepared


def asked():
    """A known user, a stranger with a history, and one who brings nothing."""
    history = tf.RaggedTensor.from_row_lengths(tf.constant([1, 2, 4, 5]), tf.constant([2, 2, 0], tf.int64))
    return tf.constant([2, 0, 0]), history, {}


def test_towers_alone_answer_by_popularity_where_there_is_nothing_else(retriever):
    made, prepared = retriever
    before = made.queries(*asked()).numpy() @ in_blocks(made.candidates, 6).T
    combine(made, None, prepared.before_test, prepared, 0)
    after = made.queries(*asked()).numpy() @ in_blocks(made.candidates, 6).T
    assert [PATHS[path] for path in made.path(*asked()).numpy()] == ["known", "history", "popularity"]
    np.testing.assert_allclose(after[:2], before[:2], atol=1e-6)
    count = np.bincount(prepared.before_test.item, minlength=6)[1:]
    assert (np.argsort(-after[2, 1:], kind="stable") == np.argsort(-count, kind="stable")).all()
    np.testing.assert_allclose(after[2, 1:] / after[2, 1], np.log1p(count) / np.log1p(count[0]), rtol=1e-5)


def test_items_are_alike_as_the_towers_say(retriever):
    made, prepared = retriever
    plain = made.candidate_tower.embed(tf.range(6)).numpy()
    combine(made, None, prepared.before_test, prepared, 0)
    vectors = tf.constant(in_blocks(made.candidates, 6))
    found = made.similar(vectors).numpy() @ vectors.numpy().T / made.lengths(vectors).numpy()
    if made.similarity == "euclidean":
        wanted = -np.square(plain[:, None] - plain[None]).sum(axis=2)
    else:
        unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
        wanted = unit @ unit.T
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_beside_blocks_items_are_alike_by_the_cosine_of_the_parts_weighed(retriever):
    """Popularity, the last column, has no say whatever its weight."""
    made, _ = retriever
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(6, width)).astype(np.float32) for width in (3, 2)]
    scales, degree = (0.5, 4.0), np.array([1, 2, 9, 90, 900, 9000.0])
    blocks = [Block("taste", table, table, scale=scale) for table, scale in zip(tables, scales, strict=True)]
    made.combine(0.2, [*blocks, popularity_block(degree, 100.0)])
    vectors = tf.constant(in_blocks(made.candidates, 6))
    found = made.similar(vectors).numpy() @ vectors.numpy().T / made.lengths(vectors).numpy()
    weight = 0.4 if made.similarity == "euclidean" else 0.2  # that has twice the product
    parts = [(made.candidate_tower(tf.range(6)).numpy()[:, :4], weight), *zip(tables, scales, strict=True)]
    products = sum(scale * table @ table.T for table, scale in parts)
    length = np.sqrt(np.diag(products))
    np.testing.assert_allclose(found, products / length / length[:, None], atol=1e-5)


POINTS = np.float32([[1, 0, 0, 0], [1, 1, 0, 0], [0, 3, 0, 0], [-1, 0, 0, 0]])


def test_users_are_alike_as_the_towers_say(retriever):
    """Whatever the weight of popularity, which all queries carry. From the first, the others are 1, 10 and 4 squared away."""
    made, prepared = retriever
    made.combine(0.5, [popularity_block(np.arange(1.0, 7.0), 100.0)])
    popular = np.full((4, 1), 100, np.float32)
    vectors = np.concatenate([0.5 * query_side(tf.constant(POINTS), made.similarity), popular], axis=1)
    rows, scores = SimilarUsers(made, Queries(vectors, True, vectors), prepared).top(tf.constant([1]), 3)
    if made.similarity == "euclidean":
        assert rows.numpy().tolist() == [[2, 4, 3]]
        np.testing.assert_allclose(scores, [[-1, -4, -10]], atol=1e-5)
    else:
        assert rows.numpy().tolist() == [[2, 3, 4]]
        np.testing.assert_allclose(scores, [[0.5**0.5, 0, -1]], atol=1e-6)


def test_beside_blocks_users_are_alike_by_the_cosine_of_the_parts_weighed(retriever):
    made, _ = retriever
    own = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    block = Block("taste", np.zeros((6, 2), np.float32), np.zeros((6, 2), np.float32), scale=4.0)
    made.combine(0.2, [block, popularity_block(np.arange(1.0, 7.0), 100.0)])
    towers = query_side(tf.constant(POINTS), made.similarity)
    vectors = np.concatenate([0.2 * towers, 4.0 * own, np.full((4, 1), 100, np.float32)], axis=1)
    found = made.points(tf.constant(vectors)).numpy()
    unit = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    side, weight = {"cosine": (unit, 0.2), "dot": (POINTS, 0.2), "euclidean": (POINTS, 0.4)}[made.similarity]
    np.testing.assert_allclose(found @ found.T, weight * side @ side.T + 4.0 * own @ own.T, atol=1e-5)


def test_a_list_repeats_itself_less_by_what_makes_items_alike(retriever):
    """Row 2 is like row 1 and row 3 is not; all have one popularity, which by length is nearly all of a vector.

    Of distances, 1 and 100 squared from row 1, row 2 has .98 and row 3 -1: worth .4 - .49 and 0 + .5.
    """
    made, _ = retriever
    made.combine(0.5, [popularity_block(np.arange(1.0, 7.0), 100.0)])
    places = {"euclidean": [0, 1, 10, 0], "cosine": [1, 1, 0, 1], "dot": [1, 2, 0, 1]}[made.similarity]
    plain = np.zeros((5, 4), np.float32)
    plain[1:, 0], plain[3, 1] = places, float(made.similarity != "euclidean")
    towers = candidate_side(tf.constant(plain), made.similarity)
    vectors = np.concatenate([towers, np.full((5, 1), 50, np.float32)], axis=1)
    alike = SimilarItems(made, SimpleNamespace(vectors=Vectors(tf.constant(vectors))), vectors)
    top = tf.constant([[1, 2, 3, 0]]), tf.constant([[1.0, 0.9, 0.5, LOWEST]])
    rows, _ = diversified(top, alike, tf.constant([0.5]), tf.constant(3))
    assert rows.numpy().tolist() == [[1, 3, 2]]
    near = alike.among(top[0], top[1] > LOWEST)(tf.constant([0])).numpy()[0, :3]
    np.testing.assert_allclose(near, [1, 0.98, -1] if made.by_distance else [1, 1, 0], atol=1e-5)


def test_the_feature_that_filters(make_prepared):
    named = {"year": "number", "genre": "bag", "maker": "category"}
    schema = Schema(item=tuple(Feature(name=name, kind=kind) for name, kind in named.items()))
    prepared = make_prepared(HISTORIES, schema=schema)
    assert [filter_feature(prepared, name).name for name in ("auto", "maker")] == ["genre", "maker"]
    assert filter_feature(prepared, "none") is None
    named |= {"category": "category"}  # the usual names come first, whatever the alphabet says
    schema = Schema(
        item=tuple(Feature(name=name, kind=kind) for name, kind in {"brand": "category", **named}.items())
    )
    assert filter_feature(make_prepared(HISTORIES, schema=schema), "auto").name == "category"
    del named["category"]
    schema = Schema(
        item=tuple(Feature(name=name, kind=kind) for name, kind in {"brand": "category", **named}.items())
    )
    assert filter_feature(make_prepared(HISTORIES, schema=schema), "auto").name == "genre"
    spoken = Schema(item=tuple(Feature(name=name, kind="category") for name in ("brand", "Category_Code")))
    assert filter_feature(make_prepared(HISTORIES, schema=spoken), "auto").name == "Category_Code"
    with pytest.raises(UserError, match=r"export\.category=genres: .* did you mean 'genre'\?"):
        filter_feature(prepared, "genres")
    with pytest.raises(UserError, match=r"export\.category=year: no item feature of kind"):
        filter_feature(prepared, "year")
