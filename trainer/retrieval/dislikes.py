"""What users do not want, in the loss of the towers: items that are pushed below those that they wanted."""

from collections.abc import Callable

import tensorflow as tf

from trainer.blocks.factorisation import worth
from trainer.data.examples import Events


class Dislikes(tf.Module):
    """The disliked items of each user; `weight` is what one counts beside a positive."""

    def __init__(self, events: Events, users: int, weight: float) -> None:
        super().__init__()
        lists = events.by_user(users)
        self.items = tf.RaggedTensor.from_row_splits(lists.items, lists.offsets, validate=False)
        self.strength = tf.constant(worth(events.weight))
        self.weight = weight

    def loss(
        self,
        user: tf.Tensor,
        queries: tf.Tensor,
        positives: tf.Tensor,
        seed: tf.Tensor,
        embed: Callable[[tf.Tensor], tf.Tensor],
    ) -> tf.Tensor:
        """Returns the loss `[n]` of an item that each query's user dislikes, drawn anew each step, against the positive (as BPR has it).

        `embed` gives the vectors of item rows. A dislike counts by how strong it is, as the weights of positives do.
        """
        number = tf.gather(self.items.row_lengths(), user)
        drawn = tf.random.stateless_uniform(tf.shape(number), seed) * tf.cast(number, tf.float32)
        place = tf.gather(self.items.row_starts(), user) + tf.minimum(tf.cast(drawn, tf.int64), number - 1)
        place = tf.minimum(tf.maximum(place, 0), tf.size(self.items.flat_values, tf.int64) - 1)
        rows = tf.where(number > 0, tf.gather(self.items.flat_values, place), 0)
        above = tf.reduce_sum(queries * (embed(rows) - positives), axis=1)
        return self.weight * tf.where(
            number > 0, tf.gather(self.strength, place) * tf.nn.softplus(above), 0.0
        )
