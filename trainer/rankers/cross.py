"""Deep & cross: products of ids, features and other inputs, of a bounded degree, learned, beside or below dense layers."""

from typing import Literal

import tensorflow as tf
import tensorflow_recommenders as tfrs
from pydantic import PositiveInt

from trainer.rankers.dense import Deep, dropped
from trainer.registry import register


@register("ranking_network", "cross")
class DeepCross(tf.keras.layers.Layer):
    """DCN-V2 (Wang et al., 2021) over ids and each feature apart: `crosses` layers of `tfrs.layers.dcn.Cross` and
    the dense `ranking.layers`.

    `structure`: the dense layers read what the inputs are ("parallel") or what the crosses make of them ("stacked").
    `projection`: the rank of the cross matrices; none for full ones.
    """

    apart = True

    def __init__(
        self,
        crosses: PositiveInt = 2,
        projection: PositiveInt | None = None,
        structure: Literal["parallel", "stacked"] = "parallel",
        layers: tuple[int, ...] = (64,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.stacked = structure == "stacked"
        self.crosses = [tfrs.layers.dcn.Cross(projection_dim=projection) for _ in range(crosses)]
        self.deep = Deep(layers)

    def call(self, parts: dict[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, *]` of the parts: of degree `crosses` + 1 in them, the dense layers' part apart."""
        start = dropped(tf.concat(list(parts.values()), axis=1), self.dropout, seed)
        crossed = start
        for layer in self.crosses:
            crossed = layer(start, crossed)
        if self.stacked:
            return self.deep(crossed)
        return tf.concat([crossed, self.deep(start)], axis=1)
