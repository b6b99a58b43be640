"""Where a run is done: in the caller's thread where the last one was quick and no other is there, else in TensorFlow's pool."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from serving.server import runner


@pytest.fixture
def made(monkeypatch):
    """A run of a graph that doubles, the lock of its model, and where each run was done: True is the caller's thread."""
    graph, places, alone = tf.Graph(), [], threading.Lock()
    with graph.as_default():
        given = tf.compat.v1.placeholder(tf.float32, [None])
        doubled = tf.debugging.check_numerics(given, "no number") * 2
        session = tf.compat.v1.Session(graph=graph)
    options = runner._run_options
    monkeypatch.setattr(runner, "_run_options", lambda bits, here: places.append(here) or options(bits, here))
    monkeypatch.setattr(runner, "QUICK", 60.0)  # the first run of a busy machine takes longer than .02 s
    run = runner.runner(session, [given], [doubled], alone)
    places.clear()
    yield run, alone, places
    session.close()


def answer(run, *values, timeout=None):
    return run([np.array(values, np.float32)], timeout)[0].tolist()


def test_after_a_quick_run_the_next_one_stays(made):
    run, _, places = made
    assert [answer(run, 1.0), answer(run, 2.0, 3.0, timeout=9), answer(run)] == [[2.0], [4.0, 6.0], []]
    assert places == [False, True, True]


def test_one_at_a_time(made):
    run, alone, places = made
    answer(run, 1.0)
    with alone:
        assert answer(run, 2.0) == [4.0]
    assert answer(run, 3.0) == [6.0]
    assert places == [False, False, True]


def test_a_slow_or_a_failed_run_says_that_the_next_may_be_so(made, monkeypatch):
    run, alone, places = made
    answer(run, 1.0)
    with pytest.raises(tf.errors.InvalidArgumentError):
        answer(run, np.nan)
    assert not alone.locked()
    answer(run, 1.0)
    monkeypatch.setattr(runner, "QUICK", 0.0)
    answer(run, 1.0)
    answer(run, 1.0)
    assert places == [False, True, False, True, False]
