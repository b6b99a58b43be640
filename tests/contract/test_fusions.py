"""What every registered fusion promises. A new fusion is tested by being registered."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry

DIMENSION = 4
NAMES = ["id", "history", "title"]


@pytest.fixture(params=registry.names("fusion"))
def make(request):
    """Builds the fusion of some parts, at the same random weights every time."""

    def build(names=NAMES) -> tf.keras.layers.Layer:
        tf.keras.utils.set_random_seed(0)
        return registry.build("fusion", request.param, {}, dimension=DIMENSION, names=list(names))

    return build


def some(*leading, names=NAMES):
    draw = np.random.default_rng(1).normal(size=(len(names), *leading, DIMENSION)).astype(np.float32)
    return {name: tf.constant(values) for name, values in zip(names, draw, strict=True)}


@pytest.mark.parametrize("leading", [(5,), (2, 3), (2, 3, 2), (0,)])
def test_gives_one_vector_whatever_axes_come_first(make, leading):
    found = make()(some(*leading))
    assert found.shape == (*leading, DIMENSION)
    assert found.dtype == tf.float32
    assert np.isfinite(found).all()


def test_a_row_depends_on_its_own_parts_alone(make):
    fusion, parts = make(), some(4, 3)
    whole = fusion(parts)
    for row in range(4):
        single = fusion({name: part[row] for name, part in parts.items()})
        np.testing.assert_allclose(single, whole[row], atol=1e-6)


def test_every_part_has_a_say(make):
    fusion, parts = make(), some(6)
    whole = np.asarray(fusion(parts))
    for name in NAMES:
        other = np.asarray(fusion(parts | {name: parts[name] + 1}))
        assert (np.abs(other - whole).max(axis=1) > 1e-4).all()


def test_the_order_in_which_parts_come_is_nothing(make):
    fusion, parts = make(), some(6)
    turned = {name: parts[name] for name in reversed(NAMES)}
    np.testing.assert_allclose(fusion(turned), fusion(parts), atol=1e-6)


@pytest.mark.parametrize("names", [NAMES, NAMES[:2], NAMES[:1]])
def test_a_gradient_reaches_every_weight_and_every_part(make, names):
    fusion, parts = make(names), some(6, names=names)
    fusion(parts)  # builds the weights
    with tf.GradientTape() as tape:
        tape.watch(parts)
        loss = tf.reduce_sum(tf.square(fusion(parts) - 1))
    weights = fusion.trainable_weights
    gradients = tape.gradient(loss, [*weights, *parts.values()])
    for where, gradient in zip([*(weight.name for weight in weights), *names], gradients, strict=True):
        assert gradient is not None, where
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, where


def test_one_part_alone(make):
    fusion = make(NAMES[:1])
    found = fusion(some(5, names=NAMES[:1]))
    assert found.shape == (5, DIMENSION)
    assert np.isfinite(found).all()


def test_zeros_stay_finite_with_a_finite_gradient(make):
    fusion, nothing = make(), {name: tf.Variable(tf.zeros([3, DIMENSION])) for name in NAMES}
    with tf.GradientTape() as tape:
        found = tf.reduce_sum(fusion({name: tf.identity(part) for name, part in nothing.items()}))
    assert np.isfinite(found)
    for gradient in tape.gradient(found, list(nothing.values())):
        assert np.isfinite(gradient).all()


def test_reloads_with_the_same_answer(make, tmp_path):
    module = tf.Module()
    module.fusion = fusion = make()
    parts = some(2, 3)
    fusion(parts)
    spec = {name: tf.TensorSpec([None, None, DIMENSION]) for name in NAMES}
    module.ask = tf.function(fusion.__call__, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    reloaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(reloaded.ask(parts), fusion(parts), atol=1e-6)
