"""Histories cut out of events, by hand and as properties; batches as a shuffle of all events an epoch."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.examples import Events
from trainer.input_pipeline import Windows, batch_rows, steps_per_epoch, training_batches


def windows_of(events: Events, users: int, length: int, ordered: bool) -> np.ndarray:
    windows = Windows(events, users, length, ordered)
    return windows(tf.range(len(events), dtype=tf.int64), tf.constant(events.user)).numpy()


def test_ordered_windows_hold_the_events_before(make_events):
    events = make_events([[11, 12, 13, 14], [21]])
    wanted = [[0, 0], [11, 0], [11, 12], [12, 13], [0, 0]]
    np.testing.assert_array_equal(windows_of(events, 3, 2, ordered=True), wanted)


def test_unordered_windows_hold_the_other_events(make_events):
    events = make_events([[11, 12, 13], [21]])
    wanted = [[12, 13], [13, 11], [11, 12], [0, 0]]
    np.testing.assert_array_equal(windows_of(events, 3, 9, ordered=False), wanted)


def test_who_has_no_event_has_no_history(make_events):
    """A user who dislikes all, or rates all too low, has events to rank and none among the positives."""
    for ordered in (True, False):
        windows = Windows(make_events([[11, 12]]), 3, 2, ordered)
        found = windows(tf.constant([0, 2], tf.int64), tf.constant([1, 2]))
        np.testing.assert_array_equal(found[1], [0])


def test_a_window_is_no_longer_than_the_longest_history(make_events):
    assert Windows(make_events([[1, 2, 3], [4]]), 3, 50, ordered=True).length == 2
    assert Windows(make_events([[1], [2]]), 3, 50, ordered=True).length == 1
    assert Windows(make_events([[1, 2, 3], [4]]), 3, 50, ordered=True, whole=True).length == 3


@given(
    rows=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    length=st.integers(1, 8),
    ordered=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_window_holds_its_own_event_or_a_later_one(rows, length, ordered):
    """Each event carries an item of its own, so that a window tells exactly which events it holds."""
    user = np.repeat(np.arange(1, len(rows) + 1), rows).astype(np.int32)
    count = len(user)
    item = np.arange(1, count + 1, dtype=np.int32)
    blank = np.ones(count, np.float32)
    events = Events(user, item, np.arange(count), blank, blank)
    for event, window in enumerate(windows_of(events, len(rows) + 1, length, ordered)):
        held = window[window > 0]
        width = len(held)
        assert not window[width:].any()  # padded on the right
        places = held - 1
        assert (user[places] == user[event]).all()
        assert event not in places
        assert len(set(places)) == width
        if ordered:
            before = np.flatnonzero(user[:event] == user[event])
            np.testing.assert_array_equal(places, before[-min(length, max(rows)) :] if len(before) else [])
        else:
            assert width == min(length, rows[user[event] - 1] - 1)


@pytest.mark.parametrize(("events", "batch"), [(12, 4), (13, 4), (5, 8), (2, 2), (1000, 7)])
def test_an_epoch_is_a_shuffle_of_the_events(events, batch):
    steps = steps_per_epoch(events, batch)
    epochs = [
        np.concatenate([batch_rows(epoch * steps + step, events, batch, 3) for step in range(steps)])
        for epoch in range(3)
    ]
    for rows in epochs:
        assert len(rows) == min(steps * batch, events)  # what fills no whole batch waits for another epoch
        assert len(set(rows.tolist())) == len(rows)
        assert rows.min() >= 0
        assert rows.max() < events
    if events >= 12:
        assert (epochs[0] != epochs[1]).any()


def test_what_an_epoch_leaves_out_comes_in_another():
    left_out = [
        set(range(13))
        - set(np.concatenate([batch_rows(3 * epoch + step, 13, 4, 3) for step in range(3)]).tolist())
        for epoch in range(20)
    ]
    assert all(len(one) == 1 for one in left_out)
    assert len(set.union(*left_out)) > 5


def test_another_seed_is_another_shuffle():
    assert (batch_rows(0, 100, 50, 1) != batch_rows(0, 100, 50, 2)).numpy().any()


def test_batches_go_on_where_an_unbroken_run_would_be(make_events):
    events = make_events([[1, 2, 3, 4], [5, 6, 7], [8, 9]])
    windows = Windows(events, 4, 3, ordered=True)
    context = {"hour": tf.range(9.0)[:, None]}

    def batches(first: int) -> list[dict[str, np.ndarray]]:
        made = training_batches(events, windows, context, 4, 9, first, 3)
        return [{name: column.numpy() for name, column in batch.items()} for batch in made]

    whole, rest = batches(0), batches(2)
    assert (len(whole), len(rest)) == (6, 2)
    for one, other in zip(whole[4:], rest, strict=True):
        assert one.keys() == other.keys() == {"user", "item", "weight", "history", "times", "context_hour"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    rows = whole[0]["context_hour"][:, 0].astype(int)
    np.testing.assert_array_equal(whole[0]["item"], events.item[rows])
    last = np.maximum(rows - 1, 0)[:, None]  # the newest event of a history stands just before
    newest = np.maximum((whole[0]["history"] > 0).sum(axis=1) - 1, 0)[:, None]
    found = np.take_along_axis(whole[0]["times"], newest, axis=1)
    np.testing.assert_array_equal(found, np.where(whole[0]["history"][:, :1] > 0, events.timestamp[last], 0))
    np.testing.assert_array_equal(whole[0]["user"], events.user[rows])
