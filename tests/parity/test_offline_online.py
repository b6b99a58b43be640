"""The same ids in the same order, with the same scores: evaluator, SavedModel, server over REST and gRPC."""

import json

import numpy as np
import pytest

from serving.client import InvalidArgument, Recommender

K = 10
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def test_saved_model_equals_the_evaluator(offline, ask):
    wanted = offline(context=False)
    found = ask(
        "recommend", user_id=wanted.users, k=[K] * len(wanted.users), exclude=[[""]] * len(wanted.users)
    )
    assert found["item_id"].tolist() == wanted.ids
    np.testing.assert_allclose(found["score"], wanted.scores, **CLOSE)


def test_saved_model_equals_the_evaluator_in_context(run, offline, ask):
    wanted = offline(context=True)
    context = {name: column.tolist() for name, column in run.prepared.test.context.items()}
    assert sorted(context) == ["device", "hour"]
    count = len(wanted.users)
    asked = {"user_id": wanted.users, "k": [K] * count, "exclude": [[""]] * count}
    found = ask("recommend_in_context", **asked, **context)
    assert found["item_id"].tolist() == wanted.ids
    np.testing.assert_allclose(found["score"], wanted.scores, **CLOSE)
    assert found["item_id"].tolist() != ask("recommend", **asked)["item_id"].tolist()  # the context has a say


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_the_server_equals_the_evaluator(offline, server, protocol):
    wanted = offline(context=False)
    with Recommender(server[protocol == "gRPC"]) as recommender:
        recommender.wait_until_ready()
        found = recommender.recommend_many(wanted.users, K)
        single = recommender.recommend(wanted.users[7], K)
    assert [[item.item_id for item in row] for row in found] == wanted.ids
    np.testing.assert_allclose([[item.score for item in row] for row in found], wanted.scores, **CLOSE)
    assert [item.item_id for item in single] == wanted.ids[7]


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_the_server_equals_the_evaluator_in_context(run, offline, server, ask, protocol):
    wanted = offline(context=True)
    context = run.prepared.test.context
    rows = zip(*(column.tolist() for column in context.values()), strict=True)
    contexts = [dict(zip(context, row, strict=True)) for row in rows]
    history = list(run.prepared.items.values[:3])
    with Recommender(server[protocol == "gRPC"]) as recommender:
        recommender.wait_until_ready()
        found = recommender.recommend_many(wanted.users, K, context=contexts)
        stranger = recommender.recommend(history=history, k=K, context={"hour": 7})
        with pytest.raises(InvalidArgument, match="'devise', and the model has only device, hour"):
            recommender.recommend(wanted.users[0], context={"devise": "phone"})
    assert [[item.item_id for item in row] for row in found] == wanted.ids
    np.testing.assert_allclose([[item.score for item in row] for row in found], wanted.scores, **CLOSE)
    asked = {"user_id": [""], "k": [K], "history": [history], "device": [""], "hour": [7.0]}
    asked |= {name: [[""]] for name in ("exclude", "allow", "category")}
    asked |= {name: [0.0] for name in ("diversity", "popularity")}
    with_context = ask("recommend_with_context", **asked)
    assert [item.item_id for item in stranger] == with_context["item_id"][0].tolist()


def test_history_is_never_recommended(run, ask):
    """For any user of the vocabulary and any depth, and what is left is the whole rest of the corpus."""
    users, items = list(run.prepared.users.values), set(run.prepared.items.values)
    count = len(users)
    found = ask("recommend", user_id=users, k=[len(items)] * count, exclude=[[""]] * count)["item_id"]
    past = ask("history", user_id=users, k=[len(items)] * count)["item_id"]
    for recommended, had in zip(found.tolist(), past.tolist(), strict=True):
        there = [item for item in recommended if item]
        assert set(there) == items - set(had)
        assert len(set(there)) == len(there)


def test_history_is_what_the_evaluator_masks(run, ask):
    prepared = run.prepared
    cases = prepared.test
    past = ask("history", user_id=prepared.users.decode(cases.user), k=[500] * len(cases))["item_id"]
    for case, row in enumerate(past.tolist()):
        start, end = cases.history.offsets[case : case + 2]
        assert [item for item in row if item] == prepared.items.decode(cases.history.items[start:end])[::-1]


def test_a_history_sent_along_does_what_the_known_one_does_for_a_stranger(run, ask):
    """`recommend_history` is the query tower without a user id: what the offline model says of user row 0."""
    import tensorflow as tf

    prepared, retriever = run.prepared, run.retrieval.retriever
    history = prepared.items.decode(prepared.train.item[:7])
    rows = tf.RaggedTensor.from_row_lengths(tf.constant(prepared.train.item[:7]), [7])
    nothing = retriever.encode_context({"device": tf.constant([""]), "hour": tf.constant([np.nan])})
    query = retriever.queries(tf.constant([0]), rows, nothing)
    np.testing.assert_allclose(ask("embed_histories", history=[history])["embedding"], query, **CLOSE)
    found = ask("recommend_history", history=[history], k=[K], exclude=[[""]])
    vectors = ask("embed_items", item_id=found["item_id"][0].tolist())["embedding"]
    np.testing.assert_allclose(found["score"][0], (vectors @ np.asarray(query)[0]), **CLOSE)
    assert not set(found["item_id"][0]) & set(history)


def test_embeddings_score_as_the_lists_do(run, ask):
    users = list(run.prepared.users.values[:5])
    found = ask("recommend", user_id=users, k=[K] * 5, exclude=[[""]] * 5)
    queries = ask("embed_users", user_id=users)["embedding"]
    for query, ids, scores in zip(queries, found["item_id"], found["score"], strict=True):
        vectors = ask("embed_items", item_id=ids.tolist())["embedding"]
        np.testing.assert_allclose(vectors @ query, scores, **CLOSE)


def test_rank_equals_the_ranking_model_offline(run, ask):
    import tensorflow as tf

    prepared = run.prepared
    user, items = prepared.users.values[3], list(prepared.items.values[:20])
    found = ask("rank", user_id=[user], item_id=[items])["score"][0]
    wanted = run.ranking.network.serve(tf.fill([20], 4), tf.range(1, 21))
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_rank_in_a_context_equals_the_ranking_model_offline(run, server, ask):
    import tensorflow as tf

    user, items = run.prepared.users.values[3], list(run.prepared.items.values[:20])
    context = {"device": tf.fill([20], "phone"), "hour": tf.fill([20], 7.0)}
    wanted = run.ranking.network.serve(tf.fill([20], 4), tf.range(1, 21), context=context)
    asked = {"history": [[""]], "device": ["phone"], "hour": [7.0]}
    found = ask("rank_with_context", user_id=[user], item_id=[items], **asked)["score"][0]
    np.testing.assert_allclose(found, wanted, **CLOSE)
    with Recommender(server[0]) as recommender:
        recommender.wait_until_ready()
        ranked = dict(recommender.rank(user, items, context={"device": "phone", "hour": 7}))
        anew = recommender.rank("nobody", items, history=items[3:6])
    np.testing.assert_allclose([ranked[item] for item in items], wanted, **CLOSE)
    assert len(anew) == 20


def test_served_verbs_equal_the_saved_model(run, server, ask):
    item, user = run.prepared.items.values[2], run.prepared.users.values[2]
    some = list(run.prepared.items.values[:5])
    with Recommender(server[0]) as recommender:
        recommender.wait_until_ready()
        alike = recommender.similar_items(item, 5)
        ranked = recommender.rank(user, some)
        titles = recommender.titles([*some, "nothing"])
        past = recommender.history(user, 3)
        vector = recommender.embed(user_id=user)
    assert [found.item_id for found in alike] == ask("similar_items", item_id=[item], k=[5])["item_id"][
        0
    ].tolist()
    scores = dict(zip(some, ask("rank", user_id=[user], item_id=[some])["score"][0].tolist(), strict=True))
    assert dict(ranked) == pytest.approx(scores, rel=1e-5)
    assert titles == [*run.prepared.titles[1:6], ""]
    assert past == ask("history", user_id=[user], k=[3])["item_id"][0].tolist()
    np.testing.assert_allclose(vector, ask("embed_users", user_id=[user])["embedding"][0], **CLOSE)


def test_every_example_of_the_manifest_is_answered_as_declared(workdir, model, ask, predict):
    """In the process and over the wire; the names, types and shapes are those that the manifest promises."""
    signatures = json.loads((workdir / "bundle" / "manifest.json").read_text())["signatures"]
    assert set(signatures) == set(model.signatures)
    for name, signature in signatures.items():
        example = signature["example"]
        assert set(example) == set(signature["inputs"]) and example, name
        here, there = ask(name, **example), predict(name, example)
        there = there if isinstance(there, dict) else {next(iter(signature["outputs"])): there}
        assert set(here) == set(there) == set(signature["outputs"]), name
        for output, promised in signature["outputs"].items():
            value = here[output]
            assert fits(value.shape, promised["shape"]), (name, output, value.shape)
            assert fits(np.array(there[output]).shape, promised["shape"]), (name, output)
            assert (value.dtype.kind == "U") == (promised["dtype"] == "string")
            if value.dtype.kind == "U":
                assert value.tolist() == there[output], name
            else:
                assert value.dtype.name == promised["dtype"]
                np.testing.assert_allclose(value, there[output], **CLOSE)


def fits(shape, promised) -> bool:
    return len(shape) == len(promised) and all(p in (-1, s) for s, p in zip(shape, promised, strict=True))


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_ten_thousand_excluded_ids_over_the_wire(offline, server, protocol):
    wanted = offline(context=False)
    many = [*(f"unknown-{n}" for n in range(9_997)), *wanted.ids[0][:3]]
    with Recommender(server[protocol == "gRPC"]) as recommender:
        recommender.wait_until_ready()
        found = recommender.recommend(wanted.users[0], 7, exclude=many)
        stranger = recommender.recommend("nobody", 1_000)
    assert [item.item_id for item in found] == wanted.ids[0][3:]
    assert len(stranger) == 300 and all(item.item_id for item in stranger)
