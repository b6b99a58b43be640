"""How the parts of a tower (id, history, each feature, context) become one vector.

A fusion is a layer of `(dimension, names, **settings)`: `names` are the parts that every call brings, as vectors
`[..., dimension]` by name. All but `gated` are the sum of the parts and something learned on top of it, so that
none starts behind the plain sum; with one part, `sum` and `gated` are that part.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf
import tensorflow_recommenders as tfrs
from pydantic import PositiveInt

from trainer.registry import register

Parts = Mapping[str, tf.Tensor]

SMALL = 0.01  # variance of what is learned on top of the sum, as a share of the usual: it must not drown the sum at the start


@register("fusion", "sum")
class Sum(tf.keras.layers.Layer):
    """The plain sum of the parts."""

    def __init__(self, dimension: int, names: list[str]) -> None:
        super().__init__()
        del dimension, names

    def call(self, parts: Parts) -> tf.Tensor:
        """Returns `[..., dimension]` of parts `[..., dimension]` by name."""
        return tf.add_n(list(parts.values()))


@register("fusion", "mlp")
class Mlp(tf.keras.layers.Layer):
    """The sum and a network over the parts side by side, of hidden layers of the given widths."""

    def __init__(self, dimension: int, names: list[str], layers: Sequence[PositiveInt] = (128,)) -> None:
        super().__init__()
        self.names = list(names)
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in layers]
        self.out = _on_top(dimension)

    def call(self, parts: Parts) -> tf.Tensor:
        """Returns `[..., dimension]` of parts `[..., dimension]` by name."""
        vectors = side_by_side(parts, self.names)
        for layer in self.hidden:
            vectors = layer(vectors)
        return tf.add_n(list(parts.values())) + self.out(vectors)


@register("fusion", "gated")
class Gated(tf.keras.layers.Layer):
    """The parts weighed by gates that read all of them: how far an id, a text or a picture is to be trusted for this row.

    `softmax`: the weights of a row have mean 1; `sigmoid`: each lies between 0 and 2 by itself. All start equal,
    as the sum. `each_number` gives every number of a part its own gate. Arevalo et al., "Gated multimodal units for information
    fusion", 2017.
    """

    def __init__(
        self,
        dimension: int,
        names: list[str],
        gate: Literal["softmax", "sigmoid"] = "softmax",
        each_number: bool = False,
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.gate = gate
        self.width = dimension if each_number else 1
        self.logits: Any = None
        # from zeros, for parts of large numbers would shut all other gates before any training
        if len(names) > 1:
            self.logits = tf.keras.layers.Dense(len(names) * self.width, kernel_initializer="zeros")

    def gates(self, parts: Parts) -> tf.Tensor:
        """Returns the weights `[..., parts, 1]`, or `[..., parts, dimension]` with `each_number`."""
        logits = self.logits(side_by_side(parts, self.names))
        shape = tf.concat([tf.shape(logits)[:-1], [len(self.names), self.width]], axis=0)
        logits = tf.reshape(logits, shape)
        if self.gate == "sigmoid":
            return 2 * tf.sigmoid(logits)
        return len(self.names) * tf.nn.softmax(logits, axis=-2)

    def call(self, parts: Parts) -> tf.Tensor:
        """Returns `[..., dimension]` of parts `[..., dimension]` by name."""
        stacked = tf.stack([parts[name] for name in self.names], axis=-2)
        return tf.reduce_sum(stacked if self.logits is None else stacked * self.gates(parts), axis=-2)


@register("fusion", "cross")
class Cross(tf.keras.layers.Layer):
    """The sum and a deep & cross network: each of `layers` raises the degree of the products of numbers by one.

    `projection`: the rank of the cross matrices; None: full. Wang et al., "DCN V2", 2021.
    """

    def __init__(
        self,
        dimension: int,
        names: list[str],
        layers: PositiveInt = 2,
        projection: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.crosses = [
            tfrs.layers.feature_interaction.Cross(projection, kernel_initializer="glorot_uniform")
            for _ in range(layers)
        ]
        self.out = _on_top(dimension)

    def call(self, parts: Parts) -> tf.Tensor:
        """Returns `[..., dimension]` of parts `[..., dimension]` by name."""
        crossed = first = side_by_side(parts, self.names)
        for layer in self.crosses:
            crossed = layer(first, crossed)
        return tf.add_n(list(parts.values())) + self.out(crossed)


@register("fusion", "dot")
class Dot(tf.keras.layers.Layer):
    """The sum and a linear layer over the products of every two parts and each with itself, means over their numbers.

    Naumov et al., "Deep learning recommendation model", 2019.
    """

    def __init__(self, dimension: int, names: list[str]) -> None:
        super().__init__()
        self.dimension = dimension
        self.names = list(names)
        self.products = tfrs.layers.feature_interaction.DotInteraction(self_interaction=True)
        self.out = _on_top(dimension)

    def call(self, parts: Parts) -> tf.Tensor:
        """Returns `[..., dimension]` of parts `[..., dimension]` by name."""
        total = tf.add_n(list(parts.values()))
        flat = [tf.reshape(parts[name], [-1, self.dimension]) for name in self.names]
        count = len(self.names) * (len(self.names) + 1) // 2
        products = tf.ensure_shape(self.products(flat), [None, count]) / self.dimension
        return total + tf.reshape(self.out(products), tf.shape(total))


def _on_top(dimension: int) -> tf.keras.layers.Layer:
    """Returns the linear layer that ends what is added to the sum."""
    return tf.keras.layers.Dense(dimension, kernel_initializer=tf.keras.initializers.VarianceScaling(SMALL))


def side_by_side(parts: Parts, names: Sequence[str]) -> tf.Tensor:
    """Returns the parts in the order of `names`, one after the other `[..., parts * dimension]`."""
    return tf.concat([parts[name] for name in names], axis=-1)
