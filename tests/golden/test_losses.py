"""Losses against their formulas in NumPy, alone and with all that the retrieval model lays around them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logsumexp

from trainer import registry
from trainer.config import with_settings
from trainer.errors import UserError
from trainer.input_pipeline import context_key
from trainer.retrieval import losses
from trainer.retrieval.model import RetrievalModel
from trainer.retrieval.task import RetrievalTask
from trainer.retrieval.train import build_retrieval

BATCH, CANDIDATES, ITEMS = 5, 8, 41


def of_positive(scores):
    return scores[np.arange(len(scores)), np.arange(len(scores))]


def over_negatives(scores, function):
    """Returns the mean of a function of (positive, negative) over the negatives, one by one."""
    found = []
    for row, values in enumerate(scores):
        others = [function(values[row], value) for place, value in enumerate(values) if place != row]
        found.append(np.mean(others))
    return np.array(found)


def calibrated(scores, calibration):
    share = (CANDIDATES - 1) / (ITEMS - 1)
    power = share * (calibration * (1 - 1 / share) + 1 / share)
    negatives = CANDIDATES - 1
    others = over_negatives(scores - np.log(negatives), lambda _, negative: -np.log(expit(-negative)))
    return -power * np.log(expit(of_positive(scores) - np.log(negatives))) + others * negatives


def hardest(scores):
    others = np.where(np.eye(len(scores), scores.shape[1], dtype=bool), -np.inf, scores)
    return np.maximum(0, 0.5 - of_positive(scores) + others.max(axis=1))


FORMULAS = {
    ("softmax",): lambda scores: logsumexp(scores, axis=1) - of_positive(scores),
    ("bpr",): lambda scores: over_negatives(scores, lambda p, n: -np.log(expit(p - n))),
    ("hinge",): lambda scores: over_negatives(scores, lambda p, n: max(0, 1 - p + n)),
    ("hinge", ("margin", 0.5), ("hardest", True)): hardest,
    ("binary_cross_entropy",): lambda scores: calibrated(scores, 0.0),
    ("binary_cross_entropy", ("calibration", 0.75)): lambda scores: calibrated(scores, 0.75),
    ("squared_error", ("unobserved", 0.5)): lambda scores: (
        (1 - of_positive(scores)) ** 2 + 0.5 * over_negatives(scores, lambda _, n: n**2)
    ),
}


@pytest.fixture
def scores():
    return np.random.default_rng(7).normal(0, 3, (BATCH, CANDIDATES)).astype(np.float32)


def loss_of(name, settings, labels, scores):
    return losses.wrap(name, dict(settings), ITEMS)(tf.constant(labels), tf.constant(scores))


def test_every_loss_has_a_formula_here():
    assert set(registry.names("loss")) == {name for name, *_ in FORMULAS}


@pytest.mark.parametrize("case", FORMULAS, ids=str)
def test_equals_its_formula(case, scores):
    name, *settings = case
    labels = np.eye(BATCH, CANDIDATES, dtype=np.float32)
    found = loss_of(name, settings, labels, scores)
    assert found.shape == [BATCH]
    np.testing.assert_allclose(found, FORMULAS[case](scores.astype(np.float64)), rtol=1e-5)


@pytest.mark.parametrize("case", FORMULAS, ids=str)
def test_a_masked_candidate_is_as_if_it_were_not_there(case, scores):
    """The last candidate masked, against the same loss without that column."""
    name, *settings = case
    labels = np.eye(BATCH, CANDIDATES, dtype=np.float32)
    masked = np.where(np.arange(CANDIDATES) == CANDIDATES - 1, np.finfo(np.float32).min / 100, scores)
    found = loss_of(name, settings, labels, masked.astype(np.float32))
    wanted = loss_of(name, settings, labels[:, :-1], scores[:, :-1])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("case", FORMULAS, ids=str)
def test_scores_of_any_size_have_a_finite_loss_and_gradient(case):
    name, *settings = case
    huge = tf.constant([[1e4, -1e4, 0.0], [1e4, -1e4, 1e4]])
    with tf.GradientTape() as tape:
        tape.watch(huge)
        loss = losses.wrap(name, dict(settings), ITEMS)(tf.eye(2, 3), huge)
    assert np.isfinite(loss).all()
    assert np.isfinite(tape.gradient(loss, huge)).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hinge", {"margin": 0.0}),
        ("binary_cross_entropy", {"calibration": 1.5}),
        ("squared_error", {"unobserved": -1.0}),
    ],
)
def test_a_setting_out_of_range_is_named(name, settings):
    (setting,) = settings
    with pytest.raises(UserError, match=rf"retrieval\.loss\.{setting}"):
        losses.wrap(name, settings, ITEMS)(tf.eye(2), tf.eye(2))


def test_an_unknown_setting_is_named():
    with pytest.raises(UserError, match=r"unknown setting retrieval\.loss\.margin"):
        losses.wrap("softmax", {"margin": 1.0}, ITEMS)


def unit(rng, rows, dimension=6):
    vectors = rng.normal(size=(rows, dimension))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("bounded", [True, False])
def test_the_fast_softmax_is_tfrs_own_value_and_gradient(in_batch, bounded):
    """Repeated items among the candidates, a correction column, unequal weights: against the full score matrix, autodiff throughout."""
    rng, batch, extra = np.random.default_rng(3), 7, 11
    items = rng.integers(1, 9, batch + extra)
    table = tf.constant(np.concatenate([unit(rng, 9), rng.normal(size=(9, 1))], axis=1).astype(np.float32))
    queries = np.concatenate([unit(rng, batch) / 0.1, np.ones((batch, 1))], axis=1)
    queries = tf.constant(queries.astype(np.float32))
    weight = tf.constant(rng.uniform(0, 2, batch).astype(np.float32))
    own = items[:batch]
    candidates = items if in_batch else items[batch:]
    counts = tf.constant((own[:, None] == candidates).sum(axis=1).astype(np.int32))
    task = RetrievalTask(losses.wrap("softmax", {}, ITEMS), in_batch, bounded)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([queries, table])
        vectors = tf.gather(table, items)
        fast = tf.reduce_sum(weight * task(queries, vectors[:batch], vectors[batch:], counts))
        scores = tf.matmul(queries, vectors, transpose_b=True)
        again = (own[:, None] == items[None, :]) | (not in_batch and np.arange(batch + extra) < batch)
        again = again & ~np.eye(batch, batch + extra, dtype=bool)
        masked = tf.where(again, -np.inf, scores)
        plain = tf.nn.sparse_softmax_cross_entropy_with_logits(np.arange(batch), masked)
        plain = tf.reduce_sum(weight * plain)
    np.testing.assert_allclose(fast, plain, rtol=1e-5)
    for values in (queries, table):
        found, wanted = (tf.convert_to_tensor(tape.gradient(loss, values)) for loss in (fast, plain))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_fast_softmax_of_large_dot_products_stays_finite():
    queries = tf.constant([[300.0, 1.0], [-300.0, 1.0]])
    vectors = tf.constant([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
    task = RetrievalTask(losses.wrap("softmax", {}, ITEMS), in_batch=True, bounded=False)
    found = task(queries, vectors[:2], vectors[2:], tf.constant([1, 1]))
    np.testing.assert_allclose(found, [300.0, 0.0], atol=1e-3)


NEGATIVES = [
    {"name": "in_batch"},
    {"name": "mixed", "extra": 37},
    {"name": "uniform", "extra": 37},
    {"name": "popularity", "extra": 37},
    {"name": "all"},
    {"name": "memory", "size": 40},
    {"name": "hard", "depth": 3, "extra": 20},
]


@pytest.fixture
def a_batch(tiny_prepared):
    """Events, some of them twice, so that there are accidental hits."""
    events = tiny_prepared.train
    rows = np.concatenate([np.arange(0, 300, 10), [0, 0, 10]])
    weight = np.random.default_rng(0).uniform(0, 2, len(rows)).astype(np.float32)
    return events, rows, weight


def inputs_of(model, events, rows, weight):
    raw = {name: tf.constant(column[rows]) for name, column in events.context.items()}
    return {
        "user": tf.constant(events.user[rows]),
        "item": tf.constant(events.item[rows]),
        "history": tf.constant(events.item[rows - 1][:, None]),
        "weight": tf.constant(weight),
    } | {context_key(name): column for name, column in model.retriever.encode_context(raw).items()}


def scores_of(model, inputs, temperature):
    """Returns the scores of a batch, written out, and the item rows of the candidates, positives first."""
    drawn = model.sampler.draw(tf.constant([5, 0]), inputs["user"]).numpy()  # the seed, and step 0
    ids = np.concatenate([inputs["item"].numpy(), drawn])
    queries = np.asarray(model.query_tower(inputs), np.float64)
    return queries @ np.asarray(model.candidate_tower(tf.constant(ids)), np.float64).T / temperature, ids


@pytest.mark.parametrize("negatives", NEGATIVES, ids=lambda one: one["name"])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_what_training_minimises_written_out(tiny_config, tiny_prepared, a_batch, negatives, similarity):
    """Scores / temperature - log(probability), the positive's repeats among the negatives taken out, weighted mean."""
    events, rows, weight = a_batch
    chosen = {
        "retrieval.negatives": negatives,
        "retrieval.similarity": similarity,
        "retrieval.temperature": 0.3,
    }
    model = RetrievalModel(with_settings(tiny_config, chosen).retrieval, tiny_prepared, seed=5)
    inputs = inputs_of(model, events, rows, weight)
    found = float(model.compute_loss(inputs))

    logits, ids = scores_of(model, inputs, 0.3)
    logits -= np.log(model.sampler.probability(tf.constant(ids), tf.constant(len(rows))).numpy())
    batch = len(rows)
    barred = ids[:batch, None] == ids
    if not model.sampler.in_batch:
        barred |= np.arange(len(ids)) < batch
    logits[barred & ~np.eye(batch, len(ids), dtype=bool)] = -np.inf
    assert found == pytest.approx((weight * FORMULAS["softmax",](logits)).mean(), rel=1e-4)


@pytest.mark.parametrize("negatives", [NEGATIVES[1], NEGATIVES[2]], ids=lambda one: one["name"])
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_items_of_the_user_are_no_negatives_where_masked(
    tiny_config, tiny_prepared, a_batch, negatives, loss
):
    events, rows, weight = a_batch
    chosen = {
        "retrieval.negatives": negatives,
        "retrieval.loss": {"name": loss},
        "retrieval.mask_positives": True,
        "retrieval.temperature": 0.3,
    }
    model = RetrievalModel(with_settings(tiny_config, chosen).retrieval, tiny_prepared, seed=5)
    inputs = inputs_of(model, events, rows, weight)
    found = float(model.compute_loss(inputs))

    logits, ids = scores_of(model, inputs, 0.3)
    if loss == "softmax":
        logits -= np.log(model.sampler.probability(tf.constant(ids), tf.constant(len(rows))).numpy())
    wanted = []
    for row, event in enumerate(rows):
        owned = set(events.item[events.user == events.user[event]])
        others = [
            place
            for place, item in enumerate(ids)
            if item not in owned and (model.sampler.in_batch or place >= len(rows))
        ]
        values = np.concatenate([[logits[row, row]], logits[row, others]])[None, :]
        wanted.append(FORMULAS[(loss,)](values)[0])
    assert found == pytest.approx((weight * wanted).mean(), rel=1e-4)


def test_items_of_the_user_are_no_negatives_of_any_place_of_a_sequence(tiny_config, tiny_prepared):
    """Each place asked with the history before it, one by one: the negatives that the user ever had are left out."""
    events = tiny_prepared.train
    chosen = {
        "retrieval.encoder": {"name": "gru", "dropout": 0.0},
        "retrieval.negatives": {"name": "uniform", "extra": 60},
        "retrieval.mask_positives": True,
        "retrieval.temperature": 0.3,
    }
    model = RetrievalModel(with_settings(tiny_config, chosen).retrieval, tiny_prepared, seed=5)
    offsets = events.by_user(len(tiny_prepared.users)).offsets
    users = np.flatnonzero(np.diff(offsets) >= 4)[:3]
    places = np.stack(
        [offsets[users] + place for place in range(3)], axis=1
    )  # the first 3 events of 4 or more
    raw = {name: tf.constant(column[places.ravel()]) for name, column in events.context.items()}
    context = {context_key(name): column for name, column in model.retriever.encode_context(raw).items()}
    in_rows = {name: tf.reshape(column, [3, 3, column.shape[-1]]) for name, column in context.items()}
    batch = {"user": tf.constant(events.user[places[:, 0]]), "weight": tf.ones([3, 3])} | in_rows
    found = float(model.compute_loss(batch | {"sequence": tf.constant(events.item[places])}))

    asked = places[:, 1:].ravel()
    before = np.stack([events.item[places[:, 0]], events.item[places[:, 1]]], axis=1).repeat(2, axis=0)
    before[::2, 1] = 0
    inputs = {
        "user": tf.constant(events.user[asked]),
        "item": tf.constant(events.item[asked]),
        "history": tf.constant(before),
    } | {name: tf.reshape(column[:, 1:], [6, -1]) for name, column in in_rows.items()}
    logits, ids = scores_of(model, inputs, 0.3)
    logits -= np.log(model.sampler.probability(tf.constant(ids), tf.constant(6)).numpy())
    own = np.array([np.isin(ids, events.item[events.user == user]) for user in events.user[asked]])
    assert own[:, 6:].any()
    own[:, :6] = True
    logits[own & ~np.eye(6, len(ids), dtype=bool)] = -np.inf
    assert found == pytest.approx(FORMULAS["softmax",](logits).mean(), rel=1e-4)


@pytest.mark.parametrize("encoder", ["gru", "transformer", "bert"])
def test_items_of_the_user_are_left_out_where_a_batch_reads_many_that_it_does_not_ask(
    tiny_config, tiny_prepared, encoder
):
    """First events, those that BERT does not mask and padding are read and not asked: more items than there are negatives."""
    chosen = {
        "retrieval.encoder": {"name": encoder},
        "retrieval.negatives": {"name": "uniform", "extra": 2},
        "retrieval.mask_positives": True,
        "train.batch_size": 64,
    }
    ready = build_retrieval(with_settings(tiny_config, chosen), tiny_prepared)
    read = 0
    for batch in ready.batches(0).take(5):
        assert np.isfinite(ready.model.compute_loss(batch, training=True))
        read = max(read, len(np.unique(batch["sequence"])))
    assert read > 30


@pytest.mark.parametrize("weights", [(2.0, 2.0), (1.0, 3.0)])
def test_a_dislike_counts_by_its_strength(tiny_config, tiny_prepared, weights):
    """Two users ask, each dislikes one item: softplus(disliked - liked) times log2(1 + weight / mean) beside the rest of the loss."""
    events = tiny_prepared.train
    users = np.unique(events.user)[:2]
    rows = np.searchsorted(events.user, users) + 1
    disliked, strength = np.array([7, 9], np.int32), np.array(weights, np.float32)
    against = dataclasses.replace(events.take(rows), item=disliked, weight=strength)
    prepared = dataclasses.replace(tiny_prepared, negative=against)

    def loss(dislike_weight):
        chosen = {"retrieval.dislike_weight": dislike_weight, "retrieval.temperature": 0.2}
        model = RetrievalModel(with_settings(tiny_config, chosen).retrieval, prepared, seed=5)
        inputs = inputs_of(model, events, rows, np.ones(2, np.float32))
        return float(model.compute_loss(inputs)), model, inputs

    plain, model, inputs = loss(0.0)
    queries = model.query_tower(inputs).numpy()
    above = (
        queries * (model.candidate_tower(disliked) - model.candidate_tower(events.item[rows])).numpy()
    ).sum(axis=1)
    counted = np.log2(1 + strength / strength.mean()) * np.logaddexp(0, above / 0.2)
    assert loss(0.5)[0] - plain == pytest.approx(0.5 * counted.mean(), rel=1e-3)


def test_a_learned_temperature_is_trained(tiny_config, tiny_prepared, a_batch):
    chosen = with_settings(tiny_config, {"retrieval.learn_temperature": True, "retrieval.temperature": 0.2})
    model = RetrievalModel(chosen.retrieval, tiny_prepared, seed=5)
    inputs = inputs_of(model, *a_batch)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(inputs, training=True)
    gradient = float(tape.gradient(loss, model.log_temperature))

    def at(temperature):
        model.log_temperature.assign(np.log(temperature))
        model.step.assign(0)
        return float(model.compute_loss(inputs))

    slope = (at(0.2 * 1.01) - at(0.2 / 1.01)) / (2 * np.log(1.01))
    model.step.assign(0)
    assert slope != 0
    assert gradient == pytest.approx(slope, rel=0.05)
