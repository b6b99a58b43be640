"""Neural collaborative filtering: a product of embeddings beside dense layers over other embeddings."""

import tensorflow as tf

from trainer.rankers.dense import Deep, dropped
from trainer.registry import register


@register("ranking_network", "ncf")
class NeuralCollaborativeFiltering(tf.keras.layers.Layer):
    """NeuMF (He et al., "Neural collaborative filtering", 2017): generalised matrix factorisation beside an MLP.

    The first half of each id embedding is multiplied, the second half and all other parts go through
    `ranking.layers`: the paper's two embeddings an id, each of half of `ranking.embedding_dimension`.
    """

    apart = False

    def __init__(self, layers: tuple[int, ...] = (64,), dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.deep = Deep(layers)

    def call(self, parts: dict[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `[batch, half the embedding + last width]` of the parts."""
        user, item = parts["user"], parts["item"]
        half = (user.shape[-1] + 1) // 2
        rest = [part for name, part in parts.items() if name not in ("user", "item")]
        vectors = tf.concat([user[:, half:], item[:, half:], *rest], axis=1)
        product = user[:, :half] * item[:, :half]
        return tf.concat([product, self.deep(dropped(vectors, self.dropout, seed))], axis=1)
