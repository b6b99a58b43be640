import dataclasses

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data.split import in_words, resolve, split
from trainer.errors import UserError
from trainer.settings import SplitSettings

METHODS = ("leave_last_out", "time", "random")


def pairs(part):
    return list(zip(part.frame["user_id"], part.frame["item_id"], strict=True))


def stories(least=6, most=60, moments=12):
    """Events of a few users and items, with many equal moments."""
    event = st.tuples(st.sampled_from("ABCDE"), st.sampled_from("abcdefg"), st.integers(0, moments))
    distinct = st.lists(event, min_size=least, max_size=most)
    return distinct.filter(lambda rows: all(len({row[i] for row in rows}) > 1 for i in (0, 1, 2)))


def test_the_last_event_is_test_and_the_one_before_is_validation(make):
    data = make([("A", "c", 30), ("A", "a", 10), ("B", "b", 5), ("A", "b", 20), ("B", "c", 6), ("B", "a", 7)])
    parts = split(data, SplitSettings())
    assert pairs(parts.train) == [("A", "a"), ("B", "b")]
    assert pairs(parts.validation) == [("A", "b"), ("B", "c")]
    assert pairs(parts.test) == [("A", "c"), ("B", "a")]
    assert parts.ordered


def test_at_one_moment_the_order_is_that_of_the_file(make):
    parts = split(make([("A", "b", 1), ("A", "a", 1), ("A", "c", 1), ("B", "a", 1)]), SplitSettings())
    assert pairs(parts.test) == [("A", "c")]
    assert pairs(parts.validation) == [("A", "a")]


def test_without_times_the_order_is_that_of_the_file(make):
    parts = split(
        make([("A", "b"), ("B", "a"), ("A", "a"), ("A", "c")]), SplitSettings(method="leave_last_out")
    )
    assert pairs(parts.test) == [("A", "c")]
    assert parts.ordered


def test_auto_takes_what_the_data_brings(make):
    timed = make([("A", "a", 1), ("B", "a", 1), ("A", "b", 2), ("B", "b", 2)])
    untimed = make([("A", "a"), ("B", "a"), ("A", "b"), ("B", "b")])
    published = dataclasses.replace(timed, test=timed.interactions)
    methods = [resolve(data, "auto") for data in (timed, untimed, published)]
    assert methods == ["leave_last_out", "random", "predefined"]
    assert resolve(timed, "time") == "time"


def test_users_with_one_or_two_events(make):
    parts = split(make([("A", "a", 1), ("B", "a", 1), ("B", "b", 2)]), SplitSettings())
    assert pairs(parts.train) == [("A", "a"), ("B", "a")]
    assert not len(parts.validation)
    assert pairs(parts.test) == [("B", "b")]


def test_the_time_cut_is_global_and_keeps_moments_together(make):
    data = make(
        [
            (user, item, moment)
            for moment, (user, item) in enumerate(zip("ABCABCABCA", "aabbccddee", strict=True))
        ]
    )
    parts = split(data, SplitSettings(method="time", test_fraction=0.3, validation_fraction=0.3))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [4, 3, 3]
    same = make([("A", "a", 1), ("A", "b", 2), ("B", "a", 2), ("B", "b", 2), ("C", "a", 2)])
    assert len(split(same, SplitSettings(method="time", test_fraction=0.2)).test) == 4


def test_a_time_cut_needs_times(make):
    with pytest.raises(UserError, match="needs timestamps"):
        split(make([("A", "a"), ("B", "b")]), SplitSettings(method="time"))


def test_all_at_one_moment_leaves_nothing_to_train_on(make):
    with pytest.raises(UserError, match="no train events"):
        split(make([("A", "a", 1), ("B", "b", 1)]), SplitSettings(method="time"))


def test_only_users_with_one_event_leave_nothing_to_test(make):
    with pytest.raises(UserError, match="no test events"):
        split(make([("A", "a", 1), ("B", "b", 1)]), SplitSettings())


def test_random_parts_have_their_sizes_and_their_seed(make):
    data = make([(f"u{i % 40}", f"i{i // 40}") for i in range(1000)])
    parts = split(data, SplitSettings(method="random", test_fraction=0.2, validation_fraction=0.1))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [720, 80, 200]
    assert not parts.ordered
    again = split(data, SplitSettings(method="random"))
    other = split(data, SplitSettings(method="random", seed=7))
    assert pairs(again.test) == pairs(parts.test) != pairs(other.test)


def test_a_repeated_pair_never_lies_on_both_sides(make):
    data = make([(f"u{i % 7}", f"i{i % 11}") for i in range(77 * 5)])
    parts = split(data, SplitSettings(method="random"))
    sides = [set(pairs(part)) for part in (parts.train, parts.validation, parts.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]


def test_a_published_split_is_used_as_it_is(make):
    data = make([("A", "a"), ("B", "b")], validation=[("A", "b")], test=[("A", "c"), ("B", "a")])
    parts = split(data, SplitSettings(method="predefined"))
    assert pairs(parts.train) == [("A", "a"), ("B", "b")]
    assert pairs(parts.validation) == [("A", "b")]
    assert pairs(parts.test) == [("A", "c"), ("B", "a")]
    assert not parts.ordered


def test_a_missing_validation_part_is_carved_out_of_training(make):
    timed = make([("A", "a", 1), ("A", "b", 2), ("B", "a", 3)], test=[("A", "c", 9)])
    parts = split(timed, SplitSettings(method="predefined"))
    assert pairs(parts.validation) == [("A", "b")]
    assert parts.ordered
    plain = make([(f"u{i}", f"i{j}") for i in range(10) for j in range(10)], test=[("u1", "x")])
    parts = split(plain, SplitSettings(method="predefined", validation_fraction=0.1))
    assert len(parts.validation) == 10
    assert len(parts.train) == 90


def test_a_published_split_by_chance_has_no_order_whatever_its_times(make, caplog):
    """Times 0 to 9 of ten users: every third event is test. One user of thirty out of order changes nothing."""
    rows = [(f"u{user}", f"i{event}", event) for user in range(10) for event in range(10)]
    train = [row for row in rows if row[2] % 3]
    test = [row for row in rows if not row[2] % 3]
    with caplog.at_level("INFO", "trainer"):
        parts = split(make(train, test=test), SplitSettings(validation_fraction=0.1))
    assert not parts.ordered
    assert len(parts.validation) == 6
    assert "10 of 10 users" in caplog.text
    rows = [(f"u{user}", f"i{event}", event) for user in range(30) for event in range(5)]
    train, test = [row for row in rows if row[2] < 4], [row for row in rows if row[2] == 4]
    assert split(make(train, test=[*test, ("u0", "i9", 0)]), SplitSettings()).ordered


@pytest.mark.parametrize("method", ["auto", "random", "leave_last_out", "time"])
def test_a_test_part_is_never_thrown_away(make, method, caplog):
    data = make([("A", "a", 1), ("A", "b", 2), ("B", "a", 3)], test=[("A", "c", 9)])
    with caplog.at_level("INFO", "trainer"):
        assert pairs(split(data, SplitSettings(method=method)).test) == [("A", "c")]
    assert (f"data.split.method={method}" in caplog.text) == (method != "auto")


def test_predefined_needs_a_test_part(make):
    with pytest.raises(UserError, match=r"data\.source\.test"):
        split(make([("A", "a"), ("B", "b")]), SplitSettings(method="predefined"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=stories(), method=st.sampled_from(METHODS), seed=st.integers(0, 3))
def test_every_event_lands_in_one_part(make, rows, method, seed):
    try:
        parts = split(make(rows), SplitSettings(method=method, seed=seed))
    except UserError:
        return
    frames = [part.frame for part in (parts.train, parts.validation, parts.test)]
    columns = ["user_id", "item_id", "timestamp"]
    found = pl.concat(frames).select(columns).sort(columns).rows()
    assert found == sorted(rows)
    if parts.ordered:
        for user in "ABCDE":
            moments = [frame.filter(pl.col("user_id") == user)["timestamp"].to_list() for frame in frames]
            for earlier, later in ((0, 1), (0, 2), (1, 2)):
                assert max(moments[earlier], default=-1) <= min(moments[later], default=99)


@pytest.mark.parametrize(
    ("time", "method", "words"),
    [
        (1, "auto", "each user's last"),
        (None, "leave_last_out", "each user's last, by the order of the rows"),
        (1, "time", "the latest 20% of events"),
        (None, "random", "a random 20%: histories are sets"),
        (
            None,
            "auto",
            "a random 20%: histories are sets (no times; data.split.method=leave_last_out takes the rows to be in order)",
        ),
    ],
)
def test_a_split_is_told_in_words(make, time, method, words):
    data = make([("A", "a", time), ("B", "b", time)])
    assert in_words(data, SplitSettings(method=method), ordered=method != "random") == words


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (5, 9, "the source's own"),
        (5, 1, "the source's own (not later than training: histories are sets)"),
        (None, None, "the source's own (no times: histories are sets)"),
    ],
)
def test_a_published_split_is_told_in_words(make, before, after, words):
    data = make([("A", "a", before), ("B", "b", before)], test=[("A", "c", after)])
    assert in_words(data, SplitSettings(), split(data, SplitSettings()).ordered) == words
