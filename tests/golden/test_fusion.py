"""Each fusion against its formula, by hand or in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry
from trainer.errors import UserError

PARTS = {"id": [[1.0, 2.0]], "title": [[3.0, -1.0]]}


def build(name, dimension=2, names=("id", "title"), **settings):
    tf.keras.utils.set_random_seed(0)
    return registry.build(
        "fusion", name, settings, "retrieval.fusion", dimension=dimension, names=list(names)
    )


def ask(fusion, parts=PARTS):
    return np.asarray(fusion({name: tf.constant(part) for name, part in parts.items()}))


def test_sum():
    np.testing.assert_allclose(ask(build("sum")), [[4, 1]])


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("each_number", [False, True])
def test_equal_gates_are_the_sum(gate, each_number):
    fusion = build("gated", gate=gate, each_number=each_number)  # as it starts
    np.testing.assert_allclose(ask(fusion), [[4, 1]], rtol=1e-6)


def test_a_softmax_gate_shares_out_the_parts():
    fusion = build("gated")
    ask(fusion)
    fusion.logits.set_weights([np.zeros((4, 2)), np.log([3.0, 1.0])])
    np.testing.assert_allclose(ask(fusion), [[2 * (0.75 * 1 + 0.25 * 3), 2 * (0.75 * 2 - 0.25)]], rtol=1e-6)


def test_a_sigmoid_gate_closes_a_part():
    fusion = build("gated", gate="sigmoid")
    ask(fusion)
    fusion.logits.set_weights([np.zeros((4, 2)), np.array([0.0, -100.0])])
    np.testing.assert_allclose(ask(fusion), [[1, 2]], rtol=1e-6)


def test_gates_read_all_parts():
    """The gate of the id follows the first number of the title."""
    fusion = build("gated", gate="sigmoid")
    ask(fusion)
    kernel = np.zeros((4, 2))
    kernel[2, 0] = 1
    fusion.logits.set_weights([kernel, np.zeros(2)])
    gate = 2 / (1 + np.exp(-3))
    np.testing.assert_allclose(ask(fusion), [[gate + 3, 2 * gate - 1]], rtol=1e-6)


def test_gates_of_each_number():
    fusion = build("gated", gate="sigmoid", each_number=True)
    ask(fusion)
    fusion.logits.set_weights([np.zeros((4, 4)), np.array([-100.0, 0, 0, -100.0])])
    np.testing.assert_allclose(ask(fusion), [[3, 2]], rtol=1e-6)


def test_mlp_is_the_sum_and_a_network():
    fusion = build("mlp", layers=[3])
    found = ask(fusion)
    (kernel, bias), (out, end) = fusion.hidden[0].get_weights(), fusion.out.get_weights()
    hidden = np.maximum(np.array([[1.0, 2, 3, -1]]) @ kernel + bias, 0)
    np.testing.assert_allclose(found, [[4, 1]] + hidden @ out + end, rtol=1e-5)


def test_cross_is_the_sum_and_dcn_v2():
    fusion = build("cross", layers=2)
    found, first = ask(fusion), np.array([[1.0, 2, 3, -1]])
    crossed = first
    for layer in fusion.crosses:
        kernel, bias = layer.get_weights()
        crossed = first * (crossed @ kernel + bias) + crossed
    out, end = fusion.out.get_weights()
    np.testing.assert_allclose(found, [[4, 1]] + crossed @ out + end, rtol=1e-5)


def test_a_projection_lowers_the_rank_of_the_crosses():
    fusion = build("cross", layers=1, projection=1)
    ask(fusion)
    assert [weight.shape for weight in fusion.crosses[0].get_weights()] == [(4, 1), (1, 4), (4,)]


def test_dot_is_the_sum_and_the_products_of_two_parts():
    fusion = build("dot")
    ask(fusion)
    out, end = fusion.out.get_weights()
    products = np.array([[1 + 4, 3 - 2, 9 + 1]]) / 2  # id.id, title.id, title.title
    np.testing.assert_allclose(ask(fusion), [[4, 1]] + products @ out + end, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gates", {}, "unknown fusion 'gates'; did you mean 'gated'"),
        ("gated", {"gate": "hard"}, "setting retrieval.fusion.gate='hard'"),
        ("cross", {"layers": 0}, "setting retrieval.fusion.layers=0"),
        ("mlp", {"layers": [0]}, "setting retrieval.fusion.layers.0=0"),
        ("mlp", {"width": 3}, "unknown setting retrieval.fusion.width"),
    ],
)
def test_wrong_settings_are_named(name, settings, message):
    with pytest.raises(UserError, match=message):
        build(name, **settings)


@pytest.mark.parametrize("name", registry.names("fusion"))
def test_all_start_near_the_sum(name):
    """A part of large numbers neither shuts the others out nor drowns them in products."""
    draw = np.random.default_rng(0).normal(size=(3, 50, 16)).astype(np.float32)
    parts = {"id": draw[0] * 0.1, "history": draw[1] * 0.1, "time": draw[2] * 3}
    found = ask(build(name, 16, tuple(parts)), parts)
    total = sum(parts.values())
    cosine = (found * total).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(total, axis=1)
    assert cosine.mean() > 0.8
