"""How many times faster the evaluator is than TFRS's `FactorizedTopK`: same vectors, same process."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.data.examples import Cases, Events, Lists, Prepared
from trainer.data.interactions import Schema
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.retrieval import accuracy, evaluate_retrieval
from trainer.evaluation.scoring import FactorScorer
from trainer.settings import EvaluateSettings

CANDIDATES, QUERIES, DIMENSION, HISTORY, ROUNDS = 50_000, 4_096, 64, 20, 3
CUTOFFS = (1, 5, 10, 50, 100)  # those of FactorizedTopK


def run() -> dict[str, float]:
    """Returns the peer's seconds over ours, medians.

    The first key compares like with like: accuracies at the same cutoffs (ours with NDCG, MAP, MRR and masked
    histories besides); the second, the evaluator's whole report with its lists, slices and intervals.
    """
    random = np.random.default_rng(0)
    queries = random.normal(size=(QUERIES, DIMENSION)).astype(np.float32)
    candidates = random.normal(size=(CANDIDATES + 1, DIMENSION)).astype(np.float32)
    prepared = _prepared(random)
    scorer = FactorScorer(lambda cases: queries[cases.user - 1], candidates)
    test, settings = prepared.test, EvaluateSettings(cutoffs=CUTOFFS)
    tutorial = _tutorial_evaluation(test, queries, candidates)
    clocks: dict[str, list[float]] = {"theirs": [], "ours": [], "whole": []}
    for _ in range(ROUNDS):  # in turn, so that a busy machine slows all alike
        clocks["theirs"].append(seconds(tutorial))
        for _ in range(3):
            clocks["ours"].append(seconds(lambda: accuracy(scorer, test, prepared, CUTOFFS)))
            clocks["whole"].append(seconds(lambda: evaluate_retrieval(scorer, test, prepared, settings)))
    middle = {name: statistics.median(values) for name, values in clocks.items()}
    return {
        "evaluation_times_factorized_top_k": middle["theirs"] / middle["ours"],
        "evaluation_whole_report_times_factorized_top_k": middle["theirs"] / middle["whole"],
    }


def seconds(work: Callable[[], object]) -> float:
    """Returns the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _tutorial_evaluation(test: Cases, queries: np.ndarray, candidates: np.ndarray) -> Callable[[], object]:
    """Returns `model.evaluate` of the basic retrieval tutorial of TFRS: its towers, metric and batches."""
    ids = [str(number) for number in range(1, len(candidates))]

    class Tutorial(tfrs.Model):
        def __init__(self) -> None:
            super().__init__()
            self.query = _embedding(queries)
            lookup = tf.keras.layers.StringLookup(vocabulary=ids, mask_token=None)
            self.candidate = tf.keras.Sequential([lookup, _embedding(candidates)])
            corpus = tf.data.Dataset.from_tensor_slices(ids).batch(128).map(self.candidate)
            self.task = tfrs.tasks.Retrieval(metrics=tfrs.metrics.FactorizedTopK(candidates=corpus))

        def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
            return self.task(self.query(inputs["user"]), self.candidate(inputs["item"]))

    model = Tutorial()
    model.compile()
    inputs = {"user": test.user - 1, "item": test.positives.items.astype(str)}
    batches = tf.data.Dataset.from_tensor_slices(inputs).batch(QUERIES).cache()
    model.evaluate(batches, verbose=0)  # traced outside the clock
    return lambda: model.evaluate(batches, verbose=0)


def _embedding(table: np.ndarray) -> tf.keras.layers.Embedding:
    start = tf.keras.initializers.Constant(table)
    return tf.keras.layers.Embedding(*table.shape, embeddings_initializer=start)


def _prepared(random: np.random.Generator) -> Prepared:
    """Returns a data set of random histories with one positive a user."""
    events = QUERIES * (HISTORY + 1)
    users = np.repeat(np.arange(1, QUERIES + 1, dtype=np.int32), HISTORY + 1)
    items = random.integers(1, CANDIDATES + 1, events).astype(np.int32)
    times = np.tile(np.arange(HISTORY + 1, dtype=np.int64), QUERIES)
    past = times < HISTORY
    ones = np.ones(events, np.float32)
    every = Events(users, items, times, ones, ones)
    train = every.take(past)
    test = Cases(
        np.arange(1, QUERIES + 1, dtype=np.int32),
        Lists(np.arange(QUERIES + 1) * HISTORY, train.item, train.timestamp),
        Lists(np.arange(QUERIES + 1), items[~past], times[~past]),
        times[~past],
    )
    none = test.take(np.arange(0))
    return Prepared(
        schema=Schema(),
        users=Vocabulary(tuple(map(str, range(QUERIES))), QUERIES),
        items=Vocabulary(tuple(map(str, range(CANDIDATES))), CANDIDATES),
        user_features={},
        item_features={},
        titles=(),
        train=train,
        validation=none,
        test=test,
        rated_train=train,
        rated_validation=train.take(np.arange(0)),
        rated_test=every.take(~past),
        ordered=True,
        before_test=train,
        everything=every,
    )


if __name__ == "__main__":
    print(run())
