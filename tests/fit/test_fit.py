"""The fit on a model of one weight, so that every epoch is known by hand: stopping, resuming, guarding, logging."""

import csv
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import UserError
from trainer.fit import FitPlan, fit, tell_time_limit
from trainer.fitted import FittedModel
from trainer.optimizer import Adagrad, mean_square, prepare_fit

STEPS = 3


class Line(FittedModel):
    """One weight on its way to 1."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(name="weight", shape=(), initializer="zeros")

    def compute_loss(self, inputs, training=False):
        loss = tf.reduce_mean(tf.square(self.weight - 1) * inputs["x"])
        if training:
            self.note(loss)
        return loss


class Session:
    """One process's attempt at a fit in `workdir`; `values` are the objective before training and after each epoch."""

    def __init__(self, workdir, values, epochs=10, patience=3, maximise=True, name="adagrad", minutes=None):
        self.workdir, self.values = workdir, values
        self.plan = FitPlan(epochs, STEPS, patience, "ndcg@10", maximise, minutes)
        self.model = Line()
        self.inputs = np.random.default_rng(0).uniform(0.5, 1.5, (epochs * STEPS, 4)).astype(np.float32)
        prepare_fit(self.model, name, 0.1, 1, {"x": self.inputs[0]})
        self.first: int | None = None  # epoch that the batches were asked from
        self.weights: list[float] = []  # at each validation
        self.advances: list[int] = []
        self.stop_after: int | None = None  # validations

    def batches(self, first):
        self.first = first
        return tf.data.Dataset.from_tensor_slices({"x": self.inputs[first * STEPS :]})

    def validate(self):
        done = len(self.history())
        if self.stop_after is not None and len(self.weights) == self.stop_after:
            raise KeyboardInterrupt
        self.weights.append(float(self.model.weight))
        return {"ndcg@10": self.values[done]}

    def history(self):
        file = self.workdir / "checkpoint" / "epochs.json"
        return json.loads(file.read_text()) if file.exists() else []

    def run(self):
        return fit(
            self.model,
            self.batches,
            self.validate,
            self.plan,
            self.workdir,
            lambda done, note: self.advances.append(done),
            lambda step: f"the rows of step {step}",
        )


def objective(history):
    return [entry["val_ndcg@10"] for entry in history]


def test_trains_all_epochs_and_keeps_the_best(tmp_path):
    session = Session(tmp_path, [0.1, 0.2, 0.4, 0.3], epochs=3)
    history = session.run()
    assert objective(history) == [0.1, 0.2, 0.4, 0.3]
    assert float(session.model.weight) == session.weights[2]
    assert session.weights[2] != session.weights[3]


def test_stops_when_patience_runs_out(tmp_path):
    session = Session(tmp_path, [0.1, 0.5, 0.2, 0.3, 0.9], patience=2)
    assert objective(session.run()) == [0.1, 0.5, 0.2, 0.3]
    assert float(session.model.weight) == session.weights[1]


def test_an_equal_epoch_is_no_better_one(tmp_path):
    session = Session(tmp_path, [0.1, 0.5, 0.5, 0.5, 0.9], patience=2)
    assert len(session.run()) == 4
    assert float(session.model.weight) == session.weights[1]


def test_training_never_ends_below_its_start(tmp_path):
    session = Session(tmp_path, [0.9, 0.1, 0.2, 0.3, 0.4], patience=3)
    assert len(session.run()) == 4
    assert float(session.model.weight) == 0


def test_minimises_a_loss(tmp_path):
    session = Session(tmp_path, [3.0, 2.0, 2.5, 2.6], epochs=3, maximise=False)
    session.run()
    assert float(session.model.weight) == session.weights[1]


def test_without_validation_cases_the_last_epoch_stands(tmp_path):
    """The objective is NaN then: nothing to stop by, and surely no reason to throw the training away."""
    session = Session(tmp_path, [float("nan")] * 9, epochs=5, patience=2)
    assert len(session.run()) == 6
    assert float(session.model.weight) == session.weights[5]


def test_an_epoch_without_a_figure_is_not_the_best(tmp_path):
    session = Session(tmp_path, [0.1, float("nan"), 0.3, float("nan")], epochs=3)
    session.run()
    assert float(session.model.weight) == session.weights[2]


@pytest.mark.parametrize("name", ["adagrad", "adam"])
@pytest.mark.parametrize("finished", [0, 1, 3])
def test_an_interrupted_fit_ends_as_an_unbroken_one(tmp_path, finished, name):
    values = [0.1, 0.2, 0.3, 0.25, 0.35, 0.2]
    whole = Session(tmp_path / "whole", values, epochs=5, name=name)
    history = whole.run()

    broken = Session(tmp_path / "broken", values, epochs=5, name=name)
    broken.stop_after = finished + 1
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = Session(tmp_path / "broken", values, epochs=5, name=name)
    assert resumed.run() == history
    assert resumed.first == finished
    assert resumed.weights == whole.weights[finished + 1 :]
    assert float(resumed.model.weight) == float(whole.model.weight)
    assert int(resumed.model.step) == int(whole.model.step)
    assert (tmp_path / "broken" / "epochs.csv").read_text() == (tmp_path / "whole" / "epochs.csv").read_text()


def test_patience_survives_an_interruption(tmp_path):
    values = [0.1, 0.5, 0.2, 0.3, 0.9]
    broken = Session(tmp_path, values, patience=2)
    broken.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = Session(tmp_path, values, patience=2)
    assert objective(resumed.run()) == [0.1, 0.5, 0.2, 0.3]
    assert float(resumed.model.weight) == broken.weights[1]


@pytest.fixture
def minutes_each(monkeypatch):
    """A clock by which every epoch takes a minute."""
    ticks = itertools.count(step=60)
    monkeypatch.setattr("trainer.fit.time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.mark.parametrize(("minutes", "epochs"), [(0.5, 1), (1, 1), (1.9, 1), (2, 2), (3.5, 3)])
@pytest.mark.usefixtures("minutes_each")
def test_no_epoch_starts_that_would_end_beyond_the_minutes_but_the_first(tmp_path, minutes, epochs):
    session = Session(tmp_path, [0.1, 0.3, 0.2, 0.4, 0.5], minutes=minutes)
    history = session.run()
    assert [entry.get("minutes") for entry in history] == [None, *map(float, range(1, epochs + 1))]
    assert float(session.model.weight) == session.weights[1 if epochs < 3 else 3]
    said = []
    tell_time_limit(session.plan, history, SimpleNamespace(say=said.append))
    (line,) = said
    assert line.startswith(f"train.minutes={minutes:g} ended training after epoch {epochs} of 10; ")


@pytest.mark.usefixtures("minutes_each")
def test_the_minutes_before_an_interruption_count(tmp_path):
    broken = Session(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5], minutes=3)
    broken.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = Session(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5], minutes=3)
    assert [entry["minutes"] for entry in resumed.run()[1:]] == [1, 2, 3]


@pytest.mark.usefixtures("minutes_each")
def test_nothing_is_said_of_minutes_where_the_epochs_or_patience_end_the_fit(tmp_path):
    for name, session in {
        "epochs": Session(tmp_path / "epochs", [0.1, 0.2, 0.3], epochs=2, minutes=2),
        "patience": Session(tmp_path / "patience", [0.3, 0.2, 0.1], patience=2, minutes=9),
        "both": Session(tmp_path / "both", [0.3, 0.2, 0.1], patience=2, minutes=2),
        "no limit": Session(tmp_path / "none", [0.1, 0.2, 0.3], epochs=2),
    }.items():
        history, said = session.run(), []
        tell_time_limit(session.plan, history, SimpleNamespace(say=said.append))
        assert (len(history), said) == (3, []), name


def test_a_finished_fit_is_not_trained_again(tmp_path):
    first = Session(tmp_path, [0.1, 0.5, 0.2, 0.3], epochs=3)
    history = first.run()
    again = Session(tmp_path, [], epochs=3)
    assert again.run() == history
    assert again.first is None
    assert float(again.model.weight) == first.weights[1]


def test_a_checkpoint_without_its_entry_does_not_count(tmp_path):
    """A kill between writing the state and writing the entry: the epoch is trained again, the leftover replaced."""
    values = [0.1, 0.2, 0.3, 0.4]
    whole = Session(tmp_path / "whole", values, epochs=3)
    whole.run()
    Session(tmp_path / "torn", values, epochs=1).run()
    checkpoints = tmp_path / "torn" / "checkpoint"
    (checkpoints / "epoch-2.index").write_bytes(b"half")
    (checkpoints / "epoch-2.data-00000-of-00001").write_bytes(b"half")
    (checkpoints / "epochs.new").write_text('[{"val_nd')
    resumed = Session(tmp_path / "torn", values, epochs=3)
    # The inputs of a session of one epoch are the first of a session of three.
    assert resumed.run() == whole.history()
    assert float(resumed.model.weight) == float(whole.model.weight)


def test_what_a_kill_left_of_a_checkpoint_in_the_writing_goes(tmp_path):
    """TensorFlow writes the parts of a checkpoint into a folder of its own, which a kill leaves behind."""
    Session(tmp_path, [0.1, 0.2, 0.3, 0.4], epochs=1).run()
    torn = tmp_path / "checkpoint" / "epoch-1_temp"
    torn.mkdir()
    (torn / "part-00000-of-00001.data.tempstate1").write_bytes(b"half")
    assert len(Session(tmp_path, [0.1, 0.2, 0.3, 0.4], epochs=3).run()) == 4
    assert not torn.exists()


def test_only_the_last_and_the_best_state_stay(tmp_path):
    Session(tmp_path, [0.1, 0.5, 0.2, 0.3], epochs=3).run()
    kept = {path.name.split(".")[0] for path in (tmp_path / "checkpoint").glob("epoch-*")}
    assert kept == {"epoch-1", "epoch-3"}


def test_a_loss_that_is_not_finite_names_its_batch(tmp_path):
    session = Session(tmp_path, [0.1, 0.2, 0.3, 0.4])
    session.inputs[4, 2] = np.inf
    with pytest.raises(
        UserError, match=r"loss became inf at training step 4 .*batch 1.*the rows of step 4.*learning_rate"
    ):
        session.run()
    assert objective(session.history()) == [0.1, 0.2]  # the epoch before it is kept


def test_the_guard_names_the_batch_after_a_resume_too(tmp_path):
    values = [0.1, 0.2, 0.3, 0.4]
    broken = Session(tmp_path, values)
    broken.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = Session(tmp_path, values)
    resumed.inputs[7] = np.nan
    with pytest.raises(UserError, match=r"loss became nan at training step 7 .*the rows of step 7"):
        resumed.run()


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps(tmp_path):
    session = Session(tmp_path, [0.1, 0.2, 0.3], epochs=2)
    losses, of_a_step = [], session.model.compute_loss
    session.model.compute_loss = lambda inputs, training=False: (
        losses.append(of_a_step(inputs, training)) or losses[-1]
    )
    session.model.compile(optimizer=session.model.optimizer, run_eagerly=True)
    history = session.run()
    means = [np.mean(losses[:STEPS]), np.mean(losses[STEPS:])]
    np.testing.assert_allclose([entry["loss"] for entry in history[1:]], means, rtol=1e-6)
    assert len(set(map(float, losses))) == 2 * STEPS


def test_an_unknown_objective_is_named_before_training(tmp_path):
    session = Session(tmp_path, [0.1, 0.2])
    session.plan = FitPlan(10, STEPS, 3, "ndgc@10", maximise=True)
    with pytest.raises(
        UserError, match=r"train\.objective='ndgc@10' is no validation metric; there are ndcg@10"
    ):
        session.run()
    assert session.first is None


def test_writes_epochs_and_shows_progress(tmp_path):
    session = Session(tmp_path, [0.1, 0.2, 0.3], epochs=2)
    history = session.run()
    with (tmp_path / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["val_ndcg@10"]) for row in rows] == [0.1, 0.2, 0.3]
    assert rows[0]["loss"] == ""  # nothing was trained yet
    assert [float(row["loss"]) for row in rows[1:]] == [entry["loss"] for entry in history[1:]]
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))
    assert session.advances == sorted(session.advances)
    assert session.advances[-1] == 2 * STEPS
    assert not list(tmp_path.rglob("*.new"))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_what_adagrad_does_is_the_same_whatever_unit_the_loss_is_in(scale):
    """Two weights, one read as a row: gradients 1 and 4 at first, so the sums start at 100 * 1 and 100 * 16."""
    row, weight = tf.Variable([[0.0], [5.0]]), tf.Variable(0.0)

    def gradients():
        with tf.GradientTape() as tape:
            loss = scale * (tf.reduce_sum(tf.gather(row, [0])) + 4.0 * weight)
        return tape.gradient(loss, [row, weight])

    adagrad = Adagrad(0.1, [row, weight], gradients())
    adagrad.apply_gradients(zip(gradients(), [row, weight], strict=True))
    step = 0.1 / 101**0.5
    np.testing.assert_allclose(row, [[-step], [5.0]], rtol=1e-5)
    assert float(weight) == pytest.approx(-step, rel=1e-5)


def test_a_variable_that_the_first_batch_does_not_reach_starts_from_the_mean_of_the_others():
    variables = [tf.Variable(0.0) for _ in range(4)]
    gradients = [tf.constant(1.0), tf.constant(0.0), None, tf.constant(3.0)]
    adagrad = Adagrad(0.1, variables, gradients)
    late = [tf.constant(5.0)] * 4
    adagrad.apply_gradients(zip(late, variables, strict=True))
    steps = [0.1 * 5 / (start + 25) ** 0.5 for start in (100, 500, 500, 900)]
    np.testing.assert_allclose(variables, np.negative(steps), rtol=1e-6)


def test_the_mean_square_of_an_embedding_is_that_of_the_rows_read_each_counted_once():
    twice = tf.IndexedSlices(tf.constant([[1.0], [2.0], [1.0]]), tf.constant([3, 0, 3]), tf.constant([9, 1]))
    assert mean_square(twice) == (2.0**2 + 2.0**2) / 2
    assert mean_square(None) == 0
