"""What every registered query encoder promises. A new encoder is tested by being registered."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry

BATCH, LENGTH, DIMENSION = 4, 6, 8
LENGTHS = np.array([6, 3, 1, 0])  # right-padded, the last history empty


@pytest.fixture(params=registry.names("encoder"))
def encoder(request) -> tf.keras.layers.Layer:
    tf.keras.utils.set_random_seed(0)
    return registry.build("encoder", request.param, {})


@pytest.fixture
def mask() -> np.ndarray:
    return np.arange(LENGTH) < LENGTHS[:, None]


@pytest.fixture
def history() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(BATCH, LENGTH, DIMENSION)).astype(np.float32)


def test_gives_one_vector_or_several_a_history(encoder, history, mask):
    found = encoder(history, mask)
    assert found.dtype == tf.float32
    assert found.shape.rank in (2, 3)
    assert (found.shape[0], found.shape[-1]) == (BATCH, DIMENSION)


def test_ignores_what_stands_in_padded_places(encoder, history, mask):
    other = np.where(mask[..., None], history, 1e6).astype(np.float32)
    np.testing.assert_array_equal(encoder(history, mask), encoder(other, mask))


def test_ignores_how_wide_the_padding_is(encoder, history, mask):
    wide = np.pad(history, [(0, 0), (0, 5), (0, 0)], constant_values=3.0)
    found = encoder(wide, np.pad(mask, [(0, 0), (0, 5)]))
    np.testing.assert_allclose(found, encoder(history, mask), atol=1e-6)


def test_a_batch_is_its_single_calls(encoder, history, mask):
    whole = encoder(history, mask)
    for row in range(BATCH):
        single = encoder(history[row : row + 1], mask[row : row + 1])
        np.testing.assert_allclose(single[0], whole[row], atol=1e-6)


def test_an_empty_history_is_finite_and_has_a_finite_gradient(encoder, history):
    variable = tf.Variable(history)
    with tf.GradientTape() as tape:
        found = encoder(variable, np.zeros((BATCH, LENGTH), bool))
        total = tf.reduce_sum(found)
    assert np.isfinite(found).all()
    gradient = tape.gradient(total, variable)
    assert gradient is None or np.isfinite(gradient).all()


def test_every_event_of_the_history_counts(encoder, history, mask):
    whole = np.asarray(encoder(history, mask))
    for place in range(LENGTHS[1]):
        changed = history.copy()
        changed[1, place] += 1
        assert np.abs(np.asarray(encoder(changed, mask))[1] - whole[1]).max() > 1e-7


def test_reloads_with_the_same_answer(encoder, history, mask, tmp_path):
    """The layer's own attributes are saved too: a class attribute of the same name once broke this."""
    module = tf.Module()
    module.encoder = encoder
    encoder(history, mask)
    specs = [tf.TensorSpec([None, LENGTH, DIMENSION]), tf.TensorSpec([None, LENGTH], tf.bool)]
    module.ask = tf.function(encoder.__call__, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path / "saved"))
    reloaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(reloaded.ask(history, mask), encoder(history, mask), atol=1e-6)


def test_decay_by_hand():
    history = tf.constant([[[1.0], [10.0], [100.0]], [[2.0], [4.0], [9.0]]])
    found = registry.build("encoder", "decay", {"half_life": 1.0})(
        history, tf.constant([[1, 1, 1], [1, 1, 0]]) > 0
    )
    np.testing.assert_allclose(found[:, 0], [(0.25 + 5 + 100) / 1.75, (1 + 4) / 1.5], rtol=1e-6)


def test_mean_by_hand():
    history = tf.constant([[[1.0], [10.0], [100.0]], [[2.0], [4.0], [9.0]]])
    found = registry.build("encoder", "mean", {})(history, tf.constant([[1, 1, 1], [1, 1, 0]]) > 0)
    np.testing.assert_allclose(found[:, 0], [37, 3], rtol=1e-6)
