import logging

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_split import stories

from trainer.data.interactions import Feature, Schema
from trainer.data.prepare import prepare
from trainer.data.synthetic.source import Synthetic
from trainer.errors import UserError
from trainer.settings import DataSettings, SplitSettings

ROWS = [
    ("A", "a", 1),
    ("A", "b", 2),
    ("A", "c", 3),
    ("B", "b", 1),
    ("B", "c", 2),
    ("B", "a", 3),
    ("C", "b", 9),
]


def of(method="leave_last_out", **more):
    return DataSettings(split=SplitSettings(method=method), **more)


def lists(prepared, part):
    return [
        prepared.items.decode(part.items[a:b]) for a, b in zip(part.offsets, part.offsets[1:], strict=False)
    ]


def test_rows_are_the_vocabularys_and_0_is_the_unknown(make):
    prepared = prepare(make(ROWS), of())
    assert prepared.items.values == ("b", "a")  # c stands in validation and test alone
    assert prepared.users.values == ("A", "B", "C")
    assert prepared.train.user.tolist() == [1, 2, 3]
    assert prepared.train.user.dtype == prepared.train.item.dtype == np.int32
    assert prepared.items.decode(prepared.train.item) == ["a", "b", "b"]


def test_cases_of_leave_last_out(make):
    prepared = prepare(make(ROWS), of())
    assert prepared.users.decode(prepared.validation.user) == ["A", "B"]
    assert lists(prepared, prepared.validation.history) == [["a"], ["b"]]
    assert lists(prepared, prepared.validation.positives) == [["b"], [""]]  # c is unknown: counted as missed
    assert lists(prepared, prepared.test.history) == [["a", "b"], ["b"]]  # an unknown item says nothing
    assert lists(prepared, prepared.test.positives) == [[""], ["a"]]
    assert prepared.test.timestamp.tolist() == [3, 3]
    assert prepared.ordered


def test_items_that_are_new_in_the_test_have_rows_where_it_is_over(make):
    rows = [("A", "a", 1), ("A", "b", 2), ("B", "b", 3), ("B", "a", 4), ("A", "new", 7), ("B", "new", 8)]
    prepared = prepare(make(rows), DataSettings(split=SplitSettings(method="time", test_fraction=0.3)))
    assert prepared.items.values == ("b", "a") and dict(prepared.new_items) == {"new": "new"}
    assert prepared.test.positives.items.tolist() == [0, 0]
    assert prepared.before_test.item.max() == 2
    served = prepared.with_test()
    assert served.items.values == ("b", "a", "new") and served.items.trained == 2
    assert served.titles == ("", "b", "a", "new")
    had = served.before_test.by_user(len(served.users))
    assert lists(served, had) == [[], ["a", "b", "new"], ["b", "a", "new"]]


def test_strangers_are_cases_of_their_own(make):
    rows = [
        ("A", "a", 1),
        ("A", "b", 2),
        ("B", "a", 3),
        ("B", "b", 4),
        ("C", "a", 7),
        ("D", "b", 8),
        ("C", "b", 9),
    ]
    data = make(rows)
    prepared = prepare(data, DataSettings(split=SplitSettings(method="time", test_fraction=0.4)))
    assert prepared.test.user.tolist() == [0, 0]
    assert lists(prepared, prepared.test.positives) == [["a", "b"], ["b"]]
    assert prepared.test.timestamp.tolist() == [7, 8]
    assert prepared.rated_test.user.tolist() == [0, 0, 0]
    assert prepared.rated_test.timestamp.tolist() == [7, 8, 9]
    assert prepared.newcomers == ("C", "D")
    served = prepared.with_test()  # where the test is over, they have rows, and what they did is theirs
    assert served.users.values == ("A", "B", "C", "D") and served.users.trained == 2
    had = served.before_test.by_user(len(served.users))
    assert lists(served, had) == [[], ["a", "b"], ["a", "b"], ["a", "b"], ["b"]]


def test_a_stranger_of_validation_has_a_history_in_the_test(make):
    data = make([("A", "a", 1), ("B", "b", 2)], validation=[("C", "a", 3)], test=[("C", "b", 4)])
    prepared = prepare(data, of("predefined"))
    assert prepared.test.user.tolist() == [0]
    assert lists(prepared, prepared.test.history) == [["a"]]


def test_a_test_without_times_leaves_those_of_training(make, caplog):
    data = make([("A", "b", 50), ("A", "a", 20), ("B", "b", 70)], test=[("B", "a", None), ("A", "c", None)])
    with caplog.at_level(logging.INFO, "trainer"):
        prepared = prepare(data, of("predefined"))
    assert prepared.timed and "the test part has no times" in caplog.text
    assert sorted(prepared.before_test.timestamp.tolist()) == [20, 50, 70]
    assert lists(prepared, prepared.test.history) == [["a", "b"], ["b"]]
    assert prepared.test.timestamp.min() > 70


def test_a_positive_of_the_history_is_dropped_and_told(make, caplog):
    rows = [("A", "a", 1), ("A", "b", 2), ("A", "a", 3), ("B", "a", 1), ("B", "b", 2), ("B", "c", 3)]
    with caplog.at_level(logging.INFO, "trainer"):
        prepared = prepare(make(rows), of())
    assert prepared.users.decode(prepared.test.user) == ["B"]
    assert "1 of 2 held-out events repeat what their user had before" in caplog.text
    assert len(prepared.rated_test) == 2
    assert prepared.test.dropped == 1


def test_positives_that_a_given_test_shares_with_training_are_counted(make):
    data = make(
        [("A", "a", 1), ("B", "b", 2)], test=[("A", "a", 5), ("A", "b", 6), ("B", "b", 7), ("B", "a", 8)]
    )
    test = prepare(data, of("predefined")).test
    assert test.dropped == test.take(np.array([0])).dropped == 2


def test_repeated_events_stay_in_training_and_positives_are_unique(make):
    rows = [("A", "a", 1), ("A", "a", 2), ("B", "b", 2)]
    data = make(rows, validation=[], test=[("A", "b", 5), ("A", "b", 6), ("A", "c", 7), ("A", "d", 8)])
    prepared = prepare(data, of("predefined"))
    assert prepared.items.decode(prepared.train.item) == ["a", "a", "b"]
    assert lists(prepared, prepared.test.history) == [["a", "a"]]
    assert lists(prepared, prepared.test.positives) == [["b", "", ""]]  # c and d are two misses


def test_several_ratings_of_one_item_are_all_kept_in_order(make):
    rows = [
        ("A", "a", 2, 1.0),
        ("A", "a", 1, 5.0),
        ("A", "b", 3, 3.0),
        ("A", "c", 4, 3.0),
        ("B", "c", 1, 2.0),
    ]
    assert prepare(make(rows), of()).rated_train.rating.tolist() == [5.0, 1.0, 2.0]


def test_min_rating_makes_positives_but_ranking_sees_all(make):
    rows = [(u, i, t, 5.0 if i in "ab" else 1.0) for u in "AB" for t, i in enumerate("acdbea")]
    rows += [("C", "a", 1, None), ("C", "b", 2, 4.0)]
    prepared = prepare(make(rows), of(min_rating=4.0))
    assert set(prepared.items.decode(prepared.train.item)) == {"a", "b"}
    assert np.nanmin(prepared.rated_train.rating) == 1.0
    assert set(prepared.users.decode(prepared.test.user)) == {"C"}  # the last a of A and B they had already
    with pytest.raises(UserError, match="min_rating=6"):
        prepare(make(rows), of(min_rating=6.0))


def test_unordered_splits_have_all_other_events_as_history(make):
    rows = [(f"u{i}", f"i{j}", i * j) for i in range(8) for j in range(12)]
    prepared = prepare(make(rows), of("random"))
    assert not prepared.ordered
    seen = prepared.test.history.lengths + prepared.test.positives.lengths
    assert (seen == 12).all()


def test_a_published_split_with_times_shows_no_future(make):
    """Of one user among many whose training part goes on after the test, what came later is hidden."""
    others = [f"u{number}" for number in range(30)]
    data = make(
        [("A", "a", 1), ("A", "b", 50), ("B", "a", 1), ("B", "c", 2), *((user, "a", 1) for user in others)],
        validation=[("B", "b", 3)],
        test=[("A", "c", 10), ("B", "d", 90), *((user, "b", 2) for user in others)],
    )
    prepared = prepare(data, of("predefined"))
    found = dict(
        zip(prepared.users.decode(prepared.test.user), lists(prepared, prepared.test.history), strict=True)
    )
    assert (found["A"], found["B"]) == (["a"], ["a", "c", "b"])


def test_the_catalogue_is_known_where_features_describe_it(make):
    items = pl.DataFrame(
        {"item_id": ["z", "a", "b", "c"], "genre": ["g", None, "h", ""], "year": [1.0, None, 3.0, 4.0]}
    )
    schema = Schema(item=(Feature(name="genre", kind="category"), Feature(name="year", kind="number")))
    prepared = prepare(make(ROWS, items=items, schema=schema), of())
    assert prepared.items.values == ("b", "a", "c", "z")
    assert prepared.items.trained == 2
    assert list(prepared.item_features["genre"]) == ["", "h", "", "", "g"]
    np.testing.assert_array_equal(prepared.item_features["year"], [np.nan, 3.0, np.nan, 4.0, 1.0])
    assert prepare(make(ROWS, items=items), of()).items.values == ("b", "a")


def test_titles_fall_back_to_ids(make):
    items = pl.DataFrame({"item_id": ["a", "b"], "title": ["The A", None]})
    assert prepare(make(ROWS, items=items, schema=Schema(title="title")), of()).titles == ("", "b", "The A")
    assert prepare(make(ROWS), of()).titles == ("", "b", "a")


def test_bags_texts_and_times_come_out_raw(make):
    users = pl.DataFrame({"user_id": ["B", "A"], "likes": [["x", "y"], None], "joined": [7, None]})
    schema = Schema(user=(Feature(name="likes", kind="bag"), Feature(name="joined", kind="time")))
    prepared = prepare(make(ROWS, users=users, schema=schema), of())
    assert prepared.user_features["likes"] == [[], [], ["x", "y"], []]
    np.testing.assert_array_equal(prepared.user_features["joined"], [np.nan, np.nan, 7.0, np.nan])


def test_context_goes_with_its_event(make):
    context = {"device": ["tv", None, "web", "tv", "tv", "phone", "tv"], "hour": [1.0, 2, 3, 4, 5, None, 7]}
    schema = Schema(context=(Feature(name="device", kind="category"), Feature(name="hour", kind="number")))
    prepared = prepare(make(ROWS, schema=schema, **context), of())
    assert list(prepared.train.context["device"]) == ["tv", "tv", "tv"]
    assert list(prepared.validation.context["device"]) == ["", "tv"]
    assert list(prepared.test.context["device"]) == ["web", "phone"]
    np.testing.assert_array_equal(prepared.test.context["hour"], [3.0, np.nan])


def test_nothing_left_to_find_is_an_error(make):
    with pytest.raises(UserError, match="no test event is left"):
        prepare(make([("A", "a", 1), ("A", "a", 2), ("B", "b", 1)]), of())


def test_best_reachable_belongs_to_leave_last_out_of_all_events():
    world = Synthetic(interactions=2000, truth_users=20).load()
    assert prepare(world, of()).best_reachable
    assert not prepare(world, of("random")).best_reachable
    assert not prepare(world, of(min_rating=3.0)).best_reachable


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=stories(),
    method=st.sampled_from(["leave_last_out", "time", "random", "predefined"]),
    test=stories(least=4, most=12),
)
def test_no_history_holds_the_future_or_an_answer(make, rows, method, test):
    try:
        prepared = prepare(make(rows, test=test), of(method))
    except UserError:
        return
    for cases in (prepared.validation, prepared.test):
        of_case = np.repeat(np.arange(len(cases)), cases.history.lengths)
        if prepared.ordered:
            assert (cases.history.timestamps <= cases.timestamp[of_case]).all()
        had = set(zip(of_case, cases.history.items, strict=True))
        wanted = np.repeat(np.arange(len(cases)), cases.positives.lengths)
        asked = [pair for pair in zip(wanted, cases.positives.items, strict=True) if pair[1]]
        assert not had & set(asked)
        assert len(asked) == len(set(asked))
        assert (cases.positives.lengths > 0).all()
        first = cases.positives.offsets[:-1]
        assert (cases.positives.timestamps[first] == cases.timestamp).all()
    assert (prepared.train.item > 0).all() and (prepared.train.user > 0).all()
    assert (
        np.lexsort((prepared.train.timestamp, prepared.train.user)) == np.arange(len(prepared.train))
    ).all()
