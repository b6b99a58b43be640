"""Batches, away from the wire: who meets whom, how rows are padded and split, and what is refused."""

import threading
from concurrent.futures import wait

import numpy as np
import pytest

from serving.server.batching import Batcher
from serving.server.config import Batching
from serving.server.errors import Code, RequestError
from serving.server.metrics import Metrics


class Double:
    """A model that doubles its one input, and remembers the shapes that it saw."""

    def __init__(self):
        self.shapes = []
        self.timeouts = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, inputs, timeout):
        self.open.wait(10)
        self.timeouts.append(timeout)
        self.shapes.append(inputs[0].shape)
        return [inputs[0] * 2]


def batcher(**settings):
    return Batcher(
        Batching(**{"num_batch_threads": 1, "batch_timeout_micros": 50_000, **settings}), Metrics()
    )


def rows(*values):
    return [np.asarray(values, np.float32)]


def test_requests_meet_and_part():
    model, batches = Double(), batcher(max_batch_size=4)
    waiting = [batches.submit("key", rows(*values), model) for values in ([1], [2, 3], [4])]
    assert [result.result(10)[0].tolist() for result in waiting] == [[2], [4, 6], [8]]
    assert model.shapes == [(4,)]


def test_a_batch_that_is_not_full_runs_in_time():
    model, batches = Double(), batcher(max_batch_size=100, batch_timeout_micros=1000)
    assert batches.submit("key", rows(1), model).result(10)[0].tolist() == [2]


def test_rows_are_padded_to_an_allowed_size():
    model, batches = Double(), batcher(max_batch_size=8, allowed_batch_sizes=(4, 8), batch_timeout_micros=0)
    assert batches.submit("key", rows(1, 2, 3), model).result(10)[0].tolist() == [2, 4, 6]
    assert model.shapes == [(4,)]


@pytest.mark.parametrize(("sent", "shape"), [([()], (0,)), ([(), (), (1, 2, 3)], (4,))])
def test_no_row_is_made_of_none(sent, shape):
    """A request without rows is neither padded nor what others are padded with."""
    model, batches = Double(), batcher(max_batch_size=8, allowed_batch_sizes=(4, 8))
    waiting = [batches.submit("key", rows(*values), model) for values in sent]
    assert [result.result(10)[0].tolist() for result in waiting] == [
        [2 * x for x in values] for values in sent
    ]
    assert model.shapes == [shape]


def test_only_what_fits_together_meets():
    model, batches = Double(), batcher(max_batch_size=2)
    wide = [np.ones((1, 3), np.float32)]
    waiting = [
        batches.submit("key", rows(1), model),
        batches.submit("key", wide, model),
        batches.submit("other", rows(1), model),
    ]
    wait(waiting, 10)
    assert sorted(model.shapes) == [(1,), (1,), (1, 3)]


def test_a_failure_reaches_everyone_in_the_batch():
    def fails(_inputs, _timeout):
        raise RequestError(Code.INVALID_ARGUMENT, "no")

    batches = batcher(max_batch_size=2)
    waiting = [batches.submit("key", rows(1), fails) for _ in range(2)]
    assert [str(result.exception(10)) for result in waiting] == ["no", "no"]


@pytest.mark.parametrize("requests", [1, 2])
@pytest.mark.parametrize(
    ("output", "text"),
    [
        (np.float32(1), "Batched output tensor has 0 dimensions"),
        (np.ones(3), "Batched output tensor's 0th dimension does not equal the sum"),
    ],
)
def test_outputs_that_cannot_be_split_are_an_error(requests, output, text):
    """BatchingSession::SplitOutputTensors, which a lone request meets too."""
    batches = batcher(max_batch_size=requests)
    waiting = [batches.submit("key", rows(1), lambda *_: [output]) for _ in range(requests)]
    for result in waiting:
        error = result.exception(10)
        assert (error.code, error.message.startswith(text)) == (Code.FAILED_PRECONDITION, True)


def test_a_full_queue_refuses():
    model, batches = Double(), batcher(max_batch_size=1, max_enqueued_batches=1)
    model.open.clear()
    running = batches.submit("key", rows(1), model)
    with pytest.raises(RequestError) as caught:
        for _ in range(3):
            batches.submit("key", rows(1), model)
    assert caught.value.code == Code.UNAVAILABLE
    other = batches.submit("other", rows(1), model)  # a queue is full for its own callers only
    model.open.set()
    wait([running, other], 10)


def test_who_has_given_up_is_not_run_for():
    model, batches = Double(), batcher(max_batch_size=1)
    model.open.clear()
    first = batches.submit("key", rows(1), model)
    while not first.running():
        pass
    second = batches.submit("key", rows(2), model)
    assert second.cancel()
    model.open.set()
    assert batches.submit("key", rows(3), model).result(10)[0].tolist() == [6]
    assert len(model.shapes) == 2


@pytest.mark.parametrize(("timeouts", "last"), [((20, 40), 40), ((20, 20), 20), ((20, None), None)])
def test_a_batch_runs_until_the_last_deadline_in_it(timeouts, last):
    model, batches = Double(), batcher(max_batch_size=2)
    wait([batches.submit("key", rows(1), model, timeout) for timeout in timeouts], 10)
    assert model.timeouts == [last and pytest.approx(last, abs=10)]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], "at least one input tensor"),
        ([np.float32(1)], "at least one dimension"),
        ([np.ones(2), np.ones(3)], "equal 0th-dimension size"),
        ([np.ones(5)], "Task size 5 is larger than maximum input batch size 4"),
    ],
)
def test_what_has_no_common_rows_is_refused(inputs, text):
    with pytest.raises(RequestError, match=text):
        batcher(max_batch_size=4).submit("key", [np.asarray(array) for array in inputs], Double())
