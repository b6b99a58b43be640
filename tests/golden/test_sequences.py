"""Runs of events to batches, by hand and as properties: every event of a user with two or more stands in one place an epoch."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.examples import Events
from trainer.errors import UserError
from trainer.retrieval.sequences import Sequences, runs, sequence_batches


def events_of(rows):
    """Returns events of users 1, 2, ... with so many events each; every event has an item of its own."""
    user = np.repeat(np.arange(1, len(rows) + 1), rows).astype(np.int32)
    item = np.arange(1, len(user) + 1, dtype=np.int32)
    weight = item.astype(np.float32)
    return Events(user, item, np.arange(len(user)) + 100, weight, weight)


def test_runs_are_cut_from_the_newest_event():
    starts, ends = runs(np.array([0, 0, 5, 6, 8]), 2)
    assert [list(range(a, b)) for a, b in zip(starts, ends, strict=True)] == [[3, 4], [1, 2], [6, 7]]


def test_a_batch_by_hand():
    events = events_of([3, 1, 2])
    sequences = Sequences(events, 4, 5, batch_size=100, seed=0)
    context = {"hour": tf.constant(np.arange(6.0)[:, None])}
    (batch,) = sequence_batches(events, sequences, context, 0, 1)
    order = np.argsort(batch["user"])
    assert batch["user"].numpy()[order].tolist() == [1, 3]
    assert batch["sequence"].numpy()[order].tolist() == [[1, 2, 3], [5, 6, 0]]
    assert batch["weight"].numpy()[order].tolist() == [[1, 2, 3], [5, 6, 0]]
    assert batch["times"].numpy()[order].tolist() == [[100, 101, 102], [104, 105, 0]]
    assert batch["context_hour"].numpy()[order][0, :, 0].tolist() == [0, 1, 2]


@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda rows: max(rows) > 1),
    length=st.integers(2, 30),
    batch_size=st.integers(1, 60),
)
@settings(max_examples=40, deadline=None)
def test_places_are_whole_runs_of_one_user(rows, length, batch_size):
    events = events_of(rows)
    sequences = Sequences(events, len(rows) + 1, length, batch_size, seed=1)
    seen = []
    for step in range(sequences.steps):
        places, inside = (values.numpy() for values in sequences.places(tf.constant(step)))
        assert places.shape[1] <= min(length, max(rows))
        for place, real in zip(places, inside, strict=True):
            held = place[real]
            assert len(held) > 1
            assert (np.diff(held) == 1).all()
            assert len(set(events.user[held])) == 1
            assert not real[len(held) :].any()  # padded on the right
            seen += held.tolist()
    assert len(seen) == len(set(seen))


def test_an_epoch_holds_every_run_when_batches_come_out_even_and_epochs_differ():
    events = events_of([5] * 16)
    sequences = Sequences(events, 17, 8, batch_size=20, seed=3)
    epochs = [
        [sequences.places(tf.constant(step))[0].numpy().tolist() for step in range(first, first + 4)]
        for first in (0, 4)
    ]
    assert sequences.steps == 4
    for epoch in epochs:
        assert sorted(place for batch in epoch for run in batch for place in run) == list(range(80))
    assert epochs[0] != epochs[1]


def test_a_later_epoch_starts_where_an_unbroken_run_would_be():
    events = events_of([4, 9, 17, 2, 30])
    sequences = Sequences(events, 6, 16, batch_size=16, seed=3)
    whole = list(sequence_batches(events, sequences, {}, 0, 3))
    later = list(sequence_batches(events, sequences, {}, 1, 3))
    assert len(whole) == 3 * sequences.steps
    for one, other in zip(whole[sequences.steps :], later, strict=True):
        np.testing.assert_array_equal(one["sequence"], other["sequence"])


def test_users_of_one_event_give_no_sequence():
    with pytest.raises(UserError, match="no user has two events"):
        Sequences(events_of([1, 1]), 3, 5, batch_size=8, seed=0)
