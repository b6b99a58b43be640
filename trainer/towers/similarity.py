"""How near two vectors are, folded into one inner product: losses, the index and the evaluator know no other.

cosine: both sides at length 1. dot: as they are. euclidean: -|q - c|^2 = [2 q, -1, -|q|^2] . [c, |c|^2, 1].
"""

import tensorflow as tf


def query_side(vectors: tf.Tensor, similarity: str) -> tf.Tensor:
    """Returns query vectors `[..., D']` of the towers' outputs `[..., D]`."""
    if similarity == "cosine":
        return tf.math.l2_normalize(vectors, axis=-1)
    if similarity == "dot":
        return vectors
    length = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return tf.concat([2.0 * vectors, -tf.ones_like(length), -length], axis=-1)


def candidate_side(vectors: tf.Tensor, similarity: str) -> tf.Tensor:
    """Returns candidate vectors `[..., D']` of the towers' outputs `[..., D]`."""
    if similarity == "cosine":
        return tf.math.l2_normalize(vectors, axis=-1)
    if similarity == "dot":
        return vectors
    length = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return tf.concat([vectors, length, tf.ones_like(length)], axis=-1)


def between_candidates(vectors: tf.Tensor, similarity: str) -> tf.Tensor:
    """Returns candidate vectors `[n, D']` made to ask for their neighbours: the query side of what the candidate side came from."""
    if similarity == "euclidean":
        plain, length = vectors[..., :-2], vectors[..., -2:-1]
        return tf.concat([2.0 * plain, -tf.ones_like(length), -length], axis=-1)
    return tf.math.l2_normalize(vectors, axis=-1)
