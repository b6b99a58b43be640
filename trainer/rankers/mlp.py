"""Dense layers over everything there is, and the product of user and item."""

import tensorflow as tf

from trainer.rankers.dense import Deep, dropped
from trainer.registry import register


@register("ranking_network", "mlp")
class MLP(tf.keras.layers.Layer):
    """All parts, features summed by side, and user * item side by side, through `ranking.layers`."""

    apart = False

    def __init__(self, layers: tuple[int, ...] = (64,), dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.deep = Deep(layers)

    def call(self, parts: dict[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, last width]` of the parts."""
        user, item = parts["user"], parts["item"]
        rest = [part for name, part in parts.items() if name not in ("user", "item")]
        vectors = tf.concat([user, item, user * item, *rest], axis=1)
        return self.deep(dropped(vectors, self.dropout, seed))
