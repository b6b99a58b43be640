"""The project's transformer beside RecBole's SASRec: seconds of an epoch over the same events, and test NDCG@10.

Equal on both sides: the events and their leave-last-out split, history length 50, 2 layers, 2 heads, 64 dimensions, 256 inner units, ReLU,
dropout .2 (RecBole drops attention weights too), Adam with .001, about as many positions a step (ours count padding and first events), two
cores, and the evaluator: the peer gives vectors, and the project's own full ranking measures both. Not equal, for this is what the two do:
RecBole makes an example of every position, padded to the whole length, and scores all items; the project reads a user's events once, in
buckets by length, and scores drawn negatives.

The two take epochs in turn; the seconds are medians. Each side stops, with patience, after its own best validation NDCG@10, and its test
figure is taken there. Set PEER_PYTHON to a Python with torch and RecBole; without it nothing is compared.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import tensorflow as tf

from trainer.config import Config, from_values
from trainer.data.examples import Cases, Floats, Prepared
from trainer.data.interactions import Dataset, Interactions
from trainer.data.prepare import prepare
from trainer.evaluation.retrieval import measure
from trainer.evaluation.scoring import FactorScorer
from trainer.optimizer import prepare_fit
from trainer.registry import build
from trainer.retrieval.inference import scorer
from trainer.retrieval.train import build_retrieval

SOURCE = {"name": "synthetic", "interactions": 20_000, "users": 2_000, "items": 1_000}
FEWEST, LENGTH, BATCH, EPOCHS, PATIENCE, METRIC = 5, 50, 64, 60, 4, "ndcg@10"
LIMIT = 600.0  # seconds of a side's epochs
OURS: dict[str, Any] = {
    "data": {"source": SOURCE, "history_length": LENGTH},
    "retrieval": {
        "embedding_dimension": 64,
        "encoder": {"name": "transformer", "layers": 2, "heads": 2, "inner": 256, "dropout": 0.2},
        "negatives": {"name": "uniform", "extra": 1024},
        "factorisation": "none",
        "user_id": False,
        "features": False,
    },
    "train": {"optimizer": "adam", "learning_rate": 0.001, "batch_size": BATCH, "epochs": EPOCHS},
}
THEIRS = {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 64,
    "inner_size": 256,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "learning_rate": 0.001,
    "train_batch_size": BATCH,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


class Side(Protocol):
    """One of the two that race."""

    def epoch(self) -> float:
        """Trains one epoch; returns its seconds."""
        ...

    def scorer(self, cases: Cases) -> FactorScorer:
        """Returns the model as it is now, for the evaluator, which will ask it these cases."""
        ...


@dataclass
class Course:
    """What a side has come to."""

    seconds: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    test: float = 0.0  # at the best validation

    @property
    def finished(self) -> bool:
        """Returns whether patience ran out."""
        best = int(np.argmax(self.validation)) if self.validation else 0
        return len(self.validation) - 1 - best >= PATIENCE


def run() -> dict[str, float]:
    """Returns the peer's seconds over ours, and our NDCG over the peer's; nothing without a peer.

    Most of the first ratio is that RecBole repeats every history for each of its positions. The second leaves that out: the peer's own
    layers in PyTorch on whole sequences, in batches as ours (the loss over all items, though).
    """
    python = os.environ.get("PEER_PYTHON")
    if not python:
        print("bench_transformer: PEER_PYTHON names no Python with RecBole, so nothing is compared")
        return {}
    with tempfile.TemporaryDirectory() as folder, two_cores():
        config = from_values(OURS)
        prepared = prepare(events(config), config.data)
        with Peer(python, Path(folder), prepared) as peer:
            courses = race({"ours": Ours(config, prepared), "peer": peer}, prepared)
    middle = {name: statistics.median(course.seconds) for name, course in courses.items()}
    one_pass = statistics.median(peer.one_pass)
    print(f"the peer's layers on whole sequences: {one_pass:.2f} s an epoch")
    for name, course in courses.items():
        print(
            f"{name}: {middle[name]:.2f} s an epoch, test {METRIC} {course.test:.4f} at epoch {1 + int(np.argmax(course.validation))}"
            f" of {len(course.validation)}{'' if course.finished else ' (cut off)'}"
        )
    return {
        "transformer_epoch_seconds_peer_over_ours": middle["peer"] / middle["ours"],
        "transformer_epoch_seconds_one_pass_torch_over_ours": one_pass / middle["ours"],
        "transformer_ndcg_ours_over_peer": courses["ours"].test / courses["peer"].test,
    }


def events(config: Config) -> Dataset:
    """Returns the data set of users with five events or more, as the Amazon sets are cut."""
    source = config.data.source
    whole: Dataset = build("source", source.name, source.settings).load()
    frame = whole.interactions.frame.filter(pl.len().over("user_id") >= FEWEST)
    return replace(whole, interactions=Interactions(frame))


def race(sides: dict[str, Side], prepared: Prepared) -> dict[str, Course]:
    """Lets the sides take epochs in turn until each has finished, or its own time is up: the slower must not cut the other off."""
    courses = {name: Course() for name in sides}
    for _ in range(EPOCHS):
        for name, course in courses.items():
            if not course.finished and sum(course.seconds) < LIMIT:
                step(sides[name], course, prepared)
    return courses


def step(side: Side, course: Course, prepared: Prepared) -> None:
    """Lets a side train one epoch, and measures it."""
    course.seconds.append(side.epoch())
    value = measure(side.scorer(prepared.validation), prepared.validation, prepared, METRIC)
    if value > max(course.validation, default=-1.0):
        course.test = measure(side.scorer(prepared.test), prepared.test, prepared, METRIC)
    course.validation.append(value)


class Ours:
    """The project's model, batches and Keras `fit`."""

    def __init__(self, config: Config, prepared: Prepared) -> None:
        self.ready = build_retrieval(config, prepared)
        self.prepared = prepared
        self.traced = tf.function(self.ready.model.retriever.queries, reduce_retracing=True)
        first, settings = next(iter(self.ready.batches(0))), config.train
        prepare_fit(self.ready.model, settings.optimizer, settings.learning_rate, self.ready.steps, first)
        self.done = 0

    def epoch(self) -> float:
        """Trains one epoch; returns its seconds."""
        batches = self.ready.batches(self.done)
        begin = time.perf_counter()
        self.ready.model.fit(batches, steps_per_epoch=self.ready.steps, verbose=0)
        self.done += 1
        return time.perf_counter() - begin

    def scorer(self, cases: Cases) -> FactorScorer:
        """Returns the model as it is now."""
        self.ready.model.retriever.embedding.refresh()
        return scorer(self.ready.model.retriever, self.prepared, self.traced)


class Peer:
    """RecBole in a process of its own; see `peer_recbole.py`."""

    def __init__(self, python: str, folder: Path, prepared: Prepared) -> None:
        self.folder, self.items = folder, len(prepared.items)
        self.one_pass: list[float] = []  # seconds
        write_atomic(prepared, folder / "events" / "events.inter")
        script = Path(__file__).with_name("peer_recbole.py")
        self.process = subprocess.Popen(
            [python, script, folder, json.dumps(THEIRS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": ""},
        )
        examples = self._answer()["examples"]
        lists = prepared.train.by_user(len(prepared.users))
        lengths = lists.lengths
        self.sequences = folder / "sequences.npy"
        order = np.argsort(-lengths, kind="stable")
        np.save(self.sequences, lists.take(order[lengths[order] > 1]).padded(LENGTH + 1)[0])
        asked = int(np.maximum(lengths - 1, 0).sum())
        if examples != asked:
            raise RuntimeError(f"the peer trains on {examples} positions, this project on {asked}")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def epoch(self) -> float:
        """Trains one epoch; returns its seconds. Takes those of an epoch in one pass too, as RecBole does not train."""
        self.one_pass.append(self._ask(f"onepass {self.sequences} {BATCH}")["seconds"])
        return self._ask("epoch")["seconds"]

    def scorer(self, cases: Cases) -> FactorScorer:
        """Returns the model as it is now, asked these cases and no others."""
        histories, found = self.folder / "histories.npy", self.folder / "vectors.npz"
        np.save(histories, cases.history.padded(LENGTH)[0])
        self._ask(f"vectors {histories} {found}")
        with np.load(found) as arrays:
            vectors, items = arrays["queries"], arrays["items"]
        candidates = np.zeros((self.items, items.shape[1]), np.float32)
        candidates[: len(items)] = items

        def queries(asked: Cases) -> Floats:
            place = np.searchsorted(cases.user, asked.user)
            taken: Floats = vectors[place]
            return taken

        return FactorScorer(queries, candidates)

    def _ask(self, line: str) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended: {(self.folder / 'log').read_text()[-2000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer


def write_atomic(prepared: Prepared, path: Path) -> None:
    """Writes all events as RecBole reads them, rows for ids and the order for the time."""
    events = prepared.everything
    known = np.where(events.item < len(prepared.items), events.item, 0)
    path.parent.mkdir(parents=True)
    order = np.arange(len(events), dtype=np.float64)
    columns = {"user_id:token": events.user, "item_id:token": known, "timestamp:float": order}
    pl.DataFrame(columns).write_csv(path, separator="\t")


@contextmanager
def two_cores() -> Iterator[None]:
    """Keeps this process, and those it starts, to two cores."""
    whole = os.sched_getaffinity(0)
    keep_to(set(sorted(whole)[:2]))
    yield
    keep_to(whole)


def keep_to(cores: set[int]) -> None:
    """Moves every thread of this process to some cores."""
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


if __name__ == "__main__":
    print(run())
    sys.exit(0)
