"""Training examples a second, in-batch softmax, batch 2,048, dimension 64, 30,000 users, 40,000 items: the project's step against the
TFRS tutorial's loop, and against the three matrix products alone, which no step can do without.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.config import Config
from trainer.data.examples import Cases, Events, Lists, Prepared
from trainer.data.interactions import Schema
from trainer.data.vocabulary import Vocabulary
from trainer.input_pipeline import Windows, training_batches
from trainer.optimizer import prepare_fit
from trainer.retrieval.model import RetrievalModel
from trainer.settings import Part

USERS, ITEMS, BATCH, DIMENSION, STEPS, ROUNDS = 30_000, 40_000, 2_048, 64, 128, 5


def run() -> dict[str, float]:
    """Returns both ratios, medians over rounds in which the three take turns."""
    rng = np.random.default_rng(0)
    users = rng.integers(1, USERS + 1, BATCH * STEPS).astype(np.int32)
    items = np.minimum(rng.zipf(1.2, BATCH * STEPS), ITEMS).astype(np.int32)
    loops = {"ours": ours(users, items), "tutorial": tutorial(users, items), "products": products()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop()
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()
            seconds[name].append(time.perf_counter() - start)
    rate = {name: BATCH * STEPS / statistics.median(times) for name, times in seconds.items()}
    print("examples/s: " + ", ".join(f"{name} {value:,.0f}" for name, value in rate.items()))
    return {
        "training_examples_vs_tutorial": rate["ours"] / rate["tutorial"],
        "training_examples_vs_matrix_products": rate["ours"] / rate["products"],
    }


def ours(users: Any, items: Any) -> Callable[[], None]:
    """Returns an epoch of the project's own model, pipeline and Keras `fit`, ids only."""
    order = np.lexsort((np.arange(len(users)), users))
    events = Events(users[order], items[order], np.arange(len(users)), *[np.ones(len(users), np.float32)] * 2)
    prepared = bare(events)
    settings = Config().retrieval.model_copy(
        update={
            "negatives": Part(name="in_batch"),
            "features": False,
            "history": False,
            "id_dropout": 0.0,
            "embedding_dimension": DIMENSION,
        }
    )
    model = RetrievalModel(settings, prepared, 0)
    windows = Windows(events, len(prepared.users), 1, ordered=True)
    batches = training_batches(events, windows, {}, BATCH, 0, 0, 1)
    prepare_fit(model, "adagrad", 0.1, STEPS, next(iter(batches)))
    return lambda: model.fit(batches, verbose=0) and None


def bare(events: Events, users: int = USERS, items: int = ITEMS) -> Prepared:
    """Returns the least data set around events of so many users and items."""
    nobody = Lists(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))
    cases = Cases(np.zeros(0, np.int32), nobody, nobody, np.zeros(0, np.int64))
    people = Vocabulary(tuple(f"u{n}" for n in range(users)), users)
    corpus = Vocabulary(tuple(f"i{n}" for n in range(items)), items)
    return Prepared(
        schema=Schema(),
        users=people,
        items=corpus,
        user_features={},
        item_features={},
        titles=("", *corpus.values),
        train=events,
        validation=cases,
        test=cases,
        rated_train=events,
        rated_validation=events,
        rated_test=events,
        ordered=True,
        before_test=events,
        everything=events,
    )


def tutorial(users: Any, items: Any) -> Callable[[], None]:
    """Returns an epoch as TFRS's basic retrieval tutorial writes it: StringLookup in the towers, one-hot loss, Adagrad."""
    names = [f"u{n}" for n in range(USERS)], [f"i{n}" for n in range(ITEMS)]

    class Tutorial(tfrs.Model):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = (
                tf.keras.Sequential(
                    [
                        tf.keras.layers.StringLookup(vocabulary=vocabulary, mask_token=None),
                        tf.keras.layers.Embedding(len(vocabulary) + 1, DIMENSION),
                    ]
                )
                for vocabulary in names
            )
            self.task = tfrs.tasks.Retrieval()

        def compute_loss(self, features: Any, training: bool = False) -> tf.Tensor:
            return self.task(
                self.users(features["user_id"]), self.items(features["item_id"]), compute_metrics=False
            )

    columns = {"user_id": np.char.add("u", users.astype(str)), "item_id": np.char.add("i", items.astype(str))}
    batches = tf.data.Dataset.from_tensor_slices(columns).shuffle(100_000).batch(BATCH).cache()
    model = Tutorial()
    model.compile(optimizer=tf.keras.optimizers.Adagrad(0.1))
    return lambda: model.fit(batches, verbose=0) and None


def products() -> Callable[[], None]:
    """Returns as many steps of the three products of the score matrix alone: forward, and both gradients."""
    queries, candidates = (tf.random.normal([BATCH, DIMENSION]) for _ in range(2))

    @tf.function
    def step(left: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.matmul(left, right, transpose_b=True)
        return tf.matmul(scores, right), tf.matmul(scores, left, transpose_a=True)

    def loop() -> None:
        for _ in range(STEPS):
            found = step(queries, candidates)
        found[0].numpy()

    return loop
