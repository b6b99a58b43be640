"""What a user had done before an event: the histories that the ranking model reads."""

import numpy as np
import tensorflow as tf

from trainer.data.examples import Events, Prepared
from trainer.input_pipeline import Windows


class Past:
    """Histories of the training events, and what is known of a user when the model is validated or asked.

    As everywhere, a history holds positive events, the last `length` of them: those of a training event came before it
    (where the data has no order: are the user's others), a validation event is answered from all training events, a
    test event from those of validation too, as a server answers it.
    """

    def __init__(self, prepared: Prepared, length: int) -> None:
        rated, users = prepared.rated_train, len(prepared.users)
        liked = np.ones(len(rated), bool) if prepared.liked is None else prepared.liked
        # A training event's place is that of the first liked event from it on.
        self.place = tf.constant(np.cumsum(liked) - liked, tf.int64)
        self.training = Windows(rated.take(liked), users, length, prepared.ordered)
        self.before_validation = Known(prepared.train, users, length)
        self.before_test = Known(prepared.before_test, users, length)


class Known:
    """The last events of each user; the unknown user has none."""

    def __init__(self, events: Events, users: int, length: int) -> None:
        self.windows = Windows(events.known(), users, length, ordered=True, whole=True)

    def __call__(self, user: tf.Tensor) -> tf.Tensor:
        """Returns histories int32 `[batch, length]` of user rows `[batch]`, oldest first, padded right with 0."""
        return self.windows(tf.gather(self.windows.end, user), user)
