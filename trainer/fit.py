"""The fit of either model: Keras `fit` with callbacks, resumable after a kill to the same result."""

import csv
import io
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from trainer.errors import UserError
from trainer.fitted import FittedModel
from trainer.progress import Advance, Reporter
from trainer.workdir import replace

Metrics = dict[str, float]


@dataclass(frozen=True)
class FitPlan:
    """How long to train, in epochs of `steps` batches, and which validation metric to watch."""

    epochs: int
    steps: int
    patience: int  # epochs without a better objective before the fit stops
    objective: str
    maximise: bool
    minutes: float | None = None  # of training, at most; the first epoch always ends

    def best(self, history: list[Metrics]) -> int:
        """Returns the entry with the best objective, the first of equals; the last where there is nothing to measure."""
        values = [self._value(entry) for entry in history]
        best = max(values)
        return values.index(best) if best > -math.inf else len(values) - 1

    def ran_out(self, history: list[Metrics]) -> bool:
        """Returns whether patience or the epochs ran out."""
        done = len(history) - 1
        return done - self.best(history) >= self.patience or done >= self.epochs

    def _value(self, entry: Metrics) -> float:
        value = entry[f"val_{self.objective}"]
        if math.isnan(value):
            return -math.inf
        return value if self.maximise else -value

    def too_long(self, history: list[Metrics]) -> bool:
        """Returns whether one epoch more, as long as those before, would pass `minutes`."""
        done = len(history) - 1
        if self.minutes is None or not done:
            return False
        return history[-1]["minutes"] * (done + 1) / done > self.minutes


def fit(
    model: FittedModel,
    batches: Callable[[int], tf.data.Dataset],
    validate: Callable[[], Metrics],
    plan: FitPlan,
    workdir: Path,
    advance: Advance,
    describe_step: Callable[[int], str],
) -> list[Metrics]:
    """Trains a model that `prepare_fit` made ready and leaves it with its best weights; returns the metrics, one entry an epoch.

    Entry 0 is the model before training: training never ends below its start.

    `batches(first_epoch)` gives the training batches from that epoch on; `validate()` the validation metrics, one of which is
    `plan.objective`. The state after each epoch lies in `workdir/checkpoint`; a fit that finds one goes on from there and, unless
    `plan.minutes` ends it, ends with the weights of an unbroken run. `describe_step` says what a step's batch held, for the error about
    a loss that is not finite.
    """
    keeper = EpochKeeper(model, workdir, plan)
    first = keeper.restore()
    if not keeper.history:
        keeper.record({f"val_{name}": value for name, value in validate().items()})
    if not keeper.finished:
        model.fit(
            batches(first),
            initial_epoch=first,
            epochs=plan.epochs,
            steps_per_epoch=plan.steps,
            verbose=0,
            callbacks=[
                FiniteLoss(model, describe_step),
                Validation(validate),
                keeper,
                EpochLog(workdir / "epochs.csv", keeper),
                tf.keras.callbacks.TensorBoard(
                    workdir / "tensorboard", write_graph=False, update_freq="epoch"
                ),
                ProgressBar(plan, first, advance),
            ],
        )
    keeper.load_best()
    return keeper.history


class Validation(tf.keras.callbacks.Callback):
    """Puts the validation metrics into the epoch's logs, for the callbacks after it."""

    def __init__(self, validate: Callable[[], Metrics]) -> None:
        super().__init__()
        self.validate = validate

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Adds `val_<metric>` for each metric."""
        del epoch
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in self.validate().items()})


class EpochKeeper(tf.keras.callbacks.Callback):
    """Early stopping whose memory is on disk: last and best weights, optimizer state and the metrics so far.

    Keras's own EarlyStopping forgets its best epoch when the process dies, and its BackupAndRestore knows nothing of it.
    """

    def __init__(self, model: tf.keras.Model, workdir: Path, plan: FitPlan) -> None:
        super().__init__()
        self.plan = plan
        self.directory = workdir / "checkpoint"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.file = self.directory / "epochs.json"
        self.history: list[Metrics] = []
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        self.epoch_start = 0.0

    @property
    def best(self) -> int:
        """Returns the entry with the best objective."""
        return self.plan.best(self.history)

    @property
    def finished(self) -> bool:
        """Returns whether patience, the epochs or the time ran out."""
        return bool(self.history) and (self.plan.ran_out(self.history) or self.plan.too_long(self.history))

    def restore(self) -> int:
        """Loads the state after the last finished epoch, if there is one; returns the first epoch to train."""
        if self.file.exists():
            self.history = json.loads(self.file.read_text())
        if not self.history:
            return 0
        # slots, so that reading fills them
        self.checkpoint.optimizer.build(self.checkpoint.model.trainable_variables)
        self.checkpoint.read(str(self._path(len(self.history) - 1))).expect_partial()
        return len(self.history) - 1

    def on_epoch_begin(self, epoch: int, logs: Metrics | None = None) -> None:
        """Notes when it began."""
        del epoch, logs
        self.epoch_start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Records the epoch, with the minutes of all so far where they are limited, and decides whether to go on."""
        del epoch
        metrics = dict(logs or {})
        if self.plan.minutes is not None:
            took = (time.monotonic() - self.epoch_start) / 60
            metrics["minutes"] = self.history[-1].get("minutes", 0.0) + took
        self.record(metrics)
        self.model.stop_training = self.finished

    def record(self, metrics: Metrics) -> None:
        """Saves the state, then the entry that makes it count: a kill between the two repeats the epoch."""
        if f"val_{self.plan.objective}" not in metrics:
            known = sorted(name.removeprefix("val_") for name in metrics if name.startswith("val_"))
            raise UserError(
                f"train.objective={self.plan.objective!r} is no validation metric; there are {', '.join(known)}"
            )
        number = len(self.history)
        self.checkpoint.write(str(self._path(number)))
        self.history.append({name: float(value) for name, value in metrics.items()})
        replace(self.file, json.dumps(self.history))
        self._drop_others({number, self.best})

    def load_best(self) -> None:
        """Gives the model the weights of the best epoch."""
        self.checkpoint.read(str(self._path(self.best))).expect_partial()

    def _path(self, epoch: int) -> Path:
        return self.directory / f"epoch-{epoch}"

    def _drop_others(self, kept: set[int]) -> None:
        names = {self._path(epoch).name for epoch in kept}
        for file in self.directory.glob("epoch-*"):
            if file.is_dir():  # what TensorFlow was writing when it was killed
                shutil.rmtree(file)
            elif file.name.partition(".")[0] not in names:
                file.unlink(missing_ok=True)


class EpochLog(tf.keras.callbacks.Callback):
    """Rewrites the CSV of all epochs after each: complete after a resume, and never half a line."""

    def __init__(self, path: Path, keeper: EpochKeeper) -> None:
        super().__init__()
        self.path = path
        self.keeper = keeper

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Writes one row an epoch."""
        del epoch, logs
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["epoch", *self.keeper.history[-1]])
        writer.writeheader()
        writer.writerows({"epoch": number, **entry} for number, entry in enumerate(self.keeper.history))
        replace(self.path, text.getvalue())


class FiniteLoss(tf.keras.callbacks.Callback):
    """Stops at the first loss that is not finite and names the batch. The model notes the step itself, in the graph."""

    def __init__(self, model: FittedModel, describe_step: Callable[[int], str]) -> None:
        super().__init__()
        self.source = model
        self.describe_step = describe_step

    def on_train_batch_end(self, batch: int, logs: Metrics | None = None) -> None:
        """Looks only where the reported loss is no longer finite: once weights are not, no later loss is."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            step = max(int(self.source.bad_step), 0)
            raise UserError(
                f"the loss became {loss} at training step {step} (batch {batch} of the epoch): {self.describe_step(step)}; "
                "a smaller train.learning_rate, or a look at those rows, is the way on"
            )


class ProgressBar(tf.keras.callbacks.Callback):
    """Moves the bar of the step, and shows the objective after each epoch."""

    def __init__(self, plan: FitPlan, first: int, advance: Advance) -> None:
        super().__init__()
        self.plan = plan
        self.done = first * plan.steps
        self.advance = advance
        self.note = ""

    def on_train_batch_end(self, batch: int, logs: Metrics | None = None) -> None:
        """Counts a step."""
        del logs
        self.advance(self.done + batch + 1, self.note)

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Shows the epoch's figures."""
        self.done = (epoch + 1) * self.plan.steps
        value = (logs or {}).get(f"val_{self.plan.objective}", float("nan"))
        of = "validation " if self.plan.objective == "loss" else ""
        loss = (logs or {}).get("loss", 0)
        self.note = f"epoch {epoch + 1}, loss {loss:.4f}, {of}{self.plan.objective} {value:.4f}"
        self.advance(self.done, self.note)


def tell_time_limit(plan: FitPlan, history: list[Metrics], reporter: Reporter) -> None:
    """Says so where the time, not patience or the epochs, ended a fit: on another machine it may end with other weights."""
    done = len(history) - 1
    if plan.too_long(history) and not plan.ran_out(history):
        reporter.say(
            f"train.minutes={plan.minutes:g} ended training after epoch {done} of {plan.epochs}; "
            "more minutes may give better towers, and a slower machine other ones"
        )


def forget(workdir: Path) -> None:
    """Removes the checkpoints of a finished fit."""
    shutil.rmtree(workdir / "checkpoint", ignore_errors=True)
