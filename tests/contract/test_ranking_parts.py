"""What every registered part of the ranking model promises. A new part is tested by being registered."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry

BATCH, LENGTH, DIMENSION = 4, 6, 8
LENGTHS = np.array([6, 3, 1, 0])  # right-padded, the last history empty
MASK = np.arange(LENGTH) < LENGTHS[:, None]
RNG = np.random.default_rng(1)
HISTORY = RNG.normal(size=(BATCH, LENGTH, DIMENSION)).astype(np.float32)
CANDIDATE = RNG.normal(size=(BATCH, DIMENSION)).astype(np.float32)
WIDTHS = {"user": 8, "item": 8, "prior": 1, "user_features": 6, "context": 8, "history": 16}
READERS = [name for name in registry.names("ranking_history") if name != "none"]


@pytest.fixture(params=registry.names("ranking_network"))
def network(request) -> tf.keras.layers.Layer:
    tf.keras.utils.set_random_seed(0)
    return registry.build("ranking_network", request.param, {}, layers=(7,), dropout=0.5)


@pytest.fixture(params=registry.names("ranking_heads"))
def heads(request) -> tf.keras.layers.Layer:
    tf.keras.utils.set_random_seed(0)
    return registry.build("ranking_heads", request.param, {}, targets=3)


@pytest.fixture(params=READERS)
def reader(request) -> tf.keras.layers.Layer:
    tf.keras.utils.set_random_seed(0)
    return registry.build("ranking_history", request.param, {})


def parts(*names: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=(BATCH, WIDTHS[name])).astype(np.float32) for name in names or WIDTHS}


def test_a_network_reads_every_part(network):
    inputs = {name: tf.constant(part) for name, part in parts().items()}
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(network(inputs) ** 2)
    for name, gradient in tape.gradient(total, inputs).items():
        assert np.abs(gradient).max() > 0, name


@pytest.mark.parametrize("names", [("user", "item"), ("user", "item", "prior")])
def test_a_network_needs_no_more_than_ids(network, names):
    found = network({name: tf.constant(part) for name, part in parts(*names).items()})
    assert found.shape[0] == BATCH
    assert np.isfinite(found).all()


def test_a_network_drops_in_training_alone(network):
    inputs = {name: tf.constant(part) for name, part in parts().items()}
    seeds = [tf.constant([1, step], tf.int64) for step in (1, 1, 2)]
    plain, *dropped = [network(inputs), *(network(inputs, seed=seed) for seed in seeds)]
    np.testing.assert_array_equal(plain, network(inputs))
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - plain).max() > 0
    assert np.abs(dropped[0] - dropped[2]).max() > 0


def test_a_network_takes_each_event_for_itself(network):
    inputs = parts()
    whole = network({name: tf.constant(part) for name, part in inputs.items()})
    for row in range(BATCH):
        single = network({name: tf.constant(part[row : row + 1]) for name, part in inputs.items()})
        np.testing.assert_allclose(single[0], whole[row], atol=1e-5)


def test_heads_start_at_nothing_and_learn(heads):
    inputs = tf.constant(CANDIDATE)
    found = heads(inputs)
    np.testing.assert_array_equal(found, np.zeros((BATCH, 3)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((heads(inputs) - 1) ** 2)
    gradients = tape.gradient(loss, heads.trainable_variables)
    assert sum(float(np.abs(gradient).max() > 0) for gradient in gradients) >= 3  # a bias a target at least


def test_a_reader_ignores_padding(reader):
    other = np.where(MASK[..., None], HISTORY, 1e6).astype(np.float32)
    found = reader(HISTORY, MASK, CANDIDATE)
    np.testing.assert_array_equal(found, reader(other, MASK, CANDIDATE))
    nan = np.where(MASK[..., None], HISTORY, np.nan).astype(np.float32)
    np.testing.assert_array_equal(found, reader(nan, MASK, CANDIDATE))
    wide = np.pad(HISTORY, [(0, 0), (0, 5), (0, 0)], constant_values=3.0)
    np.testing.assert_allclose(reader(wide, np.pad(MASK, [(0, 0), (0, 5)]), CANDIDATE), found, atol=1e-6)


def test_no_history_is_zeros_with_finite_gradients(reader):
    history, candidate = tf.Variable(HISTORY), tf.Variable(CANDIDATE)
    with tf.GradientTape() as tape:
        found = reader(history, np.zeros_like(MASK), candidate)
        total = tf.reduce_sum(found)
    np.testing.assert_array_equal(found, np.zeros(found.shape))
    for gradient in tape.gradient(total, [history, candidate]):
        assert gradient is None or np.isfinite(gradient).all()


def test_a_reader_hears_every_event(reader):
    whole = np.asarray(reader(HISTORY, MASK, CANDIDATE))
    for place in range(LENGTHS[1]):
        changed = HISTORY.copy()
        changed[1, place] += 1
        assert np.abs(np.asarray(reader(changed, MASK, CANDIDATE))[1] - whole[1]).max() > 1e-7
