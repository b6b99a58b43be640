"""Encoders and what they share against figures worked out by hand, or by a second implementation."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry
from trainer.encoders import self_attention, sequence
from trainer.encoders.mind import squashed
from trainer.encoders.transformer import GAPS, gaps

MASK = tf.constant([[True, True, True], [True, False, False], [False, False, False]])
SEED = tf.constant([1, 2])


def made(name: str, **settings) -> tf.keras.layers.Layer:
    tf.keras.utils.set_random_seed(0)
    return registry.build("encoder", name, settings)


def zeroed(layer: tf.keras.layers.Layer, shape: list[int | None]) -> tf.keras.layers.Layer:
    layer.build(tf.TensorShape(shape))
    layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    return layer


def test_events_are_counted_back_from_the_newest():
    np.testing.assert_array_equal(sequence.ages(MASK), [[2, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(sequence.count(MASK), [3, 1, 0])
    np.testing.assert_array_equal(sequence.distances(3), [[0, -1, -2], [1, 0, -1], [2, 1, 0]])


def test_the_first_event_has_nothing_before_it():
    np.testing.assert_array_equal(sequence.after_first(MASK), [[0, 1, 1], [0, 0, 0], [0, 0, 0]])


def test_attention_reads_what_is_readable_and_nothing_where_nothing_is():
    logits = tf.constant([[0.0, np.log(3.0), 50.0], [1.0, 2.0, 3.0]])
    found = sequence.attended(logits, tf.constant([[True, True, False], [False, False, False]]))
    np.testing.assert_allclose(found, [[0.25, 0.75, 0], [0, 0, 0]], rtol=1e-6)


def test_the_latest_are_kept_whatever_the_padding():
    events = tf.constant([[1.0, 2, 3, 4], [5, 6, 7, 0], [8, 0, 0, 0]])[..., None]
    mask = tf.constant([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]) > 0
    kept, real = self_attention.latest(events, mask, 2)
    np.testing.assert_array_equal(kept[..., 0], [[3, 4], [6, 7], [8, 0]])
    np.testing.assert_array_equal(real, [[1, 1], [1, 1], [1, 0]])
    rows, asked = self_attention.of_latest(lambda vectors, of: (vectors * 10, of), events, mask, 2)
    np.testing.assert_array_equal(rows[..., 0], [[0, 0, 30, 40], [0, 60, 70, 0], [80, 0, 0, 0]])
    np.testing.assert_array_equal(asked, [[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_chance_is_the_share_asked_for(share):
    drawn = np.asarray(sequence.chance(share, [400, 501], SEED))
    assert drawn.mean() == pytest.approx(round(share * 256) / 256, abs=0.005)
    halves = np.corrcoef(drawn[:, ::2][:, :250].ravel(), drawn[:, 1::2].ravel())[0, 1] if share else 0.0
    assert abs(halves) < 0.02  # neighbours come from one random number, and are independent all the same


def test_dropout_keeps_the_mean():
    found = np.asarray(sequence.dropped(tf.ones([300, 301]), 0.3, SEED))
    assert found.mean() == pytest.approx(1, abs=0.01)
    assert set(np.unique(found.round(4))) == {0, np.float32(256 / 179).round(4)}
    np.testing.assert_array_equal(sequence.dropped(tf.ones([2, 2]), 0.3, None), 1)


def test_sinusoids_are_the_papers():
    found = np.asarray(self_attention.sinusoids(3, 4))
    expected = [[np.sin(p), np.sin(p / 100), np.cos(p), np.cos(p / 100)] for p in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert self_attention.sinusoids(2, 5).shape == (2, 5)


def test_attention_pools_by_age_where_its_network_says_nothing():
    encoder = zeroed(made("attention"), [None, 3, 1])
    encoder.recency.assign(1.0)  # weights 1 / (1 + age): 1/3, 1/2, 1
    history = tf.constant([[[6.0], [12.0], [18.0]]])
    np.testing.assert_allclose(encoder(history, MASK[:1]), [[(2 + 6 + 18) / (11 / 6)]], rtol=1e-6)


def test_each_interest_of_comirec_has_weights_of_its_own():
    encoder = zeroed(made("comirec", interests=2), [None, 3, 1])
    encoder.recency.assign([[0.0], [1.0]])
    history = tf.constant([[[6.0], [12.0], [18.0]]])
    np.testing.assert_allclose(encoder(history, MASK[:1])[0, :, 0], [12, 26 / (11 / 6)], rtol=1e-6)


def test_gru_is_keras_gru():
    encoder = made("gru", dropout=0.0)
    encoder.build(tf.TensorShape([None, 5, 4]))
    encoder.start.assign(tf.zeros([4]))
    encoder.out.set_weights([np.eye(4), np.zeros(4)])
    kernel, bias = encoder.into.get_weights()
    keras = tf.keras.layers.GRU(4, reset_after=False)
    keras.build(tf.TensorShape([None, None, 4]))
    keras.set_weights([kernel, np.concatenate([encoder.gates, encoder.candidate], axis=1), bias])
    history = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([[5], [3]])
    np.testing.assert_allclose(
        encoder(history, mask), keras(tf.constant(history), mask=tf.constant(mask)), atol=1e-6
    )


def test_self_attention_is_keras_attention():
    """One layer with no feed-forward network: what it adds to its input is `MultiHeadAttention` of the normalised input."""
    blocks = self_attention.Blocks(layers=1, heads=2, inner=4, dropout=0.0)
    blocks.build(tf.TensorShape([None, None, 6]))
    tf.keras.utils.set_random_seed(0)
    kernel, bias = np.random.normal(size=(6, 18)), np.random.normal(size=18)
    mix, mix_bias = np.random.normal(size=(6, 6)), np.random.normal(size=6)
    blocks.projections[0].set_weights([kernel, bias])
    blocks.mixes[0].set_weights([mix, mix_bias])
    blocks.outers[0].set_weights([np.zeros((4, 6)), np.zeros(6)])
    keras = tf.keras.layers.MultiHeadAttention(2, 3)
    x = tf.constant(np.random.normal(size=(2, 5, 6)).astype(np.float32))
    normed = tf.reshape(blocks.norms[0](tf.reshape(x, [-1, 6])), [2, 5, 6])
    keras(normed, normed)
    keras.set_weights(
        [
            part.reshape(shape)
            for number in range(3)
            for part, shape in (
                (kernel[:, 6 * number : 6 * number + 6], (6, 2, 3)),
                (bias[6 * number : 6 * number + 6], (2, 3)),
            )
        ]
        + [mix.reshape(2, 3, 6), mix_bias]
    )
    causal = np.tri(5, dtype=bool)[None]
    expected = x + keras(normed, normed, attention_mask=causal)
    expected = tf.reshape(blocks.norms[-1](tf.reshape(expected, [-1, 6])), [2, 5, 6])
    found = blocks(x, tf.constant(np.where(causal, 0.0, sequence.NEVER), tf.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_session_ends_and_the_long_run_does_not():
    """The gate half open (its weights are zero): half the mean of the last two events, half the decayed mean of all."""
    encoder = zeroed(made("session", session_length=2, half_life=1.0), [None, 3, 1])
    encoder.short.set_weights([np.array([[1.0], [0.0]]), np.zeros(1)])
    history = tf.constant([[[4.0], [10.0], [20.0]]])
    long = (4 / 4 + 10 / 2 + 20) / 1.75
    np.testing.assert_allclose(encoder(history, MASK[:1]), [[0.5 * 15 + 0.5 * long]], rtol=1e-6)
    plain = zeroed(made("session", half_life=0.0), [None, 3, 1])
    np.testing.assert_allclose(plain(history, MASK[:1]), [[0.5 * 34 / 3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("times", "recent"),
    [
        ([100, 3_700, 3_760], 15),  # an hour, a minute
        ([100, 1_900, 3_760], 20),  # half an hour, and a minute more
        ([100, 1_900, 3_700], 34 / 3),  # twice half an hour
        ([100, 0, 9_000], 34 / 3),  # a time that is not known begins nothing
        (None, 34 / 3),
    ],
)
def test_a_pause_begins_a_session(times, recent):
    """As above, with sessions by time: half the mean of the last one, half the decayed mean of all."""
    encoder = zeroed(made("session", session_gap=30, half_life=1.0), [None, 4, 1])
    encoder.short.set_weights([np.array([[1.0], [0.0]]), np.zeros(1)])
    history, long = tf.constant([[[4.0], [10.0], [20.0], [0.0]]]), (4 / 4 + 10 / 2 + 20) / 1.75
    mask = tf.constant([[True, True, True, False]])
    given = () if times is None else (tf.constant([[*times, 0]], tf.int64),)
    np.testing.assert_allclose(encoder(history, mask, *given), [[0.5 * recent + 0.5 * long]], rtol=1e-6)
    each, _ = encoder.predict_each(history, mask, None, *given)
    np.testing.assert_allclose(each[0, 3], [0.5 * recent + 0.5 * long], rtol=1e-6)


def test_the_autoencoder_reads_all_others():
    encoder = zeroed(made("autoencoder", dropout=0.0), [None, 3, 1])
    history = tf.constant([[[1.0], [10.0], [100.0]], [[7.0], [9.0], [9.0]]])
    np.testing.assert_allclose(encoder(history, MASK[:2]), [[111 / 3**0.5], [7.0]], rtol=1e-6)
    rows, asked = encoder.predict_each(history, MASK[:2], SEED)
    np.testing.assert_allclose(rows[0, :, 0], np.array([110, 101, 11]) / 2**0.5, rtol=1e-5)
    np.testing.assert_array_equal(asked, MASK[:2])


def test_bert_masks_its_share_of_the_places_and_at_least_one():
    mask = tf.sequence_mask(tf.fill([2000], 40), 50)
    _, asked = made("bert", masked=0.25, last=0.0).predict_each(tf.zeros([2000, 50, 4]), mask, SEED)
    assert np.mean(asked.numpy()[:, :40]) == pytest.approx(0.25, abs=0.01)
    assert not asked.numpy()[:, 40:].any()
    _, asked = made("bert", masked=0.25, last=0.5).predict_each(tf.zeros([2000, 50, 4]), mask, SEED)
    alone = asked.numpy().sum(axis=1) == 1
    assert alone.mean() == pytest.approx(0.5, abs=0.04)
    assert asked.numpy()[alone, 39].mean() > 0.98
    _, asked = made("bert", masked=0.0).predict_each(tf.zeros([3, 3, 4]), MASK, SEED)
    np.testing.assert_array_equal(asked, [[0, 0, 1], [1, 0, 0], [0, 0, 0]])


def test_capsules_are_squashed_to_below_one():
    found = squashed(tf.constant([[3.0, 4.0], [0.0, 0.0], [3e4, 4e4]]))
    np.testing.assert_allclose(found, [[0.6 * 25 / 26, 0.8 * 25 / 26], [0, 0], [0.6, 0.8]], atol=1e-6)


def test_mind_routes_opposite_events_to_different_interests():
    encoder = made("mind", interests=2, sharpness=0.5)
    encoder.build(tf.TensorShape([None, 4, 2]))
    np.testing.assert_array_equal(encoder.bilinear, np.eye(2))
    encoder.outer.set_weights([np.zeros_like(weight) for weight in encoder.outer.get_weights()])
    history = tf.constant([[[5.0, 0.0], [-5.0, 0.0], [4.0, 0.0], [-6.0, 0.0]]])
    found = encoder(history, tf.ones([1, 4], tf.bool))
    # The newest event goes to the first capsule, the one before it to the second, and so on: each capsule takes the share p of the two
    # events that are like it and 1 - p of the others, all read at length 1; `apart` is how far apart their logits are.
    apart = 1.0
    for _ in range(2):
        length = 2 * np.tanh(apart / 2)
        apart += 0.5 * 2 * length**2 / (1 + length**2)
    length = 2 * np.tanh(apart / 2)
    expected = length**2 / (1 + length**2)
    np.testing.assert_allclose(found[0], [[-expected, 0], [expected, 0]], rtol=1e-5)


def test_label_aware_attention_by_hand():
    interests = tf.constant([[[np.log(3.0), 0.0], [0.0, 1.0]]], tf.float32)
    positive = tf.constant([[1.0, 0.0]])
    chosen = made("mind", power=1.0).choose(interests, positive)  # weights 3/4 and 1/4
    np.testing.assert_allclose(chosen, [[0.75 * np.log(3.0), 0.25]], rtol=1e-6)
    even = made("mind", power=0.0).choose(interests, positive)
    np.testing.assert_allclose(even, [[0.5 * np.log(3.0), 0.5]], rtol=1e-6)


@pytest.mark.parametrize("positions", ["recency", "learned", "sinusoidal"])
def test_every_kind_of_position_tells_the_order(positions):
    encoder = made("transformer", positions=positions, dropout=0.0)
    history = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    mask = np.ones((1, 5), bool)
    encoder(history, mask)
    for name in ("bias", "table"):  # small at the start: made to speak
        if hasattr(encoder, name):
            getattr(encoder, name).assign(tf.random.normal(getattr(encoder, name).shape))
    swapped = history[:, [1, 0, 2, 3, 4]]
    assert np.abs(encoder(swapped, mask) - encoder(history, mask)).max() > 1e-3


def test_positions_are_sinusoidal_without_a_table_to_train():
    weights = {positions: len(built(positions).weights) for positions in ("recency", "learned", "sinusoidal")}
    assert weights["recency"] == weights["learned"] == weights["sinusoidal"] + 1


def built(positions: str) -> tf.keras.layers.Layer:
    encoder = made("transformer", positions=positions)
    encoder.build(tf.TensorShape([None, 5, 8]))
    return encoder


def test_gaps_are_powers_of_two_of_seconds():
    times = tf.constant([[1_000, 1_000, 1_001, 1_004, 0], [1, 2**32, 2**40, 2**40 + 7, 2**40 + 8]], tf.int64)
    expected = [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [2, 2, 1, 1, 0], [4, 4, 3, 1, 0], [0, 0, 0, 0, 0]]
    found = gaps(times)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1, 3:], [[GAPS, GAPS, 4, 1, 1], [GAPS, GAPS, 5, 2, 1]])


def test_a_gap_weighs_an_event_by_its_learned_power():
    """One layer whose queries and keys are zero: the weights are the softmax of the gaps' logits alone."""
    encoder = made("transformer", layers=1, heads=1, gaps=True, dropout=0.0)
    encoder.build(tf.TensorShape([None, 3, 2]))
    encoder.blocks.projections[0].set_weights([np.hstack([np.zeros((2, 4)), np.eye(2)]), np.zeros(6)])
    encoder.blocks.mixes[0].set_weights([np.eye(2), np.zeros(2)])
    encoder.blocks.outers[0].set_weights([np.zeros((8, 2)), np.zeros(2)])
    weight = {1: 3.0, 3: 2.0, 11: 5.0}  # of no second, of 2 to 3, of 512 to 1,023
    for power, value in weight.items():
        encoder.gap[power - 1].assign([np.log(value)])
    history = tf.constant([[[1.0, 3.0], [-2.0, 5.0], [4.0, 0.0]]])
    found = encoder(history, MASK[:1], tf.constant([[1_000, 1_797, 1_800]], tf.int64))

    def norm(rows):
        rows = rows - rows.mean(axis=-1, keepdims=True)
        return rows / np.sqrt(rows.var(axis=-1, keepdims=True) + 1e-5)

    rows = norm(np.concatenate([[encoder.start.numpy()], history[0].numpy()]))  # the start has no time: 1
    read = np.array([1, weight[11], weight[3], weight[1]]) / 11 @ norm(rows)
    np.testing.assert_allclose(found[0], norm(rows[-1] + read), rtol=1e-4)


def test_decay_by_hand():
    history = tf.constant([[[1.0], [10.0], [100.0]], [[2.0], [4.0], [9.0]]])
    found = registry.build("encoder", "decay", {"half_life": 1.0})(
        history, tf.constant([[1, 1, 1], [1, 1, 0]]) > 0
    )
    np.testing.assert_allclose(found[:, 0], [(0.25 + 5 + 100) / 1.75, (1 + 4) / 1.5], rtol=1e-6)


def test_decay_by_days_by_hand():
    """Two days old and one event older; three events of which one has no time; in both the newest stands last."""
    encoder = made("decay", half_life=2.0, half_life_days=1.0)
    history, day = tf.constant([[[1.0], [9.0], [0.0]], [[1.0], [2.0], [4.0]]]), 86_400
    mask, times = (
        tf.constant([[1, 1, 0], [1, 1, 1]]) > 0,
        tf.constant([[day, 3 * day, 0], [0, 5 * day, 5 * day]]),
    )
    older, undated = 0.5**2.5, 0.5
    wanted = [(older + 9) / (older + 1), (undated + 2 * 0.5**0.5 + 4) / (undated + 0.5**0.5 + 1)]
    np.testing.assert_allclose(encoder(history, mask, times)[:, 0], wanted, rtol=1e-6)
    pooled = encoder.pool(tf.reshape(history, [6, 1]), tf.reshape(tf.range(6), [2, 3]), mask, times)
    np.testing.assert_allclose(pooled[:, 0], wanted, rtol=1e-6)
    by_days = made("decay", half_life=float("inf"), half_life_days=1.0)
    np.testing.assert_allclose(by_days(history, mask, times)[:, 0], [9.25 / 1.25, 7 / 3], rtol=1e-6)


def test_mean_by_hand():
    history = tf.constant([[[1.0], [10.0], [100.0]], [[2.0], [4.0], [9.0]]])
    found = registry.build("encoder", "mean", {})(history, tf.constant([[1, 1, 1], [1, 1, 0]]) > 0)
    np.testing.assert_allclose(found[:, 0], [37, 3], rtol=1e-6)
