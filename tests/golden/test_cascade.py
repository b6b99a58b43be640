"""The stages and dials of a recommendation on lists small enough to work out by hand."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.examples import Cases
from trainer.export.cascade_choice import Retrieved, over_budget
from trainer.export.neighbours import SimilarItems
from trainer.export.selection import Categories, allowed, diversified
from trainer.index.top import LOWEST, Vectors
from trainer.ranking.cascade import Cascade, Request, Weights, reordered, standardised, standardised_top
from trainer.settings import CascadeSettings
from trainer.towers.lookup import string_lookup

ROOT = np.sqrt(1.5)  # three scores one apart: their spread is sqrt(2 / 3)


def top(rows, scores):
    return tf.constant(rows, tf.int32), tf.constant(scores, tf.float32)


def cosines(vectors) -> SimilarItems:
    """Items that are alike by the cosine of their vectors."""
    plain = SimpleNamespace(
        similar=lambda rows: tf.math.l2_normalize(rows, axis=1),
        lengths=lambda rows: tf.norm(rows, axis=1) + 1e-6,
        by_distance=False,
    )
    return SimilarItems(plain, SimpleNamespace(vectors=Vectors(tf.constant(vectors))), vectors)


def lists(found):
    rows, scores = found
    return rows.numpy().tolist(), scores.numpy()


def test_scores_are_standardised_over_the_places_that_hold_an_item():
    found = standardised(tf.constant([[3.0, 2.0, 1.0, 99.0]]), tf.constant([[True, True, True, False]]))
    np.testing.assert_allclose(found, [[ROOT, 0, -ROOT, 0]], rtol=1e-6)


def test_equal_scores_say_nothing():
    found = standardised(tf.constant([[2.5, 2.5]]), tf.constant([[True, True]]))
    assert found.numpy().tolist() == [[0, 0]]


def test_a_list_is_put_into_the_unit_of_its_head_and_empty_places_stay_the_lowest():
    rows, scores = lists(standardised_top(top([[7, 8, 9, 4, 0]], [[3, 2, 1, -1, LOWEST]]), 3))
    assert rows == [[7, 8, 9, 4, 0]]
    np.testing.assert_allclose(scores, [[ROOT, 0, -ROOT, -3 * ROOT, LOWEST]], rtol=1e-6)


def test_a_stage_adds_its_standardised_values():
    """Values 0, 0, 3 are -.7071, -.7071, 1.4142: sums .5176, -.7071, .1895."""
    given = top([[7, 8, 9]], [[ROOT, 0, -ROOT]])
    rows, scores = lists(reordered(given, tf.constant([[0.0, 0.0, 3.0]]), 1.0))
    assert rows == [[7, 9, 8]]
    np.testing.assert_allclose(scores, [[0.51764, 0.18947, -0.70711]], atol=1e-5)


def test_what_a_stage_does_not_see_stays_below_in_its_order():
    given = top([[7, 8, 9, 5, 0]], [[1.0, 0.0, -1.0, -4.0, LOWEST]])
    rows, scores = lists(reordered(given, tf.constant([[0.0, 1.0]]), 2.0))  # values -1 and 1: sums -1 and 2
    assert rows == [[8, 7, 9, 5, 0]]
    np.testing.assert_allclose(scores, [[2, -1, -2, -5, LOWEST]])


def test_a_weight_of_zero_keeps_the_order():
    given = top([[7, 8, 9]], [[2.0, 1.0, 0.0]])
    rows, scores = lists(reordered(given, tf.constant([[0.0, 5.0, 9.0]]), 0.0))
    assert rows == [[7, 8, 9]] and scores.tolist() == [[2, 1, 0]]


def test_without_weights_the_list_is_left_as_it_is():
    given = top([[3, 1]], [[0.5, 0.25]])
    found = Cascade(None, CascadeSettings(), Weights()).order(Request(None, None, {}), given)
    assert found is given


def test_the_list_that_repeats_itself_less():
    """Rows 1 and 2 point the same way, 3 another: relevance 1, .8, 0; after 1 row 2 has .4 - .5 and row 3 has 0 - 0."""
    vectors = np.float32([[0, 0], [1, 0], [2, 0], [0, 1]])
    given = top([[1, 2, 3], [1, 2, 3]], [[1.0, 0.9, 0.5]] * 2)
    rows, scores = lists(diversified(given, cosines(vectors), tf.constant([0.5, 0.0]), tf.constant(3)))
    assert rows == [[1, 3, 2], [1, 2, 3]]
    np.testing.assert_allclose(scores, [[1.0, 0.5, 0.9], [1.0, 0.9, 0.5]])


@pytest.mark.parametrize("dial", [0.0, 0.3, 0.9, 1.0, 7.0, np.nan])
def test_diversity_equals_a_plain_loop_and_keeps_empty_places_last(dial):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    rows = np.array([[*rng.permutation(np.arange(1, 30))[:12], 0, 0]], np.int32)
    scores = np.array([[*np.sort(rng.normal(size=12))[::-1], LOWEST, LOWEST]], np.float32)
    found, _ = lists(diversified(top(rows, scores), cosines(vectors), tf.constant([dial], tf.float32), 14))
    share = 0.0 if np.isnan(dial) else min(dial, 1.0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = (scores[0, :12] - scores[0, 11]) / (scores[0, 0] - scores[0, 11])
    left, chosen = list(range(12)), []
    while left:
        alike = [max([unit[rows[0, at]] @ unit[rows[0, one]] for one in chosen], default=-1.0) for at in left]
        worth = [(1 - share) * relevance[at] - share * near for at, near in zip(left, alike, strict=True)]
        chosen.append(left.pop(int(np.argmax(worth))))
    assert found == [[*rows[0, chosen].tolist(), 0, 0]]


def test_an_allow_list_names_rows_and_an_empty_one_allows_all():
    ids = tf.constant([["b", "", "?"], ["", "", ""], ["?", "", ""]])
    found = allowed(tf.constant([[2, 0, 0], [0, 0, 0], [0, 0, 0]]), ids, 4)
    assert found.numpy()[:, 1:].tolist() == [[False, True, False], [True] * 3, [False] * 3]


def test_categories_of_bags():
    labels = Categories([[], ["a", "b"], ["c"], [], ["b"]])
    found = labels.eligible(tf.constant([["b", ""], ["", ""], ["c", "a"], ["?", ""]]))
    assert found.numpy()[:, 1:].tolist() == [
        [True, False, False, True],
        [True, True, True, True],
        [True, True, False, False],
        [False, False, False, False],
    ]


def test_where_no_item_has_a_label_only_who_asks_for_none_gets_items():
    """The plain table: no category or bag among the item features. Whatever is asked, the graph answers."""
    found = Categories([[]] * 3).eligible(tf.constant([["", ""], ["Drama", ""]]))
    assert found.numpy().tolist() == [[True] * 3, [False] * 3]


@pytest.fixture
def found(make_lists) -> Retrieved:
    """Forty cases with ten candidates each; the one that is asked for stands third."""
    many = make_lists([[13]] * 40)
    cases = Cases(np.ones(40, np.int32), make_lists([[1]] * 40), many, np.zeros(40, np.int64))
    rows = np.tile(np.arange(11, 21, dtype=np.int32), (40, 1))
    return Retrieved(cases, rows, np.tile(np.linspace(1, -1, 10, dtype=np.float32), (40, 1)))


def test_ranks_of_what_is_found(found):
    np.testing.assert_allclose(found.ndcg(), 0.5)  # 1 / log2(3 + 1)
    assert (found.recall(2), found.recall(3)) == (0, 1)


def test_a_stage_that_knows_gets_a_weight(found):
    scores = np.tile((np.arange(11, 21) == 13).astype(np.float32), (40, 1))
    assert found.weigh(scores) > 0
    assert found.reordered(scores, 2.0).recall(1) == 1


def test_a_stage_that_only_makes_noise_gets_none(found, make_lists):
    first = dataclasses.replace(found.cases, positives=make_lists([[11]] * 40))
    found = dataclasses.replace(found, cases=first)
    assert found.weigh(np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)) == 0


def test_a_stage_above_its_budget_is_named():
    settings = CascadeSettings(deep_budget_ms=5, retrieve_budget_ms=50)
    lines = over_budget({"retrieve": 1.0, "light": 900.0, "deep": 7.5}, settings)
    assert lines == ["over budget: stage deep takes 7.50 ms for one user; export.cascade.deep_budget_ms is 5"]


def test_a_label_that_keras_would_take_for_the_unknown_is_one():
    labels = Categories([[], ["[UNK]"], ["action", "[UNK]"], ["comedy"]])
    asked = tf.constant([["[UNK]"], ["action"], ["comedy"], ["none"]])
    assert labels.eligible(asked).numpy().astype(int).tolist() == [
        [0, 1, 1, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize("values", [["[UNK]", "a"], ["a", "[UNK]"], []])
def test_texts_have_the_rows_in_which_they_stand(values):
    found = string_lookup(values)(tf.constant([*values, "never seen"]))
    assert found.numpy().tolist() == [*range(1, len(values) + 1), 0]
