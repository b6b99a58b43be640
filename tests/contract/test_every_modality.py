"""One run over a table with every kind of feature on every side, negative feedback, and a shared text: from files to a bundle."""

import json

import numpy as np
import pytest
import tensorflow as tf

from trainer import experiment, registry
from trainer.config import with_settings
from trainer.data.interactions import FeatureKind

USERS, ITEMS, EVENTS = 40, 30, 1_500
KINDS = ("category", "number", "count", "bag", "ids", "text", "vector", "time")
WORDS = ("red", "blue", "small", "large", "shoe", "hat", "bag", "coat")


def some_features(draw, related, missing=0.2):
    """One value of every kind, each missing now and then."""
    values = {
        "category": str(draw.choice(["tv", "web"])),
        "number": float(draw.normal()),
        "count": int(draw.pareto(1.0) * 10),
        "bag": [str(word) for word in draw.choice(WORDS, 2, replace=False)],
        "ids": [str(one) for one in draw.choice(related, 3)],
        "text": " ".join(draw.choice(WORDS, 3)),
        "vector": [float(number) for number in draw.normal(size=3)],
        "time": int(1_500_000_000 + draw.integers(0, 10**8)),
    }
    return {name: None if draw.random() < missing else value for name, value in values.items()}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Files of events, users and items; each side's columns have names of their own."""
    home, draw = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    users, items = (
        [f"{side}{number}" for number in range(count)] for side, count in (("u", USERS), ("i", ITEMS))
    )

    def write(name, rows):
        (home / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def row(prefix, related):
        return {f"{prefix}_{name}": value for name, value in some_features(draw, related).items()}

    write("users.jsonl", [{"user_id": user} | row("user", users) for user in users])
    write("items.jsonl", [{"item_id": item} | row("item", items) for item in items])
    kinds = ["view", "purchase", "skip", "scroll"]
    write(
        "events.jsonl",
        [
            {
                "user_id": str(draw.choice(users)),
                "item_id": str(draw.choice(items)),
                "timestamp": 1_600_000_000 + 3_600 * number,
                "event": str(draw.choice(kinds, p=[0.5, 0.2, 0.2, 0.1])),
            }
            | row("now", items)
            for number in range(EVENTS)
        ],
    )
    return home


def declared(prefix):
    features = {f"{prefix}_{kind}": {"kind": kind} for kind in KINDS}
    features[f"{prefix}_text"] |= {"shares": "words", "ngrams": 3}
    return features


@pytest.fixture(scope="module")
def config(tables, tiny_config):
    values = {
        "data.source": {
            "name": "table",
            "path": str(tables / "events.jsonl"),
            "columns": {"behaviour": "event"},
            "context": declared("now"),
            "users": {"path": str(tables / "users.jsonl"), "features": declared("user")},
            "items": {"path": str(tables / "items.jsonl"), "features": declared("item")},
        },
        "data.behaviours": {"view": 1.0, "purchase": 3.0, "skip": -1.0, "scroll": 0.0},
        "retrieval.fusion": {"name": "gated"},
        "retrieval.factorisation": "none",
        "train.epochs": 1,
        "ranking.epochs": 1,
        "ranking.prior": "none",
        "ranking.targets": [{"name": "dear", "column": "weight", "kind": "binary", "threshold": 2.0}],
    }
    return with_settings(with_settings(tiny_config, {"data.source": {"name": "table"}}), values)


def test_every_kind_is_here():
    assert set(KINDS) == set(FeatureKind.__args__)


@pytest.mark.slow
def test_from_files_to_a_bundle(config, tmp_path):
    home = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.retrieval.blending.weigh_towers", lambda *_: (0.4, 0.1))
        experiment.run(config, home, allow_below_baseline=True)
    prepared = experiment.reopen(home, []).prepared
    model = tf.saved_model.load(str(home / "bundle" / "models" / "recommender" / "1"))
    users = list(prepared.users.values)
    asked = {"user_id": users, "k": [ITEMS] * len(users), "exclude": [[""]] * len(users)}

    def ask(signature, **more):
        function = model.signatures[signature]
        specs = function.structured_input_signature[1]
        return {
            name: tensor.numpy()
            for name, tensor in function(
                **{name: tf.constant(value, specs[name].dtype) for name, value in (asked | more).items()}
            ).items()
        }

    plain = ask("recommend")
    disliked = prepared.negative_before_test
    assert len(disliked)
    for user, item in zip(disliked.user, disliked.item, strict=True):
        if item:
            listed = plain["item_id"][users.index(prepared.users.values[user - 1])]
            assert prepared.items.values[item - 1].encode() not in listed
    nothing = {"now_category": "", "now_bag": "", "now_ids": "", "now_text": ""} | dict.fromkeys(
        ("now_number", "now_count", "now_time"), np.nan
    )
    context = {name: [value] * len(users) for name, value in nothing.items()}
    context["now_vector"] = [[np.nan] * 3] * len(users)
    blank = ask("recommend_in_context", **context)
    np.testing.assert_allclose(blank["score"], plain["score"], atol=1e-5)
    for name, value in {
        "now_vector": [5.0, -5.0, 5.0],
        "now_text": "red shoes",
        "now_count": 9_000.0,
    }.items():
        other = ask("recommend_in_context", **context | {name: [value] * len(users)})
        assert np.abs(other["score"] - blank["score"]).max() > 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("fusion", registry.names("fusion"))
def test_every_fusion_trains_on_every_modality(config, fusion, prepared):
    """The loss falls, and a weight of every part of the towers moves."""
    from trainer.retrieval.train import build_retrieval

    settings = with_settings(
        config, {"retrieval.fusion": {"name": fusion}, "retrieval.dropout": 0.0, "train.batch_size": 256}
    )
    model = build_retrieval(settings, prepared)
    model.model.compile(optimizer=tf.keras.optimizers.legacy.Adagrad(0.1))
    batch = next(iter(model.batches(0)))
    losses = []
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = model.model.compute_loss(batch, training=True)
        weights = model.model.trainable_weights
        gradients = tape.gradient(loss, weights)
        untouched = [w.name for w, g in zip(weights, gradients, strict=True) if g is None]
        assert not untouched
        model.model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.fixture(scope="module")
def prepared(config):
    from trainer.data.prepare import load_dataset, prepare

    return prepare(load_dataset(config.data), config.data)
