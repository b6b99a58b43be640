"""Several targets, each with its own mixture of experts."""

import tensorflow as tf
from pydantic import PositiveInt

from trainer.rankers.dense import Deep, Tower
from trainer.registry import register


@register("ranking_heads", "mixture_of_experts")
class MixtureOfExperts(tf.keras.layers.Layer):
    """MMoE (Ma et al., "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts", 2018).

    `experts` dense stacks of widths `units` read the vector, a gate of each target (a softmax) mixes them, and the
    target's layers of widths `tower` read the mixture. With `ranking.layers=[]` the experts read the inputs
    themselves, as in the paper.
    """

    def __init__(
        self,
        targets: int,
        experts: PositiveInt = 4,
        units: tuple[PositiveInt, ...] = (32,),
        tower: tuple[PositiveInt, ...] = (),
    ) -> None:
        super().__init__()
        self.experts = [Deep(units) for _ in range(experts)]
        self.gates = [
            tf.keras.layers.Dense(experts, activation="softmax", use_bias=False) for _ in range(targets)
        ]
        self.towers = [Tower(tower) for _ in range(targets)]

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, targets]` of `[batch, *]`."""
        known = tf.stack([expert(vectors) for expert in self.experts], axis=1)  # [batch, experts, *]
        mixtures = [tf.einsum("be,bed->bd", gate(vectors), known) for gate in self.gates]
        outputs = [tower(mixture) for tower, mixture in zip(self.towers, mixtures, strict=True)]
        return tf.concat(outputs, axis=1)
