"""Top 10 of a million items at dimension 64, one query at a time: brute force, ScaNN, and the libraries beside it.

Items lie in clusters, as embeddings do. Every approximate index is set so that it finds the share `RECALL` of the exact top 10
of sample queries, and measured with others; faiss and usearch are left out where they are not installed, which is said.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.index import RECALL_AT, BruteForce, Scann

ITEMS, DIMENSION, CLUSTERS = 1_000_000, 64, 5_000
QUERIES, SET_WITH, ROUNDS, RECALL = (
    200,
    256,
    5,
    0.96,
)  # a little above .95, for queries that were not in the sample
SLOWEST = 1.5  # times the matrix-vector product alone
Search = Callable[[np.ndarray], np.ndarray]


def run() -> dict[str, float]:
    """Returns 1.5 matrix-vector products over brute force; brute force over ScaNN; each library over ScaNN."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLUSTERS, DIMENSION)).astype(np.float32)

    def near(count: int) -> np.ndarray:
        noise = random.normal(size=(count, DIMENSION)).astype(np.float32)
        return centres[random.integers(CLUSTERS, size=count)] + 0.7 * noise

    vectors, sample, queries = near(ITEMS), near(SET_WITH), near(QUERIES)
    exact = np.concatenate([top_of(block @ vectors[1:].T) + 1 for block in np.split(queries, 10)])
    index = BruteForce().build_index(tf.constant(vectors))
    matrix = index.vectors
    product = tf.function(lambda query: tf.matmul(query, matrix, transpose_b=True))
    found = {
        "numpy product": compared(lambda query: vectors @ query[0], queries),
        "product": compared(lambda query: product(tf.constant(query)), queries),
        "brute force": compared(searching(index), queries, exact),
    }
    started = time.perf_counter()
    scann = Scann(recall_target=RECALL).build_index(tf.constant(vectors), sample)
    print(f"  ScaNN built in {time.perf_counter() - started:.0f} s: {scann.describe()}")
    found["scann"] = compared(searching(scann), queries, exact)
    for name, build in (("faiss", faiss_hnsw), ("usearch", usearch_hnsw)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name}: not installed, left out (pip install {name.replace('faiss', 'faiss-cpu')})")
            continue
        found[name] = compared(widened(build(vectors), sample, vectors), queries, exact)
    for name, (seconds, recall) in found.items():
        print(
            f"  {name:14} {1e3 * seconds:8.2f} ms" + (f"  recall@{RECALL_AT} {recall:.3f}" if recall else "")
        )
    fastest = min(found["numpy product"][0], found["product"][0])
    ratios = {
        "brute_force_limit_over_taken": SLOWEST * fastest / found["brute force"][0],
        "scann_times_brute_force": found["brute force"][0] / found["scann"][0],
        "scann_recall": found["scann"][1],
    }
    return ratios | {
        f"scann_times_{name}": found[name][0] / found["scann"][0]
        for name in ("faiss", "usearch")
        if name in found
    }


def searching(index: Any) -> Search:
    """Returns the rows `[1, 10]` of a query, by one of the project's indices in a traced function."""

    @tf.function(input_signature=[tf.TensorSpec([None, DIMENSION])])
    def top(query: tf.Tensor) -> tf.Tensor:
        nothing = tf.RaggedTensor.from_row_lengths(
            tf.zeros([0], tf.int32), tf.zeros([tf.shape(query)[0]], tf.int32)
        )
        return index.top(query, nothing, tf.constant(RECALL_AT))[0]

    return lambda query: top(tf.constant(query)).numpy()


def compared(search: Search, queries: np.ndarray, exact: np.ndarray | None = None) -> tuple[float, float]:
    """Returns the median seconds of a query, of the quickest of some rounds, and the recall where that is known."""
    rounds, rows = [], []
    for turn in range(ROUNDS):
        clock = []
        for query in queries[:, np.newaxis]:
            began = time.perf_counter()
            answer = search(query)
            clock.append(time.perf_counter() - began)
            if turn == 0 and exact is not None:
                rows.append(answer[0])
        rounds.append(statistics.median(clock))
    return min(rounds), 0.0 if exact is None else recall_of(np.array(rows), exact)


def recall_of(rows: np.ndarray, exact: np.ndarray) -> float:
    """Returns the share of the exact rows `[n, 10]` that were found."""
    return float(
        np.mean(
            [
                len(set(some) & set(their)) / len(their)
                for some, their in zip(rows.tolist(), exact.tolist(), strict=True)
            ]
        )
    )


def top_of(scores: np.ndarray) -> np.ndarray:
    """Returns the columns of the 10 highest scores `[n, items]`."""
    return np.argpartition(scores, -RECALL_AT, axis=1)[:, -RECALL_AT:]


def widened(
    search: Callable[[np.ndarray, int], np.ndarray], sample: np.ndarray, vectors: np.ndarray
) -> Search:
    """Returns the search at the smallest width that finds enough on the sample."""
    exact = top_of(sample @ vectors.T)
    width = 16
    while (
        recall_of(np.concatenate([search(one, width) for one in sample[:, np.newaxis]]), exact) < RECALL
        and width < 4096
    ):
        width = width * 5 // 4
    print(f"  width {width}")
    return lambda query: search(query, width)


def faiss_hnsw(vectors: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns a search by faiss, with 32 links an item."""
    import faiss

    index = faiss.IndexHNSWFlat(DIMENSION, 32, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)

    def search(query: np.ndarray, width: int) -> np.ndarray:
        index.hnsw.efSearch = width
        return index.search(query, RECALL_AT)[1]

    return search


def usearch_hnsw(vectors: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns a search by usearch, with 32 links an item."""
    from usearch.index import Index

    index = Index(ndim=DIMENSION, metric="ip", connectivity=32)
    index.add(np.arange(len(vectors)), vectors)

    def search(query: np.ndarray, width: int) -> np.ndarray:
        index.expansion_search = width
        return np.asarray(index.search(query[0], RECALL_AT).keys)[np.newaxis].astype(np.int64)

    return search


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=1))
