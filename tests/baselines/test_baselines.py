"""One contract for every registered baseline, and each method against its textbook form on small worlds."""

import dataclasses
import sys

import numpy as np
import polars as pl
import pytest
import scipy.sparse

from trainer import registry
from trainer.baselines import ease as ease_file
from trainer.baselines.ease import Ease, solve
from trainer.baselines.fitting import choose, histories, interactions, with_validation
from trainer.baselines.item_knn import nearest
from trainer.baselines.popularity import RecentPopularity, Windowed
from trainer.baselines.rating_bias import UserItemBias, rated_events
from trainer.baselines.rating_factors import BiasFactorisation
from trainer.baselines.transitions import follow
from trainer.data.examples import Cases, Events, Lists, Prepared
from trainer.data.interactions import Corpus, Dataset, Interactions, Schema
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.evaluation.retrieval import evaluate_retrieval, measure
from trainer.settings import DataSettings, EvaluateSettings, SplitSettings

QUICK = {
    "als": {"factors": 8, "regularisation": 1.0, "alpha": 3.0, "iterations": 5},
    "bpr": {"factors": 8, "learning_rate": 0.05, "regularisation": 0.01, "iterations": 50},
}
NAMES = registry.names("baseline")
PERSONAL = [name for name in NAMES if "popularity" not in name]


def dataset(users: int = 120, items: int = 60, length: int = 12, seed: int = 0) -> Dataset:
    """Users who walk along one of two rings of items, mostly one step on; they rate by mood and item."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        half = user % 2 * (items // 2)
        place = random.integers(items // 2)
        liking = random.normal(0, 0.5)
        for step in range(length):
            place = (place + random.choice([1, 1, 1, 2])) % (items // 2)
            item = half + place
            rating = np.clip(3.5 + liking + 0.8 * np.sin(item) + random.normal(0, 0.3), 0.5, 5)
            rows.append((f"u{user}", f"i{item}", 1000 * user + step, rating, 1.0))
    frame = pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "rating", "weight"], orient="row")
    frame = frame.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    frame = frame.with_columns(pl.col("rating", "weight").cast(pl.Float32))
    users_table, items_table = (
        frame.select(pl.col(name).unique(maintain_order=True)) for name in ("user_id", "item_id")
    )
    return Dataset(
        "ring", Interactions(frame), Corpus(users_table, "user_id"), Corpus(items_table, "item_id"), Schema()
    )


@pytest.fixture(scope="module")
def ring() -> Prepared:
    return prepare(dataset(), DataSettings())


@pytest.fixture(scope="module")
def rated() -> Prepared:
    return prepare(dataset(), DataSettings(split=SplitSettings(method="random")))


@pytest.fixture(scope="module", params=NAMES)
def fitted(request, ring):
    baseline = registry.build("baseline", request.param, QUICK.get(request.param, {}))
    return request.param, baseline, baseline.fit(ring)


def test_there_is_every_baseline():
    assert {
        "popularity",
        "recent_popularity",
        "item_knn",
        "ease",
        "ease_decayed",
        "svd",
        "als",
        "bpr",
        "transitions",
        "transitions_decayed",
        "ease_transitions",
        "ease_decayed_transitions",
    } <= set(NAMES)
    assert {"global_mean", "user_item_bias", "bias_mf"} <= set(registry.names("rating_baseline"))


def test_scores_are_finite_for_everybody(fitted, ring):
    _, _, scorer = fitted
    empty = Lists(np.zeros(len(ring.test) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))
    strangers = dataclasses.replace(ring.test, user=np.zeros(len(ring.test), np.int32), history=empty)
    for cases in (ring.test, strangers, ring.test.take(np.arange(0))):
        scores = scorer.scores(cases)
        assert scores.shape == (len(cases), len(ring.items))
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()


def test_a_case_scores_alone_as_in_company(fitted, ring):
    _, _, scorer = fitted
    together = np.array(scorer.scores(ring.test.take(np.arange(6))))
    for case in range(6):
        alone = scorer.scores(ring.test.take(np.array([case])))
        np.testing.assert_allclose(alone[0], together[case], rtol=1e-3, atol=1e-5)


def test_strangers_get_a_list_from_their_history(fitted, ring):
    name, _, scorer = fitted
    if name not in PERSONAL:
        pytest.skip("one list for everybody")
    strangers = dataclasses.replace(ring.test, user=np.zeros(len(ring.test), np.int32))
    assert measure(scorer, strangers, ring, "recall@20") > 0.5


def test_everything_personal_beats_chance_and_popularity(fitted, ring):
    name, _, scorer = fitted
    if name not in PERSONAL:
        pytest.skip("this is popularity")
    popular = registry.build("baseline", "popularity", {}).fit(ring)
    assert (
        measure(scorer, ring.test, ring, "recall@20") > measure(popular, ring.test, ring, "recall@20") + 0.1
    )


def test_the_settings_chosen_make_the_same_model(fitted, ring):
    name, baseline, scorer = fitted
    chosen = {**QUICK.get(name, {}), **baseline.chosen}
    again = registry.build("baseline", name, chosen).fit(ring)
    np.testing.assert_allclose(again.scores(ring.test), scorer.scores(ring.test), rtol=1e-3, atol=1e-5)


def test_the_training_part_stays_as_it_was(fitted, ring):
    untouched = prepare(dataset(), DataSettings())
    np.testing.assert_array_equal(untouched.train.item, ring.train.item)
    np.testing.assert_array_equal(untouched.test.history.items, ring.test.history.items)


def test_recency_decides_on_the_ring(ring):
    plain, decayed = (registry.build("baseline", name, {}).fit(ring) for name in ("ease", "ease_decayed"))
    assert measure(decayed, ring.test, ring) > measure(plain, ring.test, ring)


def test_histories_weigh_the_latest_event_of_an_item():
    lists = Lists(np.array([0, 4, 4]), np.array([2, 1, 2, 0], np.int32), np.zeros(4, np.int64))
    np.testing.assert_array_equal(histories(lists, 4).toarray(), [[0, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(histories(lists, 4, half_life=1.0).toarray()[0], [0, 0.25, 0.5, 0])


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])  # dense inverse, and Woodbury's
def test_ease_is_the_closed_form_of_its_paper(shape):
    known = (np.random.default_rng(0).random(shape) < 0.2).astype(np.float32)
    known[:, 0] = 0
    inverse = np.linalg.inv(known.T @ known + 7 * np.eye(shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    offsets = np.arange(shape[0] + 1) * 3
    items = np.random.default_rng(1).integers(1, shape[1], 3 * shape[0]).astype(np.int32)
    lists = Lists(offsets, items, np.zeros(len(items), np.int64))

    class Case:
        history = lists

        def __len__(self):
            return shape[0]

    found = solve(scipy.sparse.csr_matrix(known), 7.0).with_half_life(2.0).scores(Case())
    wanted = histories(lists, shape[1], 2.0).toarray() @ weights
    np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], atol=1e-5)


def test_ease_inverts_more_than_one_block():
    random = np.random.default_rng(0)
    known = scipy.sparse.csr_matrix((random.random((1500, 1300)) < 0.01).astype(np.float32))
    gram = (known.T @ known).toarray()
    inverse = ease_file._inverse(gram.copy(), 5.0)
    np.testing.assert_allclose((gram + 5 * np.eye(1300, dtype=np.float32)) @ inverse, np.eye(1300), atol=1e-4)


def test_ease_that_would_not_fit_says_so(monkeypatch, ring):
    monkeypatch.setattr(ease_file, "LIMIT", 20)
    with pytest.raises(UserError, match=r"ease would invert a dense 61 x 61 matrix: .* GB"):
        Ease().fit(ring)


def test_a_missing_library_is_a_line(monkeypatch, ring):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(UserError, match="needs the library implicit"):
        registry.build("baseline", "als", {}).fit(ring)


def test_nearest_items_are_those_of_the_cosine_matrix():
    known = (np.random.default_rng(0).random((50, 20)) < 0.3).astype(np.float32)
    length = np.sqrt(known.sum(axis=0))
    cosine = known.T @ known / (np.outer(length, length) + 2)
    np.fill_diagonal(cosine, 0)
    found, similar = nearest(scipy.sparse.csr_matrix(known), 5, 2.0)
    np.testing.assert_allclose(similar, -np.sort(-cosine, axis=1)[:, :5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosine, found.astype(int), 1), similar, rtol=1e-5)


def test_transitions_count_what_follows_within_three():
    items = np.array([1, 2, 3, 4, 1], np.int32)
    ones = np.ones(5, np.float32)
    train = Events(np.array([1, 1, 1, 1, 2], np.int32), items, np.arange(5), ones, ones)
    sums = 1 + 0.7 + 0.49
    np.testing.assert_allclose(
        follow(train, 5).toarray()[1], np.array([0, 0, 1, 0.7, 0.49]) / np.sqrt(sums), rtol=1e-5
    )


def test_windowed_counts_are_those_of_each_window_alone(make_events, make_lists):
    random = np.random.default_rng(0)
    train = dataclasses.replace(
        make_events(random.integers(1, 9, (20, 10)).tolist()), timestamp=random.integers(0, 100, 200)
    )
    moments = random.integers(0, 120, 30)
    cases = Cases(np.ones(30, np.int32), make_lists([[]] * 30), make_lists([[]] * 30), moments)
    for window in (0.0, 3.0, 1000.0):
        found = Windowed(train, 9, window).scores(cases)
        for moment, scores in zip(moments, found, strict=True):
            inside = (train.timestamp >= moment - window) & (train.timestamp < moment)
            np.testing.assert_array_equal(np.floor(scores), np.bincount(train.item[inside], minlength=9))


def test_recent_popularity_sees_no_future(ring):
    scorer = RecentPopularity(window_days=1e6).fit(ring)
    first = dataclasses.replace(ring.test, timestamp=np.full(len(ring.test), -1))
    assert scorer.scores(first).max() < 1  # nothing but the tie-break
    assert scorer.scores(ring.test).max() > 1


def test_the_first_setting_stands_without_validation(ring):
    alone = dataclasses.replace(ring, validation=ring.validation.take(np.arange(0)))
    tried = []

    def make(setting):
        tried.append(setting)
        return registry.build("baseline", "popularity", {}).fit(ring)

    assert choose([3, 1, 2], make, alone)[0] == 3
    assert tried == [3]


def test_the_last_fit_holds_the_validation_events(ring):
    again = with_validation(ring)
    assert len(again.train) == len(ring.train) + len(ring.validation.positives.items)
    assert len(again.rated_train) == len(ring.rated_train) + len(ring.rated_validation)
    assert (np.diff(again.rated_train.user) >= 0).all()
    assert interactions(again).nnz == len(again.train)


def test_biases_and_factors_beat_the_mean(rated):
    errors = {}
    for name in ("global_mean", "user_item_bias", "bias_mf"):
        model = registry.build("rating_baseline", name, {}).fit(rated)
        predicted = model.predict(rated.rated_test)
        assert predicted.dtype == np.float32 and np.isfinite(predicted).all()
        errors[name] = float(np.sqrt(np.square(predicted - rated.rated_test.rating).mean()))
    assert errors["user_item_bias"] < 0.7 * errors["global_mean"]
    assert errors["bias_mf"] < 0.7 * errors["global_mean"]


def test_biases_solve_their_least_squares(rated):
    model = UserItemBias(regularisation=3.0).fit(rated)
    events = rated_events(rated.rated_train)
    left = events.rating - model.predict(events)
    for user in (1, 5):
        own = events.user == user
        assert left[own].sum() == pytest.approx(3.0 * model.user[user], abs=1e-2)


def test_unknown_users_and_items_get_the_mean(rated):
    event = rated.rated_test.take(np.array([0]))
    stranger = dataclasses.replace(event, user=np.zeros(1, np.int32), item=np.zeros(1, np.int32))
    for model in (UserItemBias().fit(rated), BiasFactorisation(factors=4, regularisation=0.1).fit(rated)):
        assert model.predict(stranger)[0] == pytest.approx(rated.rated_train.rating.mean(), abs=1e-4)


def test_ratings_that_are_not_there_are_a_line(rated):
    none = dataclasses.replace(
        rated,
        rated_train=dataclasses.replace(rated.rated_train, rating=np.full(len(rated.rated_train), np.nan)),
    )
    with pytest.raises(UserError, match="no training event carries a rating"):
        UserItemBias().fit(none)


def test_popularity_raises_the_alarm_of_one_list(ring):
    scorer = registry.build("baseline", "popularity", {}).fit(ring)
    report = evaluate_retrieval(scorer, ring.test, ring, EvaluateSettings(bootstrap=0))
    assert any("one list for everybody" in line for line in report.alarms)
