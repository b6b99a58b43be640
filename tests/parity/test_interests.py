"""A model with several interests a user, and a ranking model that reads histories: what is exported answers as they do offline."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from trainer.config import with_settings

pytestmark = pytest.mark.slow
LOWEST = np.finfo(np.float32).min
K, INTERESTS = 10, 3
SCANN = pytest.mark.skipif(importlib.util.find_spec("scann") is None, reason="scann is not installed")
EXACT = {"leaves": 4, "leaves_to_search": 4, "reorder": 300}  # all is searched and scored again
SETTINGS = {
    "retrieval.encoder.name": "comirec",
    "retrieval.encoder.interests": INTERESTS,
    "retrieval.factorisation": "none",
    "retrieval.user_id": False,  # it would say the same in every interest
    "ranking.history.name": "attention",
    "ranking.history.units": [8],
    "ranking.history.interests": 2,
    "ranking.prior": "none",
    "ranking.learning_rate": 0.5,
    "train.epochs": 1,
    "export.cascade.deep_weight": 0.0,  # the lists are those of the retrieval, whatever the ranking model has learned
}


@pytest.fixture(scope="module")
def several(tmp_path_factory, tiny_config):
    """The trained run."""
    from trainer import experiment
    from trainer.progress import Reporter

    home = tmp_path_factory.mktemp("interests") / "run"
    return experiment.train(with_settings(tiny_config, SETTINGS), home, Reporter())


@pytest.fixture(scope="module")
def wanted(several):
    """The evaluator's report without context, and the scores of all items `[cases, items]`."""
    from trainer.evaluation.retrieval import evaluate_retrieval
    from trainer.retrieval.inference import scorer

    prepared, model = several.prepared, scorer(several.retrieval.retriever, several.prepared)
    cases = dataclasses.replace(prepared.test, context=nothing(prepared.test.context, len(prepared.test)))
    settings = several.config.evaluate.model_copy(update={"cutoffs": (K,)})
    return evaluate_retrieval(model, cases, prepared, settings), np.array(model.scores(cases))


@pytest.fixture(scope="module", params=["brute_force", pytest.param("scann", marks=SCANN)])
def asked(request, several, wanted, asking_of, tmp_path_factory):
    """Asks the exported bundle, with either index."""
    import tensorflow as tf

    from trainer import experiment, measurement
    from trainer.settings import Part

    settings = EXACT if request.param == "scann" else {}
    export = several.config.export.model_copy(update={"index": Part(name=request.param, **settings)})
    config = several.config.model_copy(update={"export": export})
    here = dataclasses.replace(several, config=config, workdir=tmp_path_factory.mktemp(request.param))
    reports = measurement.Reports({"model": wanted[0]}, {}, {}, {})
    experiment.publish(here, reports, {}, allow_below_baseline=True)
    return asking_of(tf.saved_model.load(str(here.workdir / "bundle" / "models" / "recommender" / "1")))


def nothing(context, count):
    return {
        name: np.full(count, np.nan if column.dtype.kind == "f" else "", column.dtype)
        for name, column in context.items()
    }


def test_lists_are_merged_and_those_of_the_evaluator(several, wanted, asked, request):
    report, scores = wanted
    prepared = several.prepared
    users, count = prepared.users.decode(prepared.test.user), len(prepared.test)
    of_lists = np.take_along_axis(scores, report.lists, axis=1)
    place = {item: row for row, item in enumerate(prepared.items.values, start=1)}
    approximate = "scann" in request.node.callspec.id
    for signature in ("recommend", "retrieve"):
        found = asked(signature, user_id=users, k=[K] * count, exclude=[[""]] * count)
        rows = np.array([[place[item] for item in row] for row in found["item_id"].tolist()])
        assert all(len(set(row)) == K for row in rows.tolist())
        np.testing.assert_allclose(found["score"], of_lists, rtol=1e-4, atol=1e-5)
        if approximate:  # ScaNN's sums may order two items that score alike the other way round
            own = np.take_along_axis(scores, rows, axis=1)
            np.testing.assert_allclose(own, of_lists, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(rows, report.lists)


def test_several_interests_have_a_say_and_the_best_of_them_is_the_score(several, asked):
    prepared = several.prepared
    users, items = list(prepared.users.values[:40]), list(prepared.items.values)
    queries = asked("embed_users", user_id=users)["embedding"]
    vectors = asked("embed_items", item_id=items)["embedding"]
    assert queries.shape == (40, INTERESTS, vectors.shape[1])
    each = np.einsum("uhd,id->uhi", queries, vectors)
    found = asked("retrieve", user_id=users, k=[len(items)] * 40, exclude=[[""]] * 40)
    past = asked("history", user_id=users, k=[len(items)] * 40)["item_id"]
    chosen = []
    for row, (ids, scores) in enumerate(zip(found["item_id"], found["score"], strict=True)):
        there = ids[ids != ""].tolist()
        assert sorted(there) == sorted({*items} - {*past[row]})  # each item that is not in the history, once
        places = [items.index(item) for item in there]
        np.testing.assert_allclose(scores[: len(there)], each[row].max(axis=0)[places], rtol=1e-4, atol=1e-5)
        assert (scores[len(there) :] == LOWEST).all()
        chosen.append({*each[row].argmax(axis=0)[places[:K]].tolist()})
    assert max(map(len, chosen)) > 1, "one interest answers for all"


def test_similar_items_are_the_nearest_by_the_towers_own_similarity(several, asked):
    import tensorflow as tf

    items = list(several.prepared.items.values)
    vectors = tf.constant(asked("embed_items", item_id=items)["embedding"])
    retriever = several.retrieval.retriever
    scores = np.array(
        tf.matmul(retriever.similar(vectors), vectors, transpose_b=True) / retriever.lengths(vectors)
    )
    np.fill_diagonal(scores, LOWEST)
    found = asked("similar_items", item_id=items, k=[K] * len(items))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    np.testing.assert_allclose(
        found["score"], np.take_along_axis(scores, order, axis=1), rtol=1e-4, atol=1e-5
    )
    for item, ids in zip(items, found["item_id"], strict=True):
        assert len({*ids}) == K and item not in ids


def test_rank_with_attention_scores_as_the_evaluator_does(several, asked):
    """The evaluator's predictions of events of the test's users with other items; without histories they are others."""
    from trainer.ranking.train import predict

    prepared, test = several.prepared, several.prepared.rated_test
    users, width = test.user[:20], 30
    events = test.take(np.zeros(20 * width, int))
    events = dataclasses.replace(
        events,
        user=np.repeat(users, width),
        item=np.tile(np.arange(1, width + 1, dtype=np.int32), 20),
        context=nothing(test.context, 20 * width),
    )
    offline = predict(several.ranking, events).reshape(20, width)
    names, items = prepared.users.decode(users), list(prepared.items.values[:width])
    found = asked("rank", user_id=names, item_id=[items] * 20)["score"]
    np.testing.assert_allclose(found, offline, rtol=1e-4, atol=1e-5)
    blank = several.ranking.network.serve(events.user, events.item)
    assert np.abs(np.reshape(blank, offline.shape) - offline).max() > 1e-3, "the history has no say"
