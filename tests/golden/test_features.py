"""What each kind of feature encodes, by hand, missing and unknown values included."""

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import CallableOptions

from trainer.data.interactions import LIMITS, Feature, FeatureKind, FeatureSettings, Schema
from trainer.errors import UserError
from trainer.towers import features as kinds
from trainer.towers.feature_layers import BUCKETS, GRAM_BUCKETS, grams
from trainer.towers.features import ContextFeatures, StaticFeatures, as_raw, missing, shared_layers, unread

NAN = math.nan
PADDING, UNKNOWN = 0, 1  # rows of a label embedding; the vocabulary follows, the most frequent first


def strings(*values):
    return np.array(values, dtype=object).astype(str)


def make(kind, dimension, training, **settings):
    return kinds.make(FeatureSettings(kind=kind, **settings), dimension, training)


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
    assert encoded(tower, " ".join(["a"] * 90)).tolist() == [[2] * LIMITS["text"]]


@pytest.mark.parametrize(("kind", "between"), [("text", " "), ("bag", "|"), ("ids", "|")])
def test_the_limit_says_how_much_of_a_row_is_read(kind, between):
    long = between.join(["a"] * 50)
    tower = make(kind, 4, strings(long, long), limit=40)
    assert encoded(tower, between.join(["a"] * 90)).tolist() == [[2] * 40]


def test_one_long_text_among_many_is_read_to_the_limit():
    tower = make("text", 4, strings("a b", *["a"] * 200, " ".join(["a"] * 30)), limit=20)
    assert encoded(tower, " ".join(["a"] * 30)).shape == (1, 20)


def test_what_is_longer_than_what_is_read_is_told(make_prepared):
    features = (Feature(name="about", kind="text", limit=3), Feature(name="tags", kind="bag"))
    columns = {
        "about": ["", "one two", "one two three four", "five, words: stand in here"],
        "tags": [[], ["a"], ["b"], []],
    }
    prepared = make_prepared([[1, 2, 3], [2, 1, 3]], schema=Schema(item=features), item_features=columns)
    assert unread(prepared) == [
        "item feature 'about': the first 3 words are read; 2 of 4 rows have more, up to 5 (its setting: limit)"
    ]


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
        ("count", [1, None], [1.0, NAN]),
        ("vector", [[1, 2], [NAN, NAN]], [[1.0, 2.0], [NAN, NAN]]),
        ("ids", [["a", "b"], []], ["a|b", ""]),
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
    assert layer.towers["year"].mean == 15
    np.testing.assert_array_equal(layer.tables["kind"], [[UNKNOWN], [2], [3], [UNKNOWN]])
    rows = tf.constant([[0, 3], [1, 2]])
    found = layer(rows)
    assert found.shape == [2, 2, 4]
    parts = [tower(tf.gather(layer.tables[name], rows)) for name, tower in layer.towers.items()]
    np.testing.assert_allclose(found, parts[0] + parts[1])


def test_context_features_take_raw_columns_by_name():
    features = [Feature(name="device", kind="category"), Feature(name="hour", kind="number")]
    layer = ContextFeatures(features, {"device": strings("tv", "tv"), "hour": np.array([8.0, 20.0])}, 4)
    found = layer.encode({"device": tf.constant(["tv", ""]), "hour": tf.constant([8.0, NAN])})
    np.testing.assert_array_equal(found["device"], [[2], [UNKNOWN]])
    np.testing.assert_array_equal(found["hour"][:, 1], [0, 1])
    assert layer(found).shape == [2, 4]


def test_a_count_is_read_by_its_logarithm():
    tower = make("count", 4, np.array([0.0, np.e - 1, np.e**2 - 1, NAN]))
    found = encoded(tower, 0.0, np.e**2 - 1, NAN, -1.0)
    scale = math.sqrt(2 / 3)
    np.testing.assert_allclose(found[:2, :2], [[-1 / scale, 0], [1 / scale, 0]], rtol=1e-5)
    np.testing.assert_array_equal(found[2:], [[0, 1, 0], [0, 1, 0]])  # a count below 0 is none
    million = encoded(tower, 1e6)[0, 0]
    assert million == 5  # clipped at five deviations of the logarithm


def test_ids_pass_over_the_unknown():
    tower = make("ids", 3, strings("ann|bob", "bob|cy", ""))
    rows = {"bob": 2, "ann": 3, "cy": 4}
    found = encoded(tower, "new|bob", "cy|ann|bob", "new", "", "bob|new|cy")
    np.testing.assert_array_equal(
        found,
        [
            [PADDING, rows["bob"]],
            [rows["cy"], rows["ann"]],  # as many as training had
            [UNKNOWN, PADDING],
            [UNKNOWN, PADDING],
            [rows["bob"], PADDING],
        ],
    )
    one = tower(encoded(tower, "bob"))
    np.testing.assert_allclose(tower(encoded(tower, "new|bob")), one, rtol=1e-6)
    mean = (tower(encoded(tower, "cy")) + tower(encoded(tower, "ann"))) / 2
    np.testing.assert_allclose(tower(encoded(tower, "cy|ann")), mean, rtol=1e-5)


def test_more_related_ids_than_are_read():
    many = "|".join(f"u{number}" for number in range(LIMITS["ids"] + 9))
    tower = make("ids", 2, strings(many))
    found = encoded(tower, many)
    assert found.shape == (1, LIMITS["ids"]) and (found > UNKNOWN).all()


def test_a_vector_is_centred_and_scaled_and_its_absence_told():
    tower = make("vector", 4, np.array([[3.0, 0.0], [-3.0, 0.0], [NAN, NAN]]))
    found = encoded(tower, [6.0, 3.0], [NAN, NAN], [NAN, 1.0])
    np.testing.assert_allclose(found, [[2, 1, 0], [0, 0, 1], [0, 0, 1]], rtol=1e-6)
    vectors = tower(found)
    kernel = tower.linear.get_weights()[0]
    np.testing.assert_allclose(vectors, found @ kernel, rtol=1e-5)
    np.testing.assert_allclose(vectors[1], kernel[2], rtol=1e-6)


def test_a_vector_of_another_length_is_told_by_name(tmp_path):
    """By a session, as TF Serving runs it, which does not check what it is fed."""
    module = tf.Module()
    module.tower = make("vector", 4, KINDS["vector"])
    module.tower.feature = "look"
    ask = tf.function(lambda look: {"found": module.tower.encode(look)})
    ask = ask.get_concrete_function(module.tower.raw_spec)
    tf.saved_model.save(module, str(tmp_path), signatures={"ask": ask})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path)).signature_def["ask"]
        call = session._make_callable_from_options(
            CallableOptions(feed=[signature.inputs["look"].name], fetch=[signature.outputs["found"].name])
        )
        for rows in (0, 1, 3):
            assert call(np.ones((rows, 2), np.float32))[0].shape == (rows, 3)
        for shape in ((1, 1), (2, 3)):
            with pytest.raises(tf.errors.InvalidArgumentError) as error:
                call(np.ones(shape, np.float32))
            assert f"[look takes vectors of length 2, not] [{shape[1]}]" in str(error.value)


@pytest.mark.parametrize("values", [np.full((2, 3), NAN), np.ones((2, 3)), np.zeros((0, 3))])
def test_vectors_without_spread_stay_finite(values):
    tower = make("vector", 4, values)
    assert np.isfinite(tower(encoded(tower, [1.0, 2.0, 3.0], [NAN, 0.0, 0.0]))).all()


def test_the_pieces_of_a_text():
    found = grams(tf.constant(["Élan!  a", "", "ab"]), 3).to_list()
    wanted = [[" él", "éla", "lan", "an ", "n a", " a "], [], [" ab", "ab "]]
    assert [[piece.decode() for piece in row] for row in found] == wanted


def test_a_text_is_the_mean_of_its_words_and_that_of_its_hashed_pieces():
    tower = make("text", 3, strings("red car", "red bus", ""), ngrams=3)
    assert tower.width == 7  # " re", "red", "ed ", "d b", " bu", "bus", "us "
    found = encoded(tower, "red", "", "rad")
    hashed = tf.strings.to_hash_bucket_fast([" re", "red", "ed "], GRAM_BUCKETS).numpy() + 1
    np.testing.assert_array_equal(found[0], [2, PADDING, *hashed, 0, 0, 0, 0])
    np.testing.assert_array_equal(found[1], [UNKNOWN, *[PADDING] * 8])
    vectors = np.asarray(tower(found))
    table, words = tower.embedding.get_weights()[0], tower.words.embedding.get_weights()[0]
    np.testing.assert_allclose(vectors[0], words[2] + table[hashed].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(vectors[1], words[UNKNOWN], rtol=1e-6)


def test_pieces_read_words_that_training_never_saw():
    """By words alone, two unknown spellings are the same; by their letters, each is like what it resembles."""
    training = strings("guitar strings", "guitar case", "piano bench", "piano lamp")
    by_words = make("text", 8, training)
    np.testing.assert_array_equal(encoded(by_words, "guitars")[0], encoded(by_words, "pianos")[0])
    tower = make("text", 8, training, ngrams=3)
    pieces = [set(row[row > UNKNOWN]) for row in encoded(tower, "guitars", "guitar", "pianos")]
    assert len(pieces[0] & pieces[1]) > 4 > len(pieces[0] & pieces[2])


def test_features_that_share_are_read_by_one_layer_over_both_vocabularies(make_prepared):
    title = Feature(name="title", kind="text", shares="words")
    asked = Feature(name="query_text", kind="text", shares="words")
    prepared = make_prepared([[1, 2, 3], [2, 1, 3]])
    events = dataclasses.replace(prepared.train, context={"query_text": strings("blue bag", "blue hat")})
    titles = strings("", "red shoe", "red sock", "blue shoe")
    prepared = dataclasses.replace(
        prepared,
        schema=Schema(item=(title,), context=(asked,)),
        item_features={"title": titles},
        train=events,
    )
    shared = shared_layers(prepared, 4)
    assert set(shared["words"].lookup.get_vocabulary()[1:]) == {"blue", "red", "shoe"}
    items = StaticFeatures([title], prepared.item_features, 3, 4, shared)
    context = ContextFeatures([asked], events.context, 4, shared)
    assert items.towers["title"] is context.towers["query_text"]
    found = context(context.encode({"query_text": tf.constant(["red shoe", "blue shoe"])}))
    np.testing.assert_allclose(found, items(tf.constant([1, 3])), rtol=1e-6)


def test_vectors_of_two_lengths_cannot_share(make_prepared):
    features = [Feature(name=name, kind="vector", shares="space") for name in ("image", "photo")]
    prepared = make_prepared(
        [[1, 2, 3], [2, 1, 3]],
        schema=Schema(user=(features[0],), item=(features[1],)),
        user_features={"image": np.ones((3, 2), np.float32)},
        item_features={"photo": np.ones((4, 5), np.float32)},
    )
    with pytest.raises(UserError, match="'space' are of different lengths"):
        shared_layers(prepared, 4)


def test_parts_are_by_name_and_sum_to_the_call():
    features = [Feature(name="history", kind="number"), Feature(name="kind", kind="category")]
    raw = {"history": np.array([NAN, 1.0, 2.0]), "kind": strings("", "a", "b")}
    static = StaticFeatures(features, raw, 2, 4)
    parts = static.parts(tf.constant([0, 2]))
    assert list(parts) == static.names == ["feature_history", "kind"]  # the tower has a part of that name
    np.testing.assert_allclose(static(tf.constant([0, 2])), sum(parts.values()), rtol=1e-6)
    context = ContextFeatures(features, raw, 4, taken=["kind"])
    assert list(context.parts(context.encode({n: tf.constant(c) for n, c in raw.items()}))) == context.names
    assert context.names == ["history", "context_kind"]


KINDS = {
    "category": strings("a", "b", "a"),
    "number": np.array([1.0, 2.0, 4.0]),
    "count": np.array([0.0, 10.0, 1000.0]),
    "bag": strings("x|y", "y", "x"),
    "ids": strings("u1|u2", "u2", "u1"),
    "text": strings("one two", "two one", "one"),
    "vector": np.array([[1.0, 2.0], [0.0, 1.0], [2.0, 0.0]], np.float32),
    "time": np.array([1e9, 1.1e9, 1.2e9]),
}


def test_every_kind_is_tested():
    assert set(KINDS) == set(get_args(FeatureKind))


def with_missing(kind, ngrams=0):
    """A fitted layer, and its raw values with two missing ones behind them, filled in by its spec."""
    tower = make(kind, 4, KINDS[kind], ngrams=ngrams)
    raw = tf.cast(tf.constant(KINDS[kind]), tower.raw_spec.dtype)
    return tower, tf.concat([raw, missing(tower.raw_spec, tf.constant([2]))], axis=0)


@pytest.mark.parametrize(("kind", "ngrams"), [*((kind, 0) for kind in KINDS), ("text", 3)])
def test_what_is_missing_has_a_vector_of_its_own(kind, ngrams):
    tower, raw = with_missing(kind, ngrams)
    whole = tower(tower.encode(raw))
    assert whole.shape == [5, 4] and np.isfinite(whole).all()
    np.testing.assert_array_equal(whole[3], whole[4])
    for row in range(3):
        assert np.abs(whole[row] - whole[3]).max() > 1e-6


def test_inside_an_exported_graph_all_kinds_read_alike(tmp_path):
    made = {"pieces": with_missing("text", 3)} | {kind: with_missing(kind) for kind in KINDS}
    wanted = {name: tower(tower.encode(raw)) for name, (tower, raw) in made.items()}
    module = tf.Module()
    module.towers = {name: tower for name, (tower, _) in made.items()}
    specs = {name: tower.raw_spec for name, tower in module.towers.items()}

    def ask(raw):
        return {name: tower(tower.encode(raw[name])) for name, tower in module.towers.items()}

    module.ask = tf.function(ask, input_signature=[specs])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    reloaded = tf.saved_model.load(str(tmp_path / "saved"))
    found = reloaded.ask({name: raw for name, (_, raw) in made.items()})
    for name, vectors in wanted.items():
        np.testing.assert_allclose(found[name], vectors, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["text", "category", "bag"])
def test_one_long_value_does_not_widen_all_others(kind):
    """In an array of a fixed width a million short texts beside one of 10,000 letters would take 40 GB."""
    values = ["x" * 10_000, *["y"] * 100]
    raw = as_raw(kind, values)
    assert raw.nbytes < 2_000 and raw.tolist() == values
