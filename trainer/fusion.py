"""How the parts of a tower (id, features, history, context) become one vector."""

import tensorflow as tf

from trainer.registry import register


@register("fusion", "sum")
class Sum(tf.keras.layers.Layer):
    """The plain sum of the parts."""

    def __init__(self, dimension: int, names: list[str]) -> None:
        super().__init__()
        del dimension, names

    def call(self, parts: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns `[..., dimension]` of parts `[..., dimension]` by name."""
        return tf.add_n(list(parts.values()))
