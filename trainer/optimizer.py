"""The optimizer of a fit: Adam, or Adagrad that starts in the unit that the first batch's gradients have."""

from typing import Any

import tensorflow as tf

STEPS_PER_EXECUTION = 16
FIRST_SQUARES = 100.0  # batches like the first that Adagrad starts with: after few of them a row would jump


class Adagrad(tf.keras.optimizers.Adagrad):
    """Adagrad (Duchi et al. 2011) whose sums of squared gradients start from the first batch's, each variable from its own.

    Keras starts them all at .1. The gradients of a mean over a batch are smaller by as much as the loss, the temperature, the similarity
    and the batch say, and whole epochs would go by before .1 no longer held the steps back.
    """

    def __init__(self, learning_rate: float, variables: list[tf.Variable], gradients: list[Any]) -> None:
        """Starts the sum of each of `variables` from its first gradient, and from the mean of the others where it has none.

        The sums are created with these values: assigned later, those of a large table would exist twice for a moment.
        """
        super().__init__(learning_rate, epsilon=1e-12)
        squares = [mean_square(gradient) for gradient in gradients]
        reached = [square for square in squares if square > 0]
        usual = sum(reached) / max(len(reached), 1)
        tf.keras.optimizers.Optimizer.build(self, variables)
        self._built, self._accumulators = True, []
        for variable, square in zip(variables, squares, strict=True):
            start = tf.fill(variable.shape, FIRST_SQUARES * (square or usual))
            self._accumulators.append(
                self.add_variable_from_reference(variable, "accumulator", initial_value=start)
            )


def mean_square(gradient: Any) -> float:
    """Returns the mean square of a gradient, for an embedding that of the rows it read; 0 where there is no gradient."""
    if gradient is None:
        return 0.0
    if isinstance(gradient, tf.IndexedSlices):
        rows, places = tf.unique(gradient.indices)
        gradient = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return float(tf.reduce_mean(tf.square(gradient)))


def prepare_fit(model: tf.keras.Model, name: str, learning_rate: float, steps: int, batch: Any) -> None:
    """Builds a model on its first batch and compiles it for `fit`, with Adagrad or Adam.

    Adagrad touches only the rows of a batch; Adam's moments decay over the whole table. Several steps run in one call, for
    Keras's own work around a call takes as long as a step.
    """
    if name == "adam":
        model.compute_loss(batch)
        optimizer = tf.keras.optimizers.Adam(learning_rate)
    else:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch)
        variables = model.trainable_variables
        optimizer = Adagrad(learning_rate, variables, tape.gradient(loss, variables))
    model.compile(optimizer=optimizer, steps_per_execution=min(STEPS_PER_EXECUTION, steps))
