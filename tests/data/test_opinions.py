"""Behaviours and ratings to likes and dislikes: what is a positive, what is a negative, and what is left out."""

import logging

import numpy as np
import polars as pl
import pytest

from trainer import config
from trainer.data.examples import Events
from trainer.data.interactions import Interactions
from trainer.data.opinions import likes, time_weights
from trainer.data.prepare import prepare
from trainer.data.table import Table
from trainer.errors import UserError
from trainer.settings import DataSettings, SplitSettings

WEIGHTS = {"view": 1.0, "like": 2.0, "purchase": 5.0, "skip": -1.0, "dislike": -5.0, "scroll": 0.0}


def told(rows):
    """Signed events of (user row, item row, weight) in the order of time."""
    user, item, weight = (np.array(column) for column in zip(*rows, strict=True))
    count = len(rows)
    return Events(
        user.astype(np.int32),
        item.astype(np.int32),
        np.arange(count),
        np.full(count, np.nan, np.float32),
        weight.astype(np.float32),
    )


def of(method="leave_last_out", **more):
    return DataSettings(split=SplitSettings(method=method), **more)


def pairs(prepared, events):
    return list(zip(prepared.users.decode(events.user), prepared.items.decode(events.item), strict=True))


def lists(prepared, part):
    return [
        prepared.items.decode(part.items[a:b]) for a, b in zip(part.offsets, part.offsets[1:], strict=False)
    ]


def test_an_events_weights_are_summed_by_pair():
    events = told([(1, 1, 2), (1, 1, -5), (1, 2, -1), (1, 3, 4), (1, 3, -1), (2, 1, 1), (1, 2, -2)])
    liked, disliked, balance = likes(events, None)
    assert liked.tolist() == [False, False, False, True, False, True, False]
    assert disliked.tolist() == [False, True, False, False, False, False, True]  # the pair's last dislike
    assert balance.tolist() == [-3, -3, -3, 3, 3, 1, -3]


def test_without_dislikes_every_event_is_liked():
    events = told([(1, 1, 2), (1, 1, 0), (2, 2, 1)])
    liked, disliked, _ = likes(events, None)
    assert liked.all() and not disliked.any()


def test_a_dislike_without_weight_is_neither():
    liked, disliked, _ = likes(told([(1, 1, -0.0), (1, 2, 1)]), None)
    assert liked.tolist() == [False, True] and not disliked.any()


def test_what_is_rated_in_between_says_nothing():
    events = told([(1, 1, 1), (1, 1, -1), (1, 2, -1), (1, 3, 1)])
    events.rating[:] = [3, 1, 1, 5]
    liked, disliked, _ = likes(events, 4.0)
    assert liked.tolist() == [False, False, False, True]
    assert disliked.tolist() == [False, True, True, False]  # the 3 does not make up for the 1


def test_events_that_weigh_nothing_are_left_out(make, caplog):
    rows = [
        ("A", "a", 1, None, 1.0),
        ("A", "b", 2, None, 0.0),
        ("B", "a", 1, None, 2.0),
        ("A", "c", 3, None, 1.0),
    ]
    with caplog.at_level(logging.INFO, "trainer"):
        prepared = prepare(make(rows), of())
    assert "1 events that weigh 0 are left out" in caplog.text
    assert pairs(prepared, prepared.train) == [("A", "a"), ("B", "a")] and len(prepared.test) == 1
    with pytest.raises(UserError, match="the weight is 0 in all events"):
        prepare(make([(*row[:4], 0.0) for row in rows]), of())


ROWS = [
    ("A", "a", 1, None, 1.0, "view"),
    ("A", "b", 2, None, 1.0, "dislike"),
    ("A", "x", 3, None, 1.0, "scroll"),
    ("A", "c", 4, None, 2.0, "purchase"),
    ("A", "d", 5, None, 1.0, "view"),
    ("A", "e", 6, None, 1.0, "view"),
    ("B", "b", 1, None, 1.0, "like"),
    ("B", "b", 2, None, 1.0, "skip"),
    ("B", "e", 3, None, 1.0, "skip"),
    ("B", "a", 4, None, 1.0, "view"),
    ("B", "d", 5, None, 1.0, "view"),
    ("B", "c", 6, None, 1.0, "view"),
]


@pytest.fixture
def behaving(make):
    def made(rows=ROWS):
        return make([row[:5] for row in rows], behaviour=[row[5] for row in rows])

    return made


def test_behaviours_weigh_and_sort_events(behaving):
    prepared = prepare(behaving(), of(behaviours=WEIGHTS))
    assert pairs(prepared, prepared.train) == [("B", "b"), ("B", "a"), ("A", "a"), ("A", "c")]
    assert prepared.train.weight.tolist() == [2, 1, 1, 10]  # the event's weight times its behaviour's
    assert "x" not in prepared.items.values
    assert pairs(prepared, prepared.negative) == [("B", "e"), ("A", "b")]
    assert prepared.negative.weight.tolist() == [1, 5]
    assert (np.diff(prepared.negative.user) >= 0).all()
    assert len(prepared.rated_train) == 7 and (prepared.rated_train.weight < 0).sum() == 3
    assert prepared.rated_train.take(prepared.liked).item.tolist() == prepared.train.item.tolist()


def test_dislikes_are_in_no_history_and_masked(behaving):
    prepared = prepare(behaving(), of(behaviours=WEIGHTS))
    assert lists(prepared, prepared.test.history) == [["b", "a"], ["a", "c"]]  # d is no training item
    assert lists(prepared, prepared.test.disliked) == [["e"], ["b"]]
    assert lists(prepared, prepared.validation.disliked) == [["e"], ["b"]]
    assert lists(prepared, prepared.test.take(np.array([1])).disliked) == [["b"]]
    served = prepared.with_test()
    assert not any(set(pair) & {("A", "b"), ("B", "e")} for pair in [pairs(served, served.before_test)])


def test_who_disliked_an_item_is_not_asked_to_find_it(behaving):
    rows = [*ROWS, ("A", "b", 7, None, 1.0, "view"), ("C", "b", 1, None, 1.0, "view")]
    prepared = prepare(behaving(rows), of(behaviours=WEIGHTS))
    assert prepared.users.decode(prepared.test.user) == ["B"]  # A's last event is a look at what A disliked


def test_a_last_event_that_is_a_dislike_is_no_positive(behaving):
    rows = [*ROWS, ("A", "f", 7, None, 1.0, "dislike"), ("C", "f", 1, None, 1.0, "view")]
    prepared = prepare(behaving(rows), of(behaviours=WEIGHTS))
    assert prepared.users.decode(prepared.test.user) == ["B"]
    assert ("A", "f") in pairs(prepared, prepared.negative_everything)
    assert ("A", "f") not in pairs(prepared, prepared.negative_before_test)


def test_dislikes_by_rating(make):
    rows = [
        (u, i, t, r)
        for u in "AB"
        for t, (i, r) in enumerate([("a", 5), ("b", 1), ("c", 3), ("d", 4), ("a", 5)])
    ]
    rows += [("C", item, t, 5.0) for t, item in enumerate("dbac")]
    prepared = prepare(make(rows), of(dislike_rating=2.0, min_rating=4.0))
    assert set(pairs(prepared, prepared.negative)) == {("A", "b"), ("B", "b")}
    assert not {("A", "c"), ("B", "c"), ("A", "b")} & set(pairs(prepared, prepared.train))
    assert np.nanmin(prepared.rated_train.rating) == 1.0  # ranking learns from all


def test_without_settings_nothing_is_negative(make):
    prepared = prepare(make([row[:5] for row in ROWS]), of())
    assert not len(prepared.negative) and prepared.test.disliked is None and prepared.liked.all()


def test_the_best_reachable_is_not_that_of_other_positives(behaving):
    assert not prepare(behaving(), of(behaviours=WEIGHTS)).best_reachable


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {**WEIGHTS, "skipp": 1.0, "skip": None},
            r"behaviour 'skip' of the interactions has no weight in data.behaviours; did you mean 'skipp'",
        ),
        (dict.fromkeys(WEIGHTS, 0.0), "data.behaviours gives the weight 0 to all"),
        (dict.fromkeys(WEIGHTS, -1.0), "data.behaviours leaves no training event"),
    ],
)
def test_weights_that_will_not_do(behaving, weights, message):
    known = {name: weight for name, weight in weights.items() if weight is not None}
    with pytest.raises(UserError, match=message) as caught:
        prepare(behaving(), of(behaviours=known))
    assert "\n" not in str(caught.value)


def test_an_event_without_a_behaviour(behaving, make):
    with pytest.raises(UserError, match="row 2 of the interactions has no behaviour"):
        prepare(behaving([ROWS[0], (*ROWS[1][:5], None), *ROWS[6:]]), of(behaviours=WEIGHTS))
    with pytest.raises(UserError, match=r"no behaviour; name its column in data.source.columns.behaviour"):
        prepare(make([row[:5] for row in ROWS]), of(behaviours=WEIGHTS))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"data": {"dislike_rating": 4, "min_rating": 4}},
            "dislike_rating=4.0 must be below data.min_rating=4.0",
        ),
        (
            {"data": {"behaviours": {"view": float("inf")}}},
            "data.behaviours.view=inf: Input should be a finite number",
        ),
        ({"data": {"behaviours": {"view": "much"}}}, "data.behaviours.view='much'"),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(UserError, match=message):
        config.from_values(values)


def test_a_table_brings_behaviours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame(
        [(*row[:3], row[5]) for row in ROWS], orient="row", schema=["user", "item", "time", "event"]
    )
    frame.write_csv("events.csv")
    data = Table(path="events.csv", columns={"behaviour": "event"}).load()
    assert data.interactions.frame["behaviour"].to_list() == [row[5] for row in ROWS]
    assert len(prepare(data, of(behaviours=WEIGHTS)).negative) == 2
    assert "behaviour" not in Table(path="events.csv").load().interactions.frame.columns
    both = Table(path="events.csv", columns={"behaviour": "event"}, context={"event": "category"}).load()
    assert both.interactions.frame["event"].to_list() == both.interactions.frame["behaviour"].to_list()
    with pytest.raises(UserError, match="no column 'evnt'"):
        Table(path="events.csv", columns={"behaviour": "evnt"}).load()


def test_a_row_without_a_behaviour_is_told_by_its_line(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,event\nA,a,view\nA,b,\nB,a,view\n")
    with pytest.raises(UserError, match="line 3: column 'event': empty"):
        Table(path=str(tmp_path / "a.csv"), columns={"behaviour": "event"}).load()


def test_the_fingerprint_of_data_without_behaviours_is_as_before():
    """Nothing is added to the frames of data that brings no behaviours: runs recorded earlier stay valid."""
    frame = pl.DataFrame(
        {"user_id": ["A"], "item_id": ["a"], "timestamp": [1], "rating": [None], "weight": [1.0]},
        schema_overrides={"rating": pl.Float32},
    )
    assert Interactions(frame).frame.columns == ["user_id", "item_id", "timestamp", "rating", "weight"]


def test_weights_halve_with_every_half_life():
    day = 86_400
    found = time_weights(np.array([0, 5 * day, 10 * day, 11 * day]), latest=10 * day, half_life_days=5)
    np.testing.assert_allclose(found, [0.25, 0.5, 1, 1])
    assert found.dtype == np.float32


@pytest.mark.parametrize("method", ["leave_last_out", "time", "random"])
@pytest.mark.parametrize("seed", range(5))
def test_no_pair_is_both_liked_and_disliked(behaving, method, seed):
    draw = np.random.default_rng(seed)
    names = list(WEIGHTS)
    rows = [
        (
            f"u{draw.integers(20)}",
            f"i{draw.integers(60)}",
            int(draw.integers(50)),
            None,
            1.0,
            names[draw.integers(6)],
        )
        for _ in range(500)
    ]
    prepared = prepare(behaving(rows), of(method, behaviours=WEIGHTS))
    for liked, disliked in (
        (prepared.train, prepared.negative),
        (prepared.before_test, prepared.negative_before_test),
        (prepared.everything, prepared.negative_everything),
    ):
        assert len(disliked) and (disliked.weight > 0).all()
        known = [(u, i) for u, i in zip(disliked.user, disliked.item, strict=True) if u and i]
        assert len(set(known)) == len(known)  # one event a pair
        assert not set(known) & set(zip(liked.user, liked.item, strict=True))
    for cases in (prepared.validation, prepared.test):
        if cases.disliked is None:
            continue
        assert len(cases.disliked) == len(cases)
        for case in range(len(cases)):
            past, against, wanted = (
                set(part.items[part.offsets[case] : part.offsets[case + 1]].tolist()) - {0}
                for part in (cases.history, cases.disliked, cases.positives)
            )
            assert not past & against and not wanted & (past | against)
