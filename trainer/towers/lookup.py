"""Texts to rows inside the graph."""

from collections.abc import Sequence

import tensorflow as tf

UNKNOWN, NOTHING = (
    "\x00",
    "\x01",
)  # no id and no label; Keras's own "[UNK]" may be one, and would move all others by a row


def string_lookup(values: Sequence[str]) -> tf.keras.layers.StringLookup:
    """Returns the layer that gives the first of `values` row 1, and unknown ones row 0."""
    return tf.keras.layers.StringLookup(vocabulary=list(values) or [NOTHING], oov_token=UNKNOWN)
