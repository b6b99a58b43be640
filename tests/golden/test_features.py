"""What each kind of feature encodes, by hand, missing and unknown values included."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.interactions import Feature
from trainer.features import BUCKETS, MAX_LABELS, ContextFeatures, StaticFeatures, as_raw, make

NAN = math.nan
PADDING, UNKNOWN = 0, 1  # rows of a label embedding; the vocabulary follows, the most frequent first


def strings(*values):
    return np.array(values, dtype=object).astype(str)


def encoded(tower, *values):
    return np.asarray(tower.encode(tf.constant(values, tower.raw_spec.dtype)))


def test_a_category_is_its_row_by_frequency():
    tower = make("category", 4, strings("b", "a", "b", "", "c"))
    found = encoded(tower, "b", "a", "c", "never seen", "")
    np.testing.assert_array_equal(found, [[2], [3], [4], [UNKNOWN], [UNKNOWN]])
    assert tower(tf.constant(found)).shape == [5, 4]


def test_a_bag_is_its_labels_padded():
    tower = make("bag", 4, strings("x|y|x2", "y", ""))
    found = encoded(tower, "y|x", "x2", "new|y", "", "y|x|x2|y")
    rows = {"y": 2, "x": 3, "x2": 4}
    wanted = [
        [rows["y"], rows["x"], PADDING],
        [rows["x2"], PADDING, PADDING],
        [UNKNOWN, rows["y"], PADDING],
        [UNKNOWN, PADDING, PADDING],  # missing
        [rows["y"], rows["x"], rows["x2"]],  # as many as training had
    ]
    np.testing.assert_array_equal(found, wanted)


def test_labels_are_averaged_without_their_padding():
    tower = make("bag", 3, strings("x|y|z"))
    one, two = tower(encoded(tower, "x")), tower(encoded(tower, "y"))
    np.testing.assert_allclose(tower(encoded(tower, "x|y")), (one + two) / 2, rtol=1e-5)


def test_text_is_lower_case_words_without_punctuation():
    tower = make("text", 4, strings("The Matrix", "the matrix: Élan", "Élan, the!", "once"))
    found = encoded(tower, "the", "THE MATRIX (1999)", "élan ÉLAN once", "", "?!")
    rows = {"the": 2, "matrix": 3, "élan": 4, "once": UNKNOWN}  # a word of one title says no more than its id
    wanted = [
        [rows["the"], PADDING, PADDING],
        [rows["the"], rows["matrix"], UNKNOWN],
        [rows["élan"], rows["élan"], rows["once"]],
        [UNKNOWN, PADDING, PADDING],
        [UNKNOWN, PADDING, PADDING],
    ]
    width = found.shape[1]  # as many as nearly all texts of training have
    assert 2 <= width <= 3
    np.testing.assert_array_equal(found, np.array(wanted)[:, :width])


def test_a_text_is_cut_at_its_first_words():
    tower = make("text", 4, strings(" ".join(["a"] * 50), " ".join(["a"] * 50)))
    assert encoded(tower, " ".join(["a"] * 90)).tolist() == [[2] * MAX_LABELS]


def test_texts_without_a_word_in_common_are_unknown():
    for training in (strings("one", "two"), strings("", ""), strings()):
        tower = make("text", 4, training)
        found = encoded(tower, "one two", "")
        assert (found[:, 0] == UNKNOWN).all()
        assert np.isfinite(tower(found)).all()


def test_a_number_is_normalised_and_bucketed_and_its_absence_told():
    values = np.array([1.0, 2.0, 3.0, 4.0, NAN])
    tower = make("number", 4, values)
    mean, scale = 2.5, math.sqrt(1.25)
    cuts = np.unique(np.quantile([1, 2, 3, 4], np.linspace(0, 1, BUCKETS + 1)[1:-1]))
    found = encoded(tower, 1.0, 4.0, NAN, 1e9, -math.inf)
    np.testing.assert_allclose(found[0], [(1 - mean) / scale, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(found[1], [(4 - mean) / scale, 0, len(cuts) + 1], rtol=1e-6)
    np.testing.assert_array_equal(found[2], [0, 1, 0])  # the mean, missing, the bucket of the missing
    np.testing.assert_array_equal(found[3], [5, 0, len(cuts) + 1])  # clipped
    np.testing.assert_array_equal(found[4], [0, 1, 0])


@pytest.mark.parametrize("values", [[], [NAN, NAN], [7.0, 7.0]])
def test_a_number_without_spread_stays_finite(values):
    tower = make("number", 4, np.array(values))
    assert np.isfinite(tower(encoded(tower, 7.0, NAN, -3.0))).all()


def test_a_constant_number_is_not_blown_up_by_rounding():
    tower = make("number", 4, np.full(7, 0.1))
    np.testing.assert_allclose(encoded(tower, 0.1)[0, :2], [0, 0], atol=1e-6)


def test_time_is_cycles_and_age():
    latest = 1_700_000_000.0
    tower = make("time", 4, np.array([latest, latest - 86_400, NAN]))
    now, day_before, missing, later = encoded(tower, latest, latest - 86_400, NAN, latest + 3_600)
    day = 2 * math.pi * (latest % 86_400) / 86_400
    np.testing.assert_allclose(now[:2], [math.sin(day), math.cos(day)], rtol=1e-5)
    np.testing.assert_allclose(day_before[:2], now[:2], rtol=1e-5)  # one day is a whole turn of the day
    assert not np.allclose(day_before[2:4], now[2:4])  # and a seventh of the week
    np.testing.assert_allclose([now[6], day_before[6], later[6]], [0, math.log(2), 0], atol=1e-6)
    np.testing.assert_array_equal(missing[:7], now[:7])
    assert [row[7] for row in (now, missing)] == [0, 1]


@pytest.mark.parametrize(
    ("kind", "raw", "wanted"),
    [
        ("number", [1, None], [1.0, NAN]),
        ("category", ["a", None], ["a", ""]),
        ("bag", [["a", "b"], []], ["a|b", ""]),
        ("bag", ["a|b", ""], ["a|b", ""]),
        ("text", np.array(["x y", None], object), ["x y", ""]),
    ],
)
def test_raw_columns_become_arrays(kind, raw, wanted):
    np.testing.assert_array_equal(as_raw(kind, raw), wanted)


def test_static_features_are_fitted_on_the_trained_rows_only():
    """Row 0 is the unknown, rows 1 and 2 are trained, row 3 is a cold item of the catalogue."""
    features = [Feature(name="year", kind="number"), Feature(name="kind", kind="category")]
    raw = {"year": np.array([NAN, 10.0, 20.0, 1000.0]), "kind": strings("", "a", "b", "cold")}
    layer = StaticFeatures(features, raw, trained=2, dimension=4)
    assert layer.towers[0].mean == 15
    np.testing.assert_array_equal(layer.tables[1], [[UNKNOWN], [2], [3], [UNKNOWN]])
    rows = tf.constant([[0, 3], [1, 2]])
    found = layer(rows)
    assert found.shape == [2, 2, 4]
    parts = [tower(tf.gather(table, rows)) for tower, table in zip(layer.towers, layer.tables, strict=True)]
    np.testing.assert_allclose(found, parts[0] + parts[1])


def test_context_features_take_raw_columns_by_name():
    features = [Feature(name="device", kind="category"), Feature(name="hour", kind="number")]
    layer = ContextFeatures(features, {"device": strings("tv", "tv"), "hour": np.array([8.0, 20.0])}, 4)
    found = layer.encode({"device": tf.constant(["tv", ""]), "hour": tf.constant([8.0, NAN])})
    np.testing.assert_array_equal(found["device"], [[2], [UNKNOWN]])
    np.testing.assert_array_equal(found["hour"][:, 1], [0, 1])
    assert layer(found).shape == [2, 4]
