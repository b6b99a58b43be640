"""Dot products of all pairs of inputs, features among them, and dense layers above."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from trainer.rankers.dense import Deep, dropped
from trainer.registry import register


@register("ranking_network", "dot")
class DotProducts(tf.keras.layers.Layer):
    """DLRM (Naumov et al., 2019): every part, each feature for itself, a vector as long as an id's, the dot products of
    all pairs of them (`tfrs.layers.feature_interaction.DotInteraction`) and the vectors themselves through `ranking.layers`.
    """

    apart = True

    def __init__(self, layers: tuple[int, ...] = (64,), dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.deep = Deep(layers)
        # Half of what it gives is 0, and that is several times as fast as gathering the other half.
        self.products = tfrs.layers.feature_interaction.DotInteraction(skip_gather=True)
        self.projections: dict[str, tf.keras.layers.Layer] = {}

    def build(self, shapes: dict[str, tf.TensorShape]) -> None:
        """Makes a projection for each part of another length."""
        length = shapes["user"][-1]
        for name, shape in shapes.items():
            if shape[-1] != length:
                self.projections[name] = tf.keras.layers.Dense(length, use_bias=False)
        super().build(shapes)

    def call(self, parts: dict[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, last width]` of the parts."""
        vectors = [
            self.projections[name](part) if name in self.projections else part for name, part in parts.items()
        ]
        inputs = tf.concat([*vectors, self.products(vectors)], axis=1)
        return self.deep(dropped(inputs, self.dropout, seed))
