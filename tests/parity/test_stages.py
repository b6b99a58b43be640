"""The cascade where its stages have weights: what is served equals the formula; what is chosen and measured, and the files."""

import dataclasses
import json
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.settings import CascadeSettings

RETRIEVE, PRERANK, LIGHT, DEEP = 60, 20, 0.8, 1.5
LOWEST = np.finfo(np.float32).min


@pytest.fixture(scope="module")
def staged(run):
    """A served model with stages that have a say, before it is saved."""
    from trainer import registry
    from trainer.experiment import histories
    from trainer.export.serving_model import COUNTS, STRING_LISTS, STRINGS, ServingModel
    from trainer.export.signatures import traced
    from trainer.ranking.cascade import Cascade, Weights

    class Two(ServingModel):
        """Of the signatures, those that are asked: tracing all takes long."""

        @cached_property
        def signatures(self):
            lists = {"user_id": STRINGS, "k": COUNTS, "exclude": STRING_LISTS}
            return {name: traced(getattr(self, name), **lists) for name in ("recommend", "retrieve")}

    cascade = Cascade(
        run.ranking.network, CascadeSettings(retrieve=RETRIEVE, prerank=PRERANK), Weights(LIGHT, DEEP)
    )
    index = registry.build("index", "brute_force", {})
    return Two(
        run.retrieval.retriever, run.prepared, histories(run.prepared), index, cascade, run.config.export
    )


def ordered(run, user: int, rows, scores):
    """The three stages in NumPy, for one user row and retrieval's whole list."""
    network = run.ranking.network

    def unit(values):
        return (values - values.mean()) / values.std()

    head = scores[:RETRIEVE]
    scores = (scores - head.mean()) / head.std()
    for width, weight, of in (
        (RETRIEVE, LIGHT, lambda some: network.prior([np.full(len(some), user), some])),
        (
            PRERANK,
            DEEP,
            lambda some: network.serve(np.full(len(some), user, np.int32), some.astype(np.int32)),
        ),
    ):
        new = scores[:width] + weight * unit(np.asarray(of(rows[:width])))
        behind = scores[width:] + new.min() - scores[:width].min()
        order = np.argsort(-new, kind="stable")
        rows = np.concatenate([rows[:width][order], rows[width:]])
        scores = np.concatenate([new[order], behind])
    return rows, scores


@pytest.mark.parametrize("k", [5, 200])
def test_the_served_list_is_that_of_the_three_stages(run, staged, ask, k):
    import tensorflow as tf

    users = list(run.prepared.users.values[:8])
    plain = ask("retrieve", user_id=users, k=[300] * 8, exclude=[[""]] * 8)
    found = staged.signatures["recommend"](
        user_id=tf.constant(users), k=tf.constant([k] * 8), exclude=tf.constant([[""]] * 8)
    )
    place = {item: row for row, item in enumerate(run.prepared.items.values, start=1)}
    changed = 0
    for user, (ids, scores) in enumerate(zip(plain["item_id"], plain["score"], strict=True), start=1):
        there = ids != ""
        rows = np.array([place[item] for item in ids[there]])
        wanted, values = ordered(run, user, rows, scores[there].astype(np.float64))
        told = [item.decode() for item in found["item_id"].numpy()[user - 1]]
        assert told == [run.prepared.items.values[row - 1] for row in wanted[:k]]
        np.testing.assert_allclose(found["score"].numpy()[user - 1], values[:k], rtol=1e-3, atol=1e-3)
        changed += told != ids[:k].tolist()
    assert changed == 8


def test_a_wish_passes_the_stages_too(run, staged):
    import tensorflow as tf

    users = tf.constant(run.prepared.users.values[:3])
    asked = {"user_id": users, "k": tf.constant([7] * 3), "exclude": tf.constant([[""]] * 3)}
    nothing = {"history": tf.constant([[""]] * 3), "allow": tf.constant([[""]] * 3)}
    nothing |= {"category": tf.constant([[""]] * 3), "diversity": tf.zeros([3]), "popularity": tf.zeros([3])}
    plain = staged.signatures["recommend"](**asked)
    found = staged.recommend_with(**asked, **nothing)
    assert found["item_id"].numpy().tolist() == plain["item_id"].numpy().tolist()
    some = plain["item_id"][:, 2:4]
    allowed = staged.recommend_with(**asked, **nothing | {"allow": some})
    there = allowed["item_id"].numpy()
    assert [sorted(row[:2]) for row in there.tolist()] == [sorted(row) for row in some.numpy().tolist()]
    assert (there[:, 2:] == b"").all() and (allowed["score"].numpy()[:, 2:] == LOWEST).all()


def test_what_each_stage_loses_and_takes(run, staged):
    from trainer.export.cascade_choice import latencies, recalls

    told = recalls(staged.cascade, run.retrieval.retriever, run.prepared)
    taken = latencies(staged, run.prepared)
    assert told["weights"] == {"light": LIGHT, "deep": DEEP}
    stages = told["stages"]
    assert [stages[name]["passes"] for name in ("retrieve", "light", "deep")] == [RETRIEVE, PRERANK, 10]
    passed = [1.0, *(stages[name]["recall"] for name in ("retrieve", "light", "deep"))]
    lost = [stages[name]["lost"] for name in ("retrieve", "light", "deep")]
    np.testing.assert_allclose(np.diff(passed), [-part for part in lost])
    assert 1 > passed[1] >= passed[2] >= passed[3] == told["cascade"]["recall@10"]
    assert set(taken) == {"retrieve", "light", "deep"}
    assert all(spent > 0 for spent in taken.values())


def test_weights_are_chosen_on_validation_and_the_retriever_is_as_before(run):
    from trainer.export.cascade_choice import choose
    from trainer.ranking.cascade import Cascade

    retriever, export = run.retrieval.retriever, run.config.export
    before = retriever.tower_scale, list(retriever.blocks)
    cascade = Cascade(run.ranking.network, export.cascade)
    chosen = choose(retriever, cascade, run.config, run.prepared, run.workdir)
    assert chosen.light >= 0 and chosen.deep >= 0
    assert (retriever.tower_scale, list(retriever.blocks)) == before
    given = export.cascade.model_copy(update={"light_weight": 0.25, "deep_weight": -1.0})
    config = run.config.model_copy(update={"export": export.model_copy(update={"cascade": given})})
    chosen = choose(retriever, cascade, config, run.prepared, run.workdir)
    assert dataclasses.astuple(chosen) == (0.25, -1.0)
    cascade.ranker = SimpleNamespace(prior=None)
    with pytest.raises(UserError, match=r"export\.cascade\.light_weight=0\.25 needs .* ranking\.prior"):
        choose(retriever, cascade, config, run.prepared, run.workdir)
    without = choose(retriever, Cascade(None, given), config, run.prepared, run.workdir)
    assert dataclasses.astuple(without) == (0, 0)


def test_the_manifest_tells_of_the_stages(workdir):
    told = json.loads((workdir / "bundle" / "manifest.json").read_text())["cascade"]
    assert told["retrieve"] == 500 and told["prerank"] == 100
    assert set(told["weights"]) == {"light", "deep"}
    assert told["stages"]["retrieve"]["recall"] >= told["stages"]["light"]["recall"]
    assert told["milliseconds"]["retrieve"] > 0


def test_the_warm_up_file_asks_every_signature_its_example(workdir):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    home = workdir / "bundle" / "models" / "recommender" / "1" / "assets.extra"
    signatures = json.loads((home / "manifest.json").read_text())["signatures"]
    asked = {}
    for record in tf.data.TFRecordDataset(str(home / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "recommender"
        asked[request.model_spec.signature_name] = request.inputs
    assert set(asked) == set(signatures)
    for name, signature in signatures.items():
        assert set(asked[name]) == set(signature["inputs"])
        for key, value in signature["example"].items():
            sent = tf.make_ndarray(asked[name][key])
            assert sent.shape == np.array(value).shape
            assert np.array(value).astype(bytes).tolist() == sent.tolist() if sent.dtype == object else True


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_the_client_asks_for_all_of_it(run, server, ask, protocol):
    from serving.client import Recommender

    user, items = run.prepared.users.values[0], run.prepared.items.values
    with Recommender(server[protocol == "gRPC"]) as recommender:
        recommender.wait_until_ready(120)
        plain = [found.item_id for found in recommender.recommend(user, 20)]
        some = recommender.recommend(user, 5, allow=[*plain[4:6], plain[12]])
        labelled = recommender.recommend(user, 5, categories=["no such category"])
        diverse = recommender.recommend(user, 5, diversity=0.9, popularity=-0.2)
        stranger = recommender.recommend(history=[items[3]], k=5, popularity=0.5)
        candidates = recommender.retrieve(user, 20)
        users = recommender.similar_users(user, 3)
        own = recommender.recommend_many([user, "nobody"], 20, history=[[], [items[3]]])
        reasons = recommender.explain(user, plain[0])
    assert [found.item_id for found in some] == [*plain[4:6], plain[12]]
    assert [found.item_id for found in own[0]] == plain and own[1] != own[0]
    assert labelled == []
    assert len({found.item_id for found in diverse}) == len(stranger) == 5
    assert [found.item_id for found in candidates] == plain
    alike = ask("similar_users", user_id=[user], k=[3])
    assert [found.user_id for found in users] == alike["user_id"][0].tolist()
    assert reasons.path == "known"
    assert sum(reasons.parts.values()) == pytest.approx(reasons.score, rel=1e-4)
    assert {"query.id", "item.categories"} <= set(reasons.features)
    past = ask("history", user_id=[user], k=[1000])["item_id"][0].tolist()
    assert [item for item, _ in reasons.history] == past[::-1]


def test_rank_with_hands_on_the_history_and_the_context(staged, run, monkeypatch):
    import tensorflow as tf

    asked = []
    monkeypatch.setattr(
        staged.cascade,
        "deep",
        lambda request, rows: asked.append(request) or tf.zeros_like(rows, tf.float32),
    )
    users, items = list(run.prepared.users.values[:2]), list(run.prepared.items.values[:3])
    given = {"device": tf.constant(["phone", ""]), "hour": tf.constant([7.0, 8.0])}
    history = tf.constant([[items[2], items[0]], ["", ""]])
    staged.rank_with(tf.constant(users), history, tf.constant([items, items]), **given)
    assert {name: column.numpy().tolist() for name, column in asked[0].context.items()} == {
        "device": [b"phone", b""],
        "hour": [7.0, 8.0],
    }
    assert asked[0].history[0].numpy().tolist() == [3, 1]
    assert (
        asked[0].history[1].numpy().tolist() == staged.request(tf.constant(users)).history[1].numpy().tolist()
    )
