"""The trained retriever outside a fit: as something to evaluate, and its vectors block by block."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.examples import Cases, Floats, Lists, Prepared
from trainer.evaluation.scoring import FactorScorer
from trainer.retrieval.retriever import Retriever

BLOCK = 65_536  # rows whose vectors are computed at a time


def scorer(retriever: Retriever, prepared: Prepared, traced: Any = None) -> FactorScorer:
    """Returns the model for the evaluator; `traced` is `retriever.queries` as a graph, where the caller keeps one."""
    candidates = in_blocks(retriever.candidates, len(prepared.items))
    ask = traced or graph(retriever.queries)

    def queries(cases: Cases) -> Floats:
        context = retriever.encode_context(
            {name: tf.constant(column) for name, column in cases.context.items()}
        )
        asked = [tf.constant(cases.user), ragged(cases.history), context]
        return np.asarray(ask(*asked, *times_read(retriever, cases.history)))

    return FactorScorer(queries, candidates)


def graph(function: Callable[..., Any]) -> Any:
    """Returns a function as a graph for all shapes. AutoGraph, which takes as long as all else, is off: parts branch by `tf.cond`."""
    return tf.function(function, autograph=False, reduce_retracing=True)


def times_read(retriever: Retriever, histories: Lists) -> list[tf.RaggedTensor]:
    """Returns when the histories' known items were, in a list, or nothing where the towers do not ask."""
    if not retriever.reads_times:
        return []
    return [
        tf.ragged.boolean_mask(
            _lists(histories.timestamps, histories), _lists(histories.items, histories) > 0
        )
    ]


def in_blocks(embed: Any, rows: int) -> Floats:
    """Returns the vectors `[rows, dimension]` of all rows, computed block by block."""
    starts = range(0, rows, BLOCK)
    return np.concatenate([np.asarray(embed(tf.range(start, min(start + BLOCK, rows)))) for start in starts])


def ragged(lists: Lists) -> tf.RaggedTensor:
    """Returns lists of item rows as a ragged tensor, the unknown left out."""
    whole = _lists(lists.items, lists)
    return tf.ragged.boolean_mask(whole, whole > 0)


def _lists(values: npt.NDArray[np.integer], lists: Lists) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_splits(tf.constant(values), tf.constant(lists.offsets), validate=False)
