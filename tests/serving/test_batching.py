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


def table(*lines, kind=np.float32):
    return [np.array(lines, kind)]


@pytest.mark.parametrize(
    ("kind", "short", "long", "wide"),
    [
        (np.float32, [[1, 2]], [[3, 4, 5]], [[1, 2, 1], [3, 4, 5]]),
        (object, [[b"a"], [b"b"]], [[b"c", b"d"]], [[b"a", b"a"], [b"b", b"a"], [b"c", b"d"]]),
    ],
)
def test_widths_are_padded_with_the_first_element(kind, short, long, wide):
    """batching_util.cc, PadTensor: of each request its own; the outputs stay as wide as the batch."""
    seen, batches = [], batcher(max_batch_size=3, pad_variable_length_inputs=True)

    def model(inputs, _):
        seen.append(inputs[0].tolist())
        return [inputs[0]]

    waiting = [batches.submit("key", table(*lines, kind=kind), model) for lines in (short, long)]
    found = [row for result in waiting for row in result.result(10)[0].tolist()]
    assert seen == [found] == [wide]


def test_nothing_is_padded_with_nothing():
    model, batches = Double(), batcher(max_batch_size=4, pad_variable_length_inputs=True)
    empty, none = [np.zeros((1, 0), np.float32)], [np.zeros((0, 2), np.float32)]
    waiting = [batches.submit("key", inputs, model) for inputs in (none, table([1, 2, 3]))]
    assert [result.result(10)[0].shape for result in waiting] == [(0, 3), (1, 3)]
    waiting = [batches.submit("key", inputs, model) for inputs in (empty, table([1, 2, 3]))]
    for result in waiting:
        with pytest.raises(RequestError, match=r"Got empty tensor in batch of non-empty tensors\."):
            result.result(10)


def test_ranks_do_not_meet():
    model, batches = Double(), batcher(max_batch_size=4, pad_variable_length_inputs=True)
    waiting = [batches.submit("key", inputs, model) for inputs in (rows(1), table([1, 2]))]
    wait(waiting)
    assert sorted(model.shapes) == [(1,), (1, 2)]


def test_a_large_request_runs_in_parts():
    """The first part fills the batch that waits; the request has its rows in their order."""
    model, batches = Double(), batcher(max_batch_size=10, max_execution_batch_size=4)
    waiting = [batches.submit("key", rows(*values), model) for values in ([1], range(10), [7])]
    assert [result.result(10)[0].tolist() for result in waiting] == [
        [2],
        [2 * value for value in range(10)],
        [14],
    ]
    assert model.shapes == [(4,), (4,), (4,)]


def test_a_request_whose_part_fails_fails():
    batches = batcher(max_batch_size=10, max_execution_batch_size=2, batch_timeout_micros=0)

    def model(inputs, _):
        if 3 in inputs[0]:
            raise RequestError(Code.INTERNAL, "three")
        return [inputs[0]]

    with pytest.raises(RequestError, match="three"):
        batches.submit("key", rows(1, 2, 3, 4, 5, 6), model).result(10)
    assert batches.submit("key", rows(1, 2, 5, 6), model).result(10)[0].tolist() == [1, 2, 5, 6]


def test_parts_whose_outputs_do_not_fit_together_are_an_error_and_the_thread_goes_on():
    """As of a recommender, whose lists are as long as the largest k of a batch."""
    batches = batcher(max_batch_size=10, max_execution_batch_size=4, batch_timeout_micros=0)

    def model(inputs, _):
        return [np.ones((len(inputs[0]), int(inputs[0].max())))]

    with pytest.raises(RequestError, match="differ in shape") as caught:
        batches.submit("key", rows(1, 1, 1, 1, 9, 9), model).result(10)
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert batches.submit("key", rows(2), model).result(10)[0].tolist() == [[1, 1]]


def test_a_request_with_more_parts_than_the_queue_takes_is_refused_whole():
    model, batches = Double(), batcher(max_batch_size=9, max_execution_batch_size=2, max_enqueued_batches=3)
    model.open.clear()
    first = batches.submit("key", rows(1, 2), model)  # the one thread takes it
    while not first.running():
        pass
    with pytest.raises(RequestError, match="queue to which this task was submitted is full"):
        batches.submit("key", rows(*range(7)), model)
    last = batches.submit("key", rows(*range(6)), model)
    model.open.set()
    assert last.result(10)[0].tolist() == [0, 2, 4, 6, 8, 10]


def test_who_gives_up_before_the_first_part_is_not_run_for():
    model, batches = Double(), batcher(max_batch_size=9, max_execution_batch_size=2)
    model.open.clear()
    first = batches.submit("key", rows(1, 2), model)
    while not first.running():
        pass
    given_up = batches.submit("key", rows(3, 4, 5), model)
    assert given_up.cancel()
    model.open.set()
    assert batches.submit("key", rows(6), model).result(10)[0].tolist() == [12]
    assert model.shapes == [(2,), (1,)]
