"""Top 10 of a million items at dimension 64, one query at a time: brute force, ScaNN, and the libraries beside it.

Items lie in clusters, as embeddings do. Every approximate index chooses its width by one rule, that of `trainer/index/scann.py`: the top
10 of sample queries surely hold the share `RECALL` of the exact one; other queries then measure recall and time. faiss and
usearch (`make install EXTRAS=bench`) build graphs of 16 links an item, which takes them minutes; left out where not installed.
They answer from a library call, so ScaNN's own call on one thread stands beside them; `scann` is the graph that is served.
"""

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.index.brute_force import BruteForce
from trainer.index.scann import RECALL_AT, SAMPLE, Scann, exact_rows, surely

ITEMS, DIMENSION, CLUSTERS = 1_000_000, 64, 5_000
LINKS, EXPANSION = (
    16,
    40,
)  # of the graphs: links an item, and the candidates looked at while building (faiss has 40 by itself)
QUERIES, TIMED, ROUNDS, RECALL = 1_000, 100, 5, 0.95
SLOWEST = 1.5  # times the matrix-vector product alone
Search = Callable[[np.ndarray], np.ndarray]
Exact = list[set[int]]


def run() -> dict[str, float]:
    """Returns 1.5 matrix-vector products over brute force; brute force over ScaNN; each library over ScaNN."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLUSTERS, DIMENSION)).astype(np.float32)

    def near(count: int) -> np.ndarray:
        noise = random.normal(size=(count, DIMENSION)).astype(np.float32)
        return centres[random.integers(CLUSTERS, size=count)] + 0.7 * noise

    vectors, sample, queries = near(ITEMS), near(SAMPLE), near(QUERIES)
    index = BruteForce().build_index(tf.constant(vectors))
    product = tf.function(index.vectors.scores)
    searches: dict[str, Search] = {
        "numpy product": lambda query: vectors @ query[0],
        "product": lambda query: product(tf.constant(query)).numpy(),
        "brute force": searching(index),
    }
    took = compared(searches, queries[:TIMED])
    fastest = min(took["numpy product"], took["product"])
    ratios = {"brute_force_limit_over_taken": SLOWEST * fastest / took["brute force"]}
    if importlib.util.find_spec("scann") is None:
        print("  ScaNN: not installed, left out with its peers (make install EXTRAS=scann)")
        return ratios
    started = time.perf_counter()
    scann = Scann(recall_target=RECALL).build_index(tf.constant(vectors), sample)
    print(f"  ScaNN built in {time.perf_counter() - started:.0f} s: {scann.describe()}")
    found = {"scann": searching(scann), "scann alone": alone(scann)}
    wanted = exact_rows(index.vectors, tf.constant(sample))
    for name, build in (("faiss", faiss_hnsw), ("usearch", usearch_hnsw)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name}: not installed, left out (make install EXTRAS=bench)")
            continue
        started = time.perf_counter()
        search = build(vectors)
        print(f"  {name} built in {time.perf_counter() - started:.0f} s")
        found[name] = widened(search, sample, wanted)
    took |= compared(found, queries[:TIMED])
    wanted = exact_rows(index.vectors, tf.constant(queries))
    recall = {name: float(shares_of(search, queries, wanted).mean()) for name, search in found.items()}
    for name, seconds in took.items():
        print(
            f"  {name:14} {1e3 * seconds:8.2f} ms"
            + (f"  recall@{RECALL_AT} {recall[name]:.3f}" if name in recall else "")
        )
    ratios |= {
        "scann_times_brute_force": took["brute force"] / took["scann"],
        "scann_recall": recall["scann"],
    }
    peers = found.keys() & {"faiss", "usearch"}
    return ratios | {f"scann_times_{name}": took[name] / took["scann alone"] for name in sorted(peers)}


def searching(index: Any) -> Search:
    """Returns the rows `[1, 10]` of a query, by one of the project's indices in a traced function."""

    @tf.function(input_signature=[tf.TensorSpec([None, DIMENSION])])
    def top(query: tf.Tensor) -> tf.Tensor:
        nothing = tf.RaggedTensor.from_row_lengths(
            tf.zeros([0], tf.int32), tf.zeros([tf.shape(query)[0]], tf.int32)
        )
        return index.top(query, nothing, tf.constant(RECALL_AT))[0]

    return lambda query: top(tf.constant(query)).numpy()


def alone(index: Any) -> Search:
    """Returns the rows `[1, 10]` of a query by ScaNN itself at the index's width: one thread, nothing excluded."""
    from scann.scann_ops.py import scann_ops

    searcher = scann_ops.searcher_from_module(index.layer._serialized_searcher)
    width = index.reorder, index.leaves_to_search
    return lambda query: searcher.search_batched(query, RECALL_AT, *width).indices.numpy()


def compared(searches: dict[str, Search], queries: np.ndarray) -> dict[str, float]:
    """Returns the median seconds of a query by each search, of the quickest of some rounds; they take turns by round."""
    rounds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(ROUNDS):
        for name, search in searches.items():
            clock = []
            for query in queries[:, np.newaxis]:
                began = time.perf_counter()
                search(query)
                clock.append(time.perf_counter() - began)
            rounds[name].append(statistics.median(clock))
    return {name: min(medians) for name, medians in rounds.items()}


def shares_of(search: Search, queries: np.ndarray, wanted: Exact) -> np.ndarray:
    """Returns the share `[n]` of each query's exact rows that were found."""
    rows = np.concatenate([search(query) for query in queries[:, np.newaxis]]).tolist()
    return np.array([len({*some} & their) / len(their) for some, their in zip(rows, wanted, strict=True)])


def widened(search: Callable[[np.ndarray, int], np.ndarray], sample: np.ndarray, wanted: Exact) -> Search:
    """Returns the search at the smallest width that surely finds enough of the sample."""
    for width in (round(RECALL_AT * 1.2**step) for step in range(32)):
        at_width = functools.partial(search, width=width)
        if surely(shares_of(at_width, sample, wanted)) >= RECALL:
            break
    print(f"  width {width}")
    return at_width


def faiss_hnsw(vectors: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns a search by faiss."""
    import faiss

    index = faiss.IndexHNSWFlat(DIMENSION, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EXPANSION
    index.add(vectors)

    def search(query: np.ndarray, width: int) -> np.ndarray:
        index.hnsw.efSearch = width
        return index.search(query, RECALL_AT)[1]

    return search


def usearch_hnsw(vectors: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns a search by usearch."""
    from usearch.index import Index

    index = Index(ndim=DIMENSION, metric="ip", dtype="f32", connectivity=LINKS, expansion_add=EXPANSION)
    index.add(np.arange(len(vectors)), vectors)

    def search(query: np.ndarray, width: int) -> np.ndarray:
        index.expansion_search = width
        return np.asarray(index.search(query[0], RECALL_AT).keys)[np.newaxis].astype(np.int64)

    return search


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=1))
