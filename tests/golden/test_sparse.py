"""Sparse products against NumPy: values, gradients, repeated and unordered columns, empty rows."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.encoders.sparse import product

INDICES, VALUES = [[0, 2], [0, 0], [0, 2], [3, 1]], [2.0, 1.0, 0.5, -1.0]


@pytest.fixture
def matrix() -> tf.SparseTensor:
    return tf.SparseTensor(INDICES, VALUES, [4, 3])


@pytest.mark.parametrize("transposed", [False, True])
def test_is_the_dense_product_with_its_gradient(matrix, transposed):
    whole = np.zeros((4, 3), np.float32)
    np.add.at(whole, tuple(np.transpose(INDICES)), VALUES)
    whole = whole.T if transposed else whole
    random = np.random.default_rng(0)
    dense = tf.Variable(random.normal(size=(whole.shape[1], 5)).astype(np.float32))
    upstream = random.normal(size=(whole.shape[0], 5)).astype(np.float32)

    @tf.function
    def ask() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            found = product(matrix, tf.convert_to_tensor(dense), transposed)
            total = tf.reduce_sum(found * upstream)
        return found, tape.gradient(total, dense)

    found, gradient = ask()
    np.testing.assert_allclose(found, whole @ dense.numpy(), rtol=1e-6)
    np.testing.assert_allclose(gradient, whole.T @ upstream, rtol=1e-6)
