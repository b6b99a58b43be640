"""The parts of the ranking model against NumPy, on numbers small enough to follow."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry

RNG = np.random.default_rng(3)
USER, ITEM, OTHER = (RNG.normal(size=(2, width)).astype(np.float32) for width in (4, 4, 3))
PARTS = {"user": tf.constant(USER), "item": tf.constant(ITEM), "context": tf.constant(OTHER)}


def made(kind: str, name: str, settings: dict, **given: object):
    tf.keras.utils.set_random_seed(0)
    return registry.build(kind, name, settings, **given)


def dense(inputs: np.ndarray, layer: tf.keras.layers.Dense) -> np.ndarray:
    kernel, bias = (layer.kernel.numpy(), layer.bias.numpy() if layer.use_bias else 0)
    return inputs @ kernel + bias


def relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def test_mlp():
    layer = made("ranking_network", "mlp", {}, layers=(5,))
    found = layer(PARTS)
    wanted = relu(dense(np.hstack([USER, ITEM, USER * ITEM, OTHER]), layer.deep.hidden[0]))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert wanted.any()


def test_ncf_multiplies_one_half_and_reads_the_other():
    layer = made("ranking_network", "ncf", {}, layers=(5,))
    found = layer(PARTS)
    deep = relu(dense(np.hstack([USER[:, 2:], ITEM[:, 2:], OTHER]), layer.deep.hidden[0]))
    np.testing.assert_allclose(found, np.hstack([USER[:, :2] * ITEM[:, :2], deep]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("projection", [None, 2])
def test_cross(structure, projection):
    settings = {"crosses": 2, "structure": structure} | ({"projection": projection} if projection else {})
    layer = made("ranking_network", "cross", settings, layers=(5,))
    layer(PARTS)  # builds
    for cross in layer.crosses:  # what they start at is next to nothing
        for variable in cross.trainable_variables:
            variable.assign(RNG.normal(size=variable.shape))
    start = np.hstack([USER, ITEM, OTHER])
    crossed = start
    for cross in layer.crosses:  # x0 * (W x + b) + x
        low = dense(crossed, cross._dense_u) if projection else crossed
        crossed = start * dense(low, cross._dense_v if projection else cross._dense) + crossed
    above = crossed if structure == "stacked" else start
    deep = relu(dense(above, layer.deep.hidden[0]))
    wanted = deep if structure == "stacked" else np.hstack([crossed, deep])
    np.testing.assert_allclose(layer(PARTS), wanted, rtol=1e-4, atol=1e-4)


def test_dot():
    layer = made("ranking_network", "dot", {}, layers=())
    found = layer(PARTS).numpy()
    context = dense(OTHER, layer.projections["context"])
    products = [(ITEM * USER).sum(1), (context * USER).sum(1), (context * ITEM).sum(1)]
    np.testing.assert_allclose(found[:, :12], np.hstack([USER, ITEM, context]), rtol=1e-5)
    pairs = found[:, 12:].reshape(2, 3, 3)  # the lower triangle; nothing above it
    np.testing.assert_allclose(pairs[:, [1, 2, 2], [0, 0, 1]], np.stack(products, 1), rtol=1e-4, atol=1e-6)
    assert np.count_nonzero(pairs) == 2 * 3


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("interests", [1, 2])
def test_attention(normalise, interests):
    layer = made(
        "ranking_history", "attention", {"units": [3, 2], "interests": interests, "normalise": normalise}
    )
    history, candidate = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 2), (2, 2)))
    mask = np.array([[True, True, False], [True, False, False]])
    found = layer(tf.constant(history), tf.constant(mask), tf.constant(candidate))
    for row in range(2):
        events = history[row][mask[row]]
        beside = np.tile(candidate[row], (len(events), 1))
        first = dense(np.hstack([events, events * beside]), layer.of_events) + dense(
            beside, layer.of_candidate
        )
        weights = dense(relu(dense(relu(first), layer.deep.hidden[0])), layer.weigh)  # [events, interests]
        if normalise:
            weights = np.exp(weights) / np.exp(weights).sum(axis=0)
        wanted = np.concatenate([weights[:, interest] @ events for interest in range(interests)])
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-6)
        assert wanted.all()


def test_mean_of_a_history():
    history = tf.constant([[[1.0, 2.0], [3.0, 6.0], [99.0, 99.0]], [[5.0, 5.0]] * 3])
    mask = tf.constant([[True, True, False], [False, False, False]])
    found = made("ranking_history", "mean", {})(history, mask, tf.zeros([2, 2]))
    np.testing.assert_allclose(found, [[2, 4], [0, 0]])


def fill(layer: tf.keras.layers.Layer) -> None:
    """Gives every weight a value: the last ones start at 0."""
    for variable in layer.trainable_variables:
        variable.assign(RNG.normal(size=variable.shape))


def test_mixture_of_experts():
    layer = made("ranking_heads", "mixture_of_experts", {"experts": 3, "units": [5], "tower": [2]}, targets=2)
    np.testing.assert_array_equal(layer(USER), np.zeros((2, 2)))
    fill(layer)
    known = [relu(dense(USER, expert.hidden[0])) for expert in layer.experts]
    wanted = []
    for gate, tower in zip(layer.gates, layer.towers, strict=True):
        share = np.exp(dense(USER, gate))
        share /= share.sum(axis=1, keepdims=True)
        mixture = sum(share[:, [number]] * known[number] for number in range(3))
        wanted.append(dense(relu(dense(mixture, tower.deep.hidden[0])), tower.last))
    np.testing.assert_allclose(layer(USER), np.hstack(wanted), rtol=1e-4, atol=1e-5)


def test_shared_bottom():
    layer = made("ranking_heads", "shared_bottom", {"tower": [3]}, targets=2)
    np.testing.assert_array_equal(layer(USER), np.zeros((2, 2)))
    fill(layer)
    wanted = [dense(relu(dense(USER, tower.deep.hidden[0])), tower.last) for tower in layer.towers]
    np.testing.assert_allclose(layer(USER), np.hstack(wanted), rtol=1e-4, atol=1e-5)
