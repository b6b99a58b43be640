"""Several targets above one network."""

import tensorflow as tf
from pydantic import PositiveInt

from trainer.rankers.dense import Tower
from trainer.registry import register


@register("ranking_heads", "shared_bottom")
class SharedBottom(tf.keras.layers.Layer):
    """Every target reads the same vector (Caruana, "Multitask learning", 1997), by layers of its own of widths `tower`."""

    def __init__(self, targets: int, tower: tuple[PositiveInt, ...] = ()) -> None:
        super().__init__()
        self.towers = [Tower(tower) for _ in range(targets)]

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, targets]` of `[batch, *]`."""
        return tf.concat([tower(vectors) for tower in self.towers], axis=1)
