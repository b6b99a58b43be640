"""What every registered index kind promises: the best rows, none excluded, and any k."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry
from trainer.errors import UserError
from trainer.index.scann import surely
from trainer.index.top import LOWEST, Vectors, best, merged

NONE: list[list[int]] = [[], [], []]


def built(name: str, vectors: np.ndarray, sample: np.ndarray | None = None, **settings):
    if name == "scann" and importlib.util.find_spec("scann") is None:
        pytest.skip("scann is not installed: `make install EXTRAS=scann`")
    return registry.build("index", name, settings).build_index(tf.constant(vectors), sample)


def top(index, queries, excluded, k):
    ragged = tf.ragged.constant(excluded, dtype=tf.int32, ragged_rank=1)
    rows, scores = index.top(tf.constant(queries), ragged, tf.constant(k))
    return rows.numpy(), scores.numpy()


def exact(vectors, queries, excluded, k):
    scores = queries @ vectors.T
    scores[:, 0] = -np.inf
    for query, rows in enumerate(excluded):
        scores[query, rows] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Forty items in clusters of ten, row 0 no item."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(4, 6))
    return (np.repeat(centres, 10, axis=0) + 0.3 * rng.normal(size=(40, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors) -> np.ndarray:
    return (vectors[[3, 14, 30]] + 0.05).astype(np.float32)


@pytest.fixture(params=registry.names("index"), scope="module")
def index(request, vectors):
    # Few items: let the approximate index look at all of them, so that it must agree with the exact one.
    settings = {"leaves": 4, "leaves_to_search": 4} if request.param == "scann" else {}
    return built(request.param, vectors, **settings)


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("excluded", [NONE, [[3, 4], [], [30]], [list(range(1, 30)), [0], [14, 14]]])
def test_equals_argsort_without_the_excluded(index, vectors, queries, k, excluded):
    rows, scores = top(index, queries, excluded, k)
    wanted, theirs = exact(vectors, queries, excluded, k)
    there = theirs > -np.inf
    assert rows.shape == scores.shape == (3, k)
    np.testing.assert_array_equal(rows, np.where(there, wanted, 0))
    np.testing.assert_allclose(scores[there], theirs[there], rtol=1e-4)
    assert (scores[~there] == LOWEST).all()


def test_row_zero_is_never_recommended(index, vectors):
    """Even where the unknown's vector would score best of all."""
    rows, scores = top(index, vectors[:1] * 5, [[]], 39)
    real = scores > LOWEST
    assert (rows[real] > 0).all()
    assert real.sum() == 39


@pytest.mark.parametrize("k", [40, 41, 1000])
def test_k_above_the_corpus_gives_the_whole_corpus(index, queries, k):
    rows, scores = top(index, queries, NONE, k)
    assert rows.shape[1] <= 40
    for one, values in zip(rows, scores, strict=True):
        assert sorted(one[values > LOWEST]) == list(range(1, 40))
        assert (one[values == LOWEST] == 0).all()


def test_k_zero_gives_nothing(index, queries):
    rows, scores = top(index, queries, NONE, 0)
    assert rows.shape == scores.shape == (3, 0)


def test_everything_excluded_leaves_only_blanks(index, queries):
    rows, scores = top(index, queries, [list(range(40))] * 3, 5)
    assert not rows.any()
    assert (scores == LOWEST).all()


def test_far_more_exclusions_than_items(index, vectors, queries):
    many = np.random.default_rng(0).integers(0, 40, 10_000).tolist()
    rows, _ = top(index, queries, [many, [], []], 5)
    assert not rows[0].any()
    np.testing.assert_array_equal(rows[1:], exact(vectors, queries, NONE, 5)[0][1:])


def test_scores_fall_and_rows_differ(index, queries):
    rows, scores = top(index, queries, [[1], [2, 3], []], 20)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(one)) == 20 for one in rows.tolist())


def test_an_empty_batch(index):
    rows, scores = index.top(
        tf.zeros([0, 6]), tf.RaggedTensor.from_row_splits(tf.zeros([0], tf.int32), [0]), tf.constant(3)
    )
    assert rows.shape == scores.shape == (0, 3)


def test_one_graph_serves_every_k(index, vectors, queries):
    ask = tf.function(
        index.top,
        input_signature=[
            tf.TensorSpec([None, 6]),
            tf.RaggedTensorSpec([None, None], tf.int32),
            tf.TensorSpec([], tf.int32),
        ],
    )
    for k in (1, 7, 60):
        ragged = tf.ragged.constant([[3], [], []], dtype=tf.int32, ragged_rank=1)
        rows, scores = ask(tf.constant(queries), ragged, tf.constant(k))
        there = scores.numpy() > LOWEST
        wanted = exact(vectors, queries, [[3], [], []], min(k, 40))[0]
        np.testing.assert_array_equal(rows.numpy()[there], wanted[there])


def test_reloads_with_the_same_answer(index, vectors, queries, tmp_path):
    module = tf.Module()
    module.index = index
    specs = [
        tf.TensorSpec([None, 6]),
        tf.RaggedTensorSpec([None, None], tf.int32),
        tf.TensorSpec([], tf.int32),
    ]
    module.ask = tf.function(index.top, input_signature=specs)
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(tmp_path / "saved"), options=options)
    reloaded = tf.saved_model.load(str(tmp_path / "saved"))
    ragged = tf.ragged.constant([[3], [], []], dtype=tf.int32, ragged_rank=1)
    rows, _ = reloaded.ask(tf.constant(queries), ragged, tf.constant(5))
    np.testing.assert_array_equal(rows, exact(vectors, queries, [[3], [], []], 5)[0])


@pytest.mark.parametrize("name", registry.names("index"))
def test_recall_beside_exact_search_on_clustered_data(name):
    """Two thousand items in forty clusters; an approximate index may miss few of the true ten best."""
    rng = np.random.default_rng(4)
    vectors = np.repeat(rng.normal(size=(40, 16)), 50, axis=0) + 0.4 * rng.normal(size=(2000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[rng.integers(1, 2000, 100)]
    rows, _ = top(built(name, vectors), queries, [[]] * 100, 10)
    wanted, _ = exact(vectors, queries, [[]] * 100, 10)
    recall = np.mean(
        [len(set(one) & set(other)) / 10 for one, other in zip(rows.tolist(), wanted.tolist(), strict=True)]
    )
    assert recall == 1 if name == "brute_force" else recall > 0.7


@pytest.fixture(scope="module")
def clustered() -> np.ndarray:
    """Two thousand items in forty clusters: the leaf of a query holds about fifty."""
    rng = np.random.default_rng(5)
    return (np.repeat(rng.normal(size=(40, 8)), 50, axis=0) + 0.1 * rng.normal(size=(2000, 8))).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def narrow(clustered):
    """ScaNN over them, which searches one leaf of forty where nothing asks for more."""
    return built("scann", clustered, leaves=40, leaves_to_search=1)


@pytest.mark.parametrize(("barred", "k"), [(0, 10), (200, 10), (0, 500), (1_995, 10), (0, 2_000)])
def test_scann_lists_are_as_long_as_exact_ones(clustered, narrow, barred, k):
    queries = clustered[1:2000:40]
    excluded = exact(clustered, queries, [[]] * 50, barred)[0].tolist()
    rows, scores = top(narrow, queries, excluded, k)
    assert rows.shape == scores.shape == (50, k)
    for one, values, out in zip(rows, scores, excluded, strict=True):
        real = one[values > LOWEST].tolist()
        assert len(real) == min(k, 1999 - barred) == len({*real} - {0, *out})
        assert not one[values == LOWEST].any()


@pytest.mark.parametrize("interests", [1, 2])
def test_scann_answers_exactly_where_the_leaves_hold_too_few(vectors, queries, interests, tmp_path):
    """Leaves that hold three items together, asked through the graph as it is exported."""
    module = tf.Module()
    module.index = index = built("scann", vectors, leaves=4)
    nearest = index._nearest

    def three(some, fetch):
        rows, scores = nearest(some, fetch)
        return rows, tf.where(tf.range(fetch) < 3, scores, LOWEST)

    index._nearest = three
    spec = tf.TensorSpec([None, 6] if interests == 1 else [None, interests, 6])
    specs = [spec, tf.RaggedTensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int32)]
    module.ask = tf.function(index.top, input_signature=specs)
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(tmp_path / "saved"), options=options)
    reloaded = tf.saved_model.load(str(tmp_path / "saved"))
    excluded = [[3, 4, 4], [], [30]]
    barred = tf.ragged.constant(excluded, dtype=tf.int32, ragged_rank=1)
    some = tf.constant(queries if interests == 1 else np.stack([queries] * interests, axis=1))
    in_order = tf.constant([[0, 3, 4, 4], [0, 0, 0, 0], [0, 0, 0, 30]])  # as `near` takes them
    assert (index.near(some, in_order, tf.constant(10))[1].numpy() == LOWEST).any()
    rows, scores = reloaded.ask(some, barred, tf.constant(10))
    wanted, theirs = exact(vectors, queries, excluded, 10)
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_allclose(scores, theirs, rtol=1e-4)


def test_scann_searches_more_leaves_for_more_items_and_scores_no_other(clustered, narrow, monkeypatch):
    def unwanted(*_):
        raise AssertionError("all items were scored")

    monkeypatch.setattr("trainer.index.top.best", unwanted)
    rows, _ = top(narrow, clustered[1:2000:40], [[]] * 50, 1000)  # twice as many: all leaves
    assert (rows > 0).all()


def test_vectors_are_what_was_indexed(index, vectors):
    assert (index.vectors.items, index.vectors.dimension) == vectors.shape
    for rows in ([3], [3, 0, 39], [[3, 4], [5, 5]]):
        np.testing.assert_allclose(index.vectors.of(tf.constant(rows)), vectors[np.array(rows)], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_of_several_interests_the_best_one_scores_and_no_item_comes_twice(index, vectors, queries, k):
    interests = np.stack([queries, -queries, queries[[1, 2, 0]]], axis=1).astype(np.float32)
    excluded = [[3], [], [30, 31]]
    rows, scores = top(index, interests, excluded, k)
    best = np.einsum("bhd,nd->bhn", interests, vectors).max(axis=1)
    best[:, 0] = -np.inf
    for query, barred in enumerate(excluded):
        best[query, barred] = -np.inf
        there = scores[query] > LOWEST
        assert there.sum() == min(k, 39 - len(barred))
        wanted = np.argsort(-best[query], kind="stable")[: there.sum()]
        np.testing.assert_array_equal(rows[query][there], wanted)
        np.testing.assert_allclose(scores[query][there], best[query][wanted], rtol=1e-4)


def test_rows_that_come_again_keep_their_best_score_only():
    rows, scores = merged(tf.constant([[4, 2, 4, 0, 2]]), tf.constant([[1.0, 5.0, 3.0, 2.0, 4.0]]))
    assert rows.numpy().tolist() == [[2, 2, 4, 0, 4]]
    assert scores.numpy().tolist() == [[5.0, LOWEST, 3.0, 2.0, LOWEST]]


@pytest.mark.parametrize("items", [1, 64, 200, 1000])
@pytest.mark.parametrize("k", [0, 1, 10, 150, 1000])
def test_the_best_equal_a_stable_sort_where_most_scores_are_equal(items, k):
    scores = np.random.default_rng(items).integers(0, 3, (4, items)).astype(np.float32)
    excluded = [[], [items // 2], list(range(items)), [items - 1, 0, items - 1]]
    ragged = tf.ragged.constant(excluded, dtype=tf.int32, ragged_rank=1)
    rows, found = best(tf.constant(scores), ragged, tf.constant(k))
    for query, barred in enumerate(excluded):
        scores[query, [0, *barred]] = LOWEST
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    theirs = np.take_along_axis(scores, wanted, axis=1)
    np.testing.assert_array_equal(found, theirs)
    np.testing.assert_array_equal(rows, np.where(theirs > LOWEST, wanted, 0))


def test_scores_are_inner_products_of_the_best_interest():
    vectors = Vectors(tf.constant([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    one, other = [[3.0, 1.0], [0.0, 1.0]], [[-1.0, 0.0], [2.0, 0.0]]
    assert vectors.scores(tf.constant(one)).numpy().tolist() == [[3, 2, 4], [0, 2, 1]]
    both = tf.stack([one, other], axis=1)
    assert vectors.scores(both).numpy().tolist() == [[3, 2, 4], [2, 2, 2]]


@pytest.mark.parametrize("items", [1, 64, 3_077])
def test_one_query_is_scored_as_it_is_among_others(items):
    random = np.random.default_rng(items)
    vectors, queries = (random.normal(size=(rows, 5)).astype(np.float32) for rows in (items, 2))
    kept, wanted = Vectors(tf.constant(vectors)), queries @ vectors.T
    np.testing.assert_allclose(kept.scores(tf.constant(queries)), wanted, atol=1e-5)
    np.testing.assert_allclose(kept.scores(tf.constant(queries[:1])), wanted[:1], atol=1e-5)
    np.testing.assert_allclose(kept.scores(tf.constant(queries[:1, None])), wanted[:1], atol=1e-5)


def test_the_exact_index_is_a_layer_of_tfrs(vectors, queries):
    layer = built("brute_force", vectors)
    scores, rows = layer(tf.constant(queries), k=3)
    np.testing.assert_array_equal(rows, np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(scores, np.sort(-(queries @ vectors.T), axis=1)[:, :3] * -1, rtol=1e-5)
    assert layer.is_exact() and layer(tf.constant(queries))[1].shape == (3, 10)
    assert built("brute_force", vectors[:3])(tf.constant(queries))[1].shape == (
        3,
        3,
    )  # as an export traces it
    with pytest.raises(ValueError, match="the row is the identifier"):
        layer.index(tf.constant(vectors), tf.range(40))


def test_a_share_is_sure_when_its_mean_less_1_645_standard_errors_reaches_it():
    assert surely(np.array([1.0, 1.0, 0.5, 0.5])) == pytest.approx(0.75 - 1.645 * 0.25 / 2)
    assert surely(np.array([1.0])) == 1


def test_scann_widens_its_search_until_the_recall_is_reached():
    """Vectors without clusters: few leaves hold few of the nearest, so that the start is not enough."""
    vectors = np.random.default_rng(1).normal(size=(1500, 16)).astype(np.float32)
    little = built("scann", vectors, leaves_to_search=1, reorder=20).describe()
    enough = built("scann", vectors, recall_target=0.9)
    assert little["recall@10"] < 0.9 <= enough.describe()["recall@10"]
    assert enough.leaves_to_search > 1 and enough.leaves == 38


def test_scann_holds_its_target_on_queries_that_it_was_not_set_with():
    random = np.random.default_rng(2)
    vectors, sample, fresh = (random.normal(size=(n, 16)).astype(np.float32) for n in (1500, 1024, 1024))
    index = built("scann", vectors, sample, recall_target=0.9)
    rows, wanted = top(index, fresh, [[]] * 1024, 10)[0], exact(vectors, fresh, [[]] * 1024, 10)[0]
    recall = np.mean([len({*some} & {*their}) / 10 for some, their in zip(rows, wanted, strict=True)])
    assert 0.9 <= recall < 1


@pytest.mark.parametrize("target", [0, 1.5])
def test_a_recall_target_that_is_no_share_is_told(target):
    with pytest.raises(UserError, match=r"export\.index\.recall_target=.* at most 1"):
        registry.build("index", "scann", {"recall_target": target})


@pytest.mark.parametrize("most", [39, 3 * 40, 7 * 40])
@pytest.mark.parametrize("interests", [1, 2])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_wide_batch_is_answered_in_turn_as_it_is_at_once(monkeypatch, vectors, most, interests, rows):
    """One row at a time, three with one left over, or all seven; to the last digit, for no product needs rounding."""
    index = built("brute_force", in_sixty_fourths(vectors))
    random = np.random.default_rng(0)
    queries = in_sixty_fourths(random.normal(size=(rows, interests, 6)))
    queries = queries if interests > 1 else queries[:, 0]
    excluded = tf.RaggedTensor.from_row_lengths(
        tf.constant(random.integers(0, 40, 3 * rows), tf.int32), [3] * rows
    )
    asked = tf.constant(queries), excluded, tf.constant(9)
    at_once = index.top(*asked)

    def few(scores, *others):
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.size(scores), max(most, 40))]):
            return best(scores, *others)

    monkeypatch.setattr("trainer.index.top.MOST_SCORES", most)
    monkeypatch.setattr("trainer.index.top.best", few)
    shape = [None, 6] if interests == 1 else [None, interests, 6]
    ragged, number = tf.RaggedTensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int32)
    ask = tf.function(index.top, input_signature=[tf.TensorSpec(shape), ragged, number], autograph=False)
    for one, other in zip(ask(*asked), at_once, strict=True):
        assert one.shape == other.shape == (rows, 9)
        np.testing.assert_array_equal(one, other)


def in_sixty_fourths(numbers: np.ndarray) -> np.ndarray:
    """Numbers whose products float32 holds exactly: processors round those of few rows and of many differently."""
    return (np.round(64 * numbers) / 64).astype(np.float32)
