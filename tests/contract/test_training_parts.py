"""Every encoder, loss, sampler, similarity, id embedding and start in a step of the real model: one loss, gradients, and scores."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from trainer import registry
from trainer.config import with_settings
from trainer.data.examples import Cases
from trainer.data.vocabulary import Vocabulary
from trainer.errors import UserError
from trainer.retrieval.inference import scorer
from trainer.retrieval.train import best_wrong, build_retrieval, first_of_pairs, train_retrieval, weighted

CHOICES = [
    *({"encoder": {"name": name}} for name in registry.names("encoder")),
    *({"loss": {"name": name}} for name in registry.names("loss")),
    *({"negatives": {"name": name}} for name in registry.names("negatives") if name != "memory"),
    {"negatives": {"name": "memory", "size": 64}},
    *({"embedding": {"name": name}} for name in registry.names("embedding")),
    *({"start": {"name": name}} for name in registry.names("start")),
    *({"fusion": {"name": name}} for name in registry.names("fusion")),
    *({"similarity": name} for name in ("cosine", "dot", "euclidean")),
    {"encoder": {"name": "gru"}, "loss": {"name": "bpr"}, "negatives": {"name": "uniform"}},
    {"encoder": {"name": "gru"}, "negatives": {"name": "memory", "size": 64}, "similarity": "euclidean"},
    {"encoder": {"name": "mind"}, "loss": {"name": "hinge"}, "mask_positives": True},
    {"encoder": {"name": "transformer"}, "negatives": {"name": "uniform"}, "mask_positives": True},
    {"learn_temperature": True, "l2": 0.01, "max_norm": 1.0, "dropout": 0.3, "layers": [8]},
    {"event_half_life_days": 30.0},
    {"user_id": False, "features": False, "encoder": {"name": "gru"}},
]


def names_of(choice):
    return "-".join(str(one["name"] if isinstance(one, dict) else one) for one in choice.values())


def prepared_model(config, choice, prepared):
    small = {"retrieval.negatives.extra": 32} if "negatives" not in choice else {}
    chosen = with_settings(config, small | {f"retrieval.{name}": value for name, value in choice.items()})
    return build_retrieval(chosen, prepared)


@pytest.mark.parametrize("choice", CHOICES, ids=names_of)
def test_a_step_has_a_loss_and_gradients_and_the_model_scores(tiny_config, tiny_prepared, choice):
    ready = prepared_model(tiny_config, choice, tiny_prepared)
    batch = next(iter(ready.batches(0)))
    with tf.GradientTape() as tape:
        loss = ready.model.compute_loss(batch, training=True)
    assert loss.shape == []
    assert np.isfinite(loss)
    weights = ready.model.trainable_variables
    gradients = tape.gradient(loss, weights)
    idle = [weight.name for weight, one in zip(weights, gradients, strict=True) if one is None]
    assert not idle, f"no gradient reaches {idle}"
    assert all(np.isfinite(tf.convert_to_tensor(one)).all() for one in gradients)
    ready.model.retriever.embedding.refresh()
    cases: Cases = tiny_prepared.validation.take(np.arange(5))
    retriever = ready.model.retriever
    eager = None if "encoder" in choice else retriever.queries  # a graph of each takes as long as the step
    scores = scorer(retriever, tiny_prepared, eager).scores(cases)
    assert scores.shape == (5, len(tiny_prepared.items))
    assert np.isfinite(scores).all()


def test_id_dropout_hides_its_share_of_both_sides_in_training_alone(tiny_config, tiny_prepared, monkeypatch):
    ready = prepared_model(tiny_config, {"id_dropout": 0.4}, tiny_prepared)
    model, read = ready.model, []
    embed, fuse = model.candidate_tower.embed, model.query_tower.fuse

    def embedded(rows, ids):
        read.append((rows, ids))
        return embed(rows, ids)

    def fused(inputs, encoded):
        read.append((inputs["user"], inputs.get("user_id_row", inputs["user"])))
        return fuse(inputs, encoded)

    monkeypatch.setattr(model.candidate_tower, "embed", embedded)
    monkeypatch.setattr(model.query_tower, "fuse", fused)
    batch = next(iter(ready.batches(0)))
    for training, share in ((True, 0.4), (False, 0.0)):
        read.clear()
        model.compute_loss(batch, training=training)
        assert len(read) == 2
        for rows, ids in read:
            rows, ids = np.asarray(rows), np.asarray(ids)
            hidden = (ids != rows).mean()
            assert abs(hidden - share) <= 4 * np.sqrt(share * (1 - share) / len(rows))
            assert (ids[ids != rows] == 0).all()


def test_dropout_changes_the_loss_in_training_alone(tiny_config, tiny_prepared):
    found = []
    for dropout in (0.0, 0.3):
        ready = prepared_model(tiny_config, {"dropout": dropout, "id_dropout": 0.0}, tiny_prepared)
        batch = next(iter(ready.batches(0)))
        found.append([float(ready.model.compute_loss(batch, training=flag)) for flag in (False, True)])
    (without, taught_without), (asked, taught) = found
    assert asked == without
    assert taught != pytest.approx(taught_without, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        {"encoder": {"name": "transformer"}, "negatives": {"name": "uniform"}},
        {"negatives": {"name": "hard", "depth": 5, "extra": 64}},
        {"embedding": {"name": "lightgcn", "layers": 1}},
    ],
    ids=names_of,
)
def test_a_whole_fit_learns(tiny_config, tiny_prepared, tmp_path, quiet, choice):
    settings = {f"retrieval.{name}": value for name, value in choice.items()}
    config = with_settings(tiny_config, settings | {"train.epochs": 3, "train.batch_size": 256})
    model = train_retrieval(config, tiny_prepared, tmp_path, quiet)
    log = (tmp_path / "retrieval" / "epochs.csv").read_text().splitlines()
    losses = [float(row.split(",")[log[0].split(",").index("loss")] or "nan") for row in log[2:]]
    assert losses[-1] < losses[0]
    assert int(model.step) > 0


def test_mined_negatives_are_the_highest_items_that_are_not_the_users(tiny_config, tiny_prepared):
    ready = prepared_model(tiny_config, {"negatives": {"name": "hard", "depth": 4}}, tiny_prepared)
    ready.model.compute_loss(next(iter(ready.batches(0))))
    ready.validate()
    train = tiny_prepared.train
    user = int(train.user[len(train) // 2])
    mined = set(ready.model.sampler.mined.numpy()[user].tolist())
    lists = train.by_user(len(tiny_prepared.users))
    owned = lists.items[lists.offsets[user] : lists.offsets[user + 1]]
    assert len(mined) == 4
    assert not mined & {0, *owned.tolist()}


def test_who_had_nearly_all_items_gets_uniform_rows_for_those_that_lack(make_prepared):
    """User 1 has all of the five trained items but the last; item 6 was never trained, and row 0 is none."""
    prepared = make_prepared([[1, 2, 3, 4, 6, 6], [5, 5, 5, 5]] * 200)
    prepared = replace(prepared, items=Vocabulary(prepared.items.values, 5))

    class Asked:
        def scores(self, cases):
            return np.tile(np.arange(7, dtype=np.float32), (len(cases), 1))

    users, rows = best_wrong(Asked(), prepared, 3)
    assert users.tolist() == list(range(1, 401))
    assert (rows[::2] == 5).any(axis=1).all()
    counts = np.bincount(rows[::2].ravel(), minlength=7)
    assert counts[0] == counts[6] == 0
    np.testing.assert_allclose(counts[1:5] / 400, 0.2, atol=0.06)
    assert {*rows[1::2].ravel().tolist()} == {2, 3, 4}  # the best of four


def test_a_memory_above_the_events_is_refused_by_name(tiny_config, tiny_prepared):
    with pytest.raises(UserError, match=r"retrieval\.negatives\.size=100000000"):
        prepared_model(tiny_config, {"negatives": {"name": "memory", "size": 100_000_000}}, tiny_prepared)


@pytest.mark.parametrize("ordered", [True, False])
def test_an_item_of_the_history_is_not_learned_again(make_prepared, ordered):
    """User 1 has item 1 three times and user 2 item 2 twice: in order of time the later ones weigh nothing, in sets they go."""
    prepared = replace(make_prepared([[1, 2, 1, 1, 3, 4], [2, 2, 1, 3, 4, 5]]), ordered=ordered)
    events = first_of_pairs(prepared.train, prepared)
    if ordered:
        assert events.item.tolist() == [1, 2, 1, 1, 2, 2, 1, 3]
        assert events.weight.tolist() == [1, 1, 0, 0, 1, 0, 1, 1]
    else:
        assert events.item.tolist() == [1, 2, 2, 1, 3]
        assert events.weight.tolist() == [1] * 5


@pytest.mark.parametrize("ordered", [True, False])
def test_a_pair_counts_for_the_most_that_was_done(make_prepared, ordered):
    """Looked at, then bought: what is learned is the purchase, at the moment at which it was first met."""
    prepared = replace(make_prepared([[1, 2, 1, 1, 3, 4], [2, 2, 1, 3, 4, 5]]), ordered=ordered)
    bought = prepared.train.take(np.arange(len(prepared.train)))
    weight = np.where(np.arange(len(bought)) == 2, 5, 1).astype(np.float32)
    events = first_of_pairs(replace(bought, weight=weight), prepared)
    assert events.weight.tolist() == ([5, 1, 0, 0, 1, 0, 1, 1] if ordered else [5, 1, 1, 1, 1])


def test_a_thousand_plays_are_no_thousand_tastes(tiny_prepared):
    plays = np.ones(len(tiny_prepared.train), np.float32)
    plays[0] = 10_000.0
    found = weighted(replace(tiny_prepared.train, weight=plays), None).weight
    assert found[1] > 0
    assert found[0] < 60 * found[1]


def test_older_events_weigh_half_a_half_life_later(tiny_prepared):
    made = weighted(tiny_prepared.train, 10.0)
    age = (made.timestamp.max() - made.timestamp) / 86_400
    wanted = tiny_prepared.train.weight * 0.5 ** (age / 10.0)
    np.testing.assert_allclose(made.weight / made.weight.max(), wanted / wanted.max(), rtol=1e-5, atol=1e-7)
    assert made.weight.mean() == pytest.approx(tiny_prepared.train.weight.mean(), rel=1e-4)


def test_a_half_life_of_events_without_times_is_refused(tiny_config, tiny_prepared):
    untimed = replace(tiny_prepared, timed=False)
    with pytest.raises(UserError, match=r"retrieval\.event_half_life_days .* has no times"):
        prepared_model(tiny_config, {"event_half_life_days": 30.0}, untimed)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["decay", "gru"])
def test_disliked_items_are_pushed_down(tiny_config, tiny_prepared, encoder):
    """Users 1 to 20 dislike one item: a few steps later they score it lower than without the dislike, beside the same positives."""
    train = tiny_prepared.train
    firsts = np.unique(train.user, return_index=True)[1][:20]
    item = int(np.bincount(train.item).argmax())
    against = train.take(firsts)
    against = replace(against, item=np.full_like(against.item, item), weight=np.ones_like(against.weight))
    places = []
    for negative in (against.take(np.zeros(0, int)), against):
        prepared = replace(tiny_prepared, negative=negative)
        ready = prepared_model(tiny_config, {"encoder": {"name": encoder}}, prepared)
        optimizer = tf.keras.optimizers.Adagrad(0.3)
        for batch in ready.batches(0).take(15):
            with tf.GradientTape() as tape:
                loss = ready.model.compute_loss(batch, training=True)
            weights = ready.model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        cases = tiny_prepared.validation
        scores = scorer(ready.model.retriever, prepared).scores(cases.take(np.arange(len(cases))))
        rank = (scores > scores[:, item : item + 1]).sum(axis=1)
        places.append(rank[np.isin(cases.user, against.user)].mean())
    assert places[1] > places[0] + 2


def test_positions_of_a_sequence_are_no_negatives_of_each_other(tiny_config, tiny_prepared):
    """So mixed negatives are the uniform ones it draws, corrected as those are; and in-batch ones alone are none, and refused."""
    losses = []
    for name in ("uniform", "mixed"):
        choice = {"encoder": {"name": "gru"}, "negatives": {"name": name, "extra": 32}}
        ready = prepared_model(tiny_config, choice, tiny_prepared)
        losses.append(float(ready.model.compute_loss(next(iter(ready.batches(0))))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(UserError, match=r"retrieval\.negatives\.name=in_batch"):
        prepared_model(
            tiny_config, {"encoder": {"name": "gru"}, "negatives": {"name": "in_batch"}}, tiny_prepared
        )


def test_hard_negatives_deeper_than_the_corpus_are_refused(tiny_config, tiny_prepared):
    with pytest.raises(UserError, match=r"retrieval\.negatives\.depth=100000"):
        prepared_model(tiny_config, {"negatives": {"name": "hard", "depth": 100_000}}, tiny_prepared)
