"""What the signatures of a bundle share: how they are traced, what rows they take, and how long their lists are."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

MOST_PLACES = 1 << 22  # rows times columns of an answer: a list of four million items, or 3,000 of 1,398


def traced(function: Callable[..., Any], **specs: tf.TensorSpec) -> Any:
    """Returns a signature of the named inputs, which refuses rows that do not match, as a traced function."""
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}

    @functools.wraps(function)
    def checked(*inputs: tf.Tensor, **others: tf.Tensor) -> Any:
        with tf.control_dependencies(same_rows(dict(zip(specs, inputs, strict=False)) | others)):
            return function(*inputs, **others)

    # Half the seconds of an export go without AutoGraph: an encoder branches with tf.cond and tf.where.
    return tf.function(checked, autograph=False).get_concrete_function(**named)


def same_rows(inputs: Mapping[str, tf.Tensor]) -> list[tf.Operation]:
    """Returns the operation, none for one input, that refuses inputs unless all have as many rows; it tells how many each has."""
    if len(inputs) == 1:
        return []
    rows = tf.stack([tf.shape(column)[0] for column in inputs.values()])
    told = f"every input has a row for each request, and the rows of {', '.join(inputs)} are"
    return [
        tf.raw_ops.Assert(condition=tf.reduce_all(rows == rows[0]), data=[told, rows], summarize=len(inputs))
    ]


def longest(k: tf.Tensor) -> tf.Tensor:
    """Returns the largest `k`, 0 where there is none, cut to the columns that an answer of so many rows may have: `MOST_PLACES` / rows."""
    most = tf.maximum(MOST_PLACES // tf.maximum(tf.size(k), 1), 1)
    return tf.minimum(tf.reduce_max(tf.concat([k, [0]], axis=0)), most)
