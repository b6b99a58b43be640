import dataclasses

import numpy as np
import polars as pl
import pytest
from ranking_world import make_dataset, make_world, quick, with_events

from trainer.baselines.rating_bias import UserItemBias
from trainer.config import from_values
from trainer.data.examples import Prepared
from trainer.data.interactions import Corpus, Dataset, Interactions, Schema
from trainer.data.prepare import prepare
from trainer.progress import Reporter
from trainer.ranking import rating_prior
from trainer.ranking.model import Prior
from trainer.ranking.rating_features import bumps, indicators, side_features
from trainer.ranking.targets import Start
from trainer.ranking.variational import Belief, Posterior, Ratings, Side, Sums, leave_one_out, posterior
from trainer.settings import RankingSettings, Target

SETTINGS = RankingSettings(prior_rank=3, prior_sweeps=12)


def ratings(rows: list[tuple[int, int, float, float]]) -> Ratings:
    user, item, value, weight = (np.array(column) for column in zip(*rows, strict=True))
    return Ratings(
        user.astype(np.int32), item.astype(np.int32), value.astype(np.float32), weight.astype(np.float32)
    )


def fitted(world: Prepared, reporter: Reporter, settings: RankingSettings = SETTINGS) -> Prior:
    prior = rating_prior.fit(world, settings, world.rated_train, reporter)
    assert prior is not None
    return prior


def rmse(predicted: np.ndarray, actual: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean((predicted - actual) ** 2)))


def test_posterior_equals_the_hand_worked_one() -> None:
    # One user; items (bias, factor) (.5, 1), (-.5, 2), covariances diag(.1, .2) and [[.1, .05], [.05, .3]].
    items = Side(
        np.array([[0.5, 1], [-0.5, 2]], np.float32), np.array([[0.1, 0, 0.2], [0.1, 0.05, 0.3]], np.float32)
    )
    sums = Sums.of(np.array([0, 0]), np.array([0, 1]), ratings([(0, 0, 2.0, 1.0), (0, 1, 1.0, 1.0)]), (1, 2))
    found = posterior(
        sums, items, Belief(np.array([[0.2, 0.4]], np.float32), np.array([0.5, 0.25])), noise=0.5
    )
    # E[d d'] summed: [[2, 3], [3, (1 + .2) + (4 + .3)]]; over the noise, and 1/variance on the diagonal.
    precision = np.array([[2 / 0.5 + 2, 3 / 0.5], [3 / 0.5, 5.5 / 0.5 + 4]])
    # d * (rating - bias), less Cov(bias, factor): (1.5 + 1.5, 1 * 1.5 + 2 * 1.5 - .05).
    pull = np.array([3.0, 4.45]) / 0.5 + np.array([0.2 / 0.5, 0.4 / 0.25])
    spread = np.linalg.inv(precision)
    np.testing.assert_allclose(found.mean[0], spread @ pull, rtol=1e-5)
    np.testing.assert_allclose(found.covariance[0], spread[[0, 0, 1], [0, 1, 1]], rtol=1e-5)


def test_a_row_without_ratings_keeps_its_belief() -> None:
    items = Side(np.array([[0.5, 1]], np.float32), np.zeros((1, 3), np.float32))
    sums = Sums.of(np.array([0]), np.array([0]), ratings([(0, 0, 2.0, 1.0)]), (2, 1))
    found = posterior(
        sums, items, Belief(np.array([[0, 0], [0.3, -1]], np.float32), np.array([0.5, 0.25])), 0.5
    )
    np.testing.assert_allclose(found.mean[1], [0.3, -1], rtol=1e-6)
    np.testing.assert_allclose(found.covariance[1], [0.5, 0, 0.25], rtol=1e-6)


def test_leave_one_out_equals_leaving_one_out() -> None:
    rng = np.random.default_rng(0)
    items = Side(
        rng.normal(0, 1, (6, 3)).astype(np.float32), np.zeros((6, 6), np.float32)
    )  # known for certain
    all_rows = [(0, i, float(rng.normal()), 1.0 + i % 2) for i in range(6)]
    belief = Belief(np.zeros((1, 3), np.float32), np.array([0.5, 0.4, 0.3]))

    def user(rows: list[tuple[int, int, float, float]]) -> Side:
        some = ratings(rows)
        return posterior(Sums.of(some.user, some.item, some, (1, 6)), items, belief, 0.5)

    errors = leave_one_out(Posterior(user(all_rows), items, 0.5), ratings(all_rows))
    for left_out, row in enumerate(all_rows):
        without = user([other for number, other in enumerate(all_rows) if number != left_out])
        predicted = items.mean[row[1], 0] + without.mean[0] @ items.design[row[1]]
        assert errors[left_out] == pytest.approx(row[2] - predicted, abs=1e-4)


def test_weight_two_equals_the_rating_twice() -> None:
    items = Side(np.array([[0.5, 1], [0.1, 2]], np.float32), np.full((2, 3), 0.1, np.float32))
    belief = Belief(np.zeros((1, 2), np.float32), np.ones(2))
    twice = ratings([(0, 1, 1.5, 1.0), (0, 1, 1.5, 1.0), (0, 0, 1.0, 1.0)])
    heavy = ratings([(0, 1, 1.5, 2.0), (0, 0, 1.0, 1.0)])
    found = [posterior(Sums.of(r.user, r.item, r, (1, 2)), items, belief, 0.7) for r in (twice, heavy)]
    np.testing.assert_allclose(found[0].mean, found[1].mean, rtol=1e-5)
    np.testing.assert_allclose(found[0].covariance, found[1].covariance, rtol=1e-5)


def test_beats_the_bias_baseline_and_says_how_well(world: Prepared, reporter: Reporter) -> None:
    prior, test = fitted(world, reporter), world.rated_test
    error = rmse(prior.predict(test.user, test.item), test.rating)
    assert error < 0.75 * rmse(UserItemBias().fit(world).predict(test), test.rating)
    # Leave-one-out tells the error on unseen ratings; the fit's own residuals would promise less.
    assert rmse(prior.train, world.rated_train.rating) == pytest.approx(error, rel=0.1)
    assert fitted(world, reporter).train.tobytes() == prior.train.tobytes()


def test_shuffled_ratings_teach_nothing(world: Prepared, reporter: Reporter) -> None:
    train, test = world.rated_train, world.rated_test
    shuffled = with_events(world, rating=np.random.default_rng(0).permutation(train.rating))
    error = rmse(fitted(shuffled, reporter).predict(test.user, test.item), test.rating)
    assert error > 0.98 * rmse(train.rating.mean(), test.rating)


def test_features_speak_for_items_without_ratings(world: Prepared, reporter: Reporter) -> None:
    prior = fitted(world, reporter)
    cold = np.arange(world.items.trained + 1, len(world.items))
    assert len(cold) == 3
    genres = [world.item_features["genres"][row][0] for row in cold]
    likes = prior.user[1:] @ prior.item[cold].T  # a cold item is liked by those who like its genre
    for column, genre in enumerate(genres):
        rows = [r for r in range(1, world.items.trained + 1) if world.item_features["genres"][r][0] == genre]
        others = [r for r in range(1, world.items.trained + 1) if r not in rows]
        own, other = (prior.user[1:] @ prior.item[some].mean(axis=0) for some in (rows, others))
        assert np.corrcoef(likes[:, column], own - other)[0, 1] > 0.3


def test_the_unit_of_ratings_does_not_matter(world: Prepared, reporter: Reporter) -> None:
    test = world.rated_test
    stretched = with_events(world, rating=world.rated_train.rating * 40 - 7)
    plain = fitted(world, reporter).predict(test.user, test.item)
    assert fitted(stretched, reporter).predict(test.user, test.item) == pytest.approx(plain * 40 - 7, abs=0.2)


def test_no_declared_features_and_missing_ratings(reporter: Reporter) -> None:
    bare = make_world(schema=Schema(), unrated=0.3)
    prior, test = fitted(bare, reporter), bare.rated_test
    assert np.isfinite(prior.train).all() and len(prior.train) == len(bare.rated_train)
    bias = UserItemBias().fit(bare).predict(test)
    assert rmse(prior.predict(test.user, test.item), test.rating) < rmse(bias, test.rating)


@pytest.mark.parametrize(
    "rows", [[("a", "x"), ("b", "y"), ("a", "y")], [("a", "x"), ("a", "x"), ("b", "x"), ("b", "y")]]
)
@pytest.mark.parametrize("constant", [True, False])
def test_next_to_nothing_is_enough(rows: list[tuple[str, str]], constant: bool, reporter: Reporter) -> None:
    count = 2 * len(rows)
    frame = pl.DataFrame(
        {
            "user_id": [row[0] for row in rows] * 2,
            "item_id": [row[1] for row in rows] * 2,
            "timestamp": pl.Series([None] * count, dtype=pl.Int64),
            "rating": pl.Series([3.0] * count if constant else np.arange(count), dtype=pl.Float32),
            "weight": pl.Series([1.0] * count, dtype=pl.Float32),
        }
    )
    empty = [
        Corpus(pl.DataFrame({name: []}, schema={name: pl.String}), name) for name in ("user_id", "item_id")
    ]
    dataset = Dataset("tiny", Interactions(frame), *empty, Schema())
    settings = quick().data.model_copy(
        update={"split": quick().data.split.model_copy(update={"method": "random"})}
    )
    prepared = prepare(dataset, settings)
    prior = fitted(prepared, reporter, RankingSettings())
    for table in (prior.user, prior.item, prior.item_bias, prior.train):
        assert np.isfinite(table).all()
    if constant:
        assert prior.predict(np.array([0, 1]), np.array([1, 0])) == pytest.approx(3.0)


def test_the_source_is_a_rating_or_the_first_target_with_a_say(world: Prepared) -> None:
    events = world.rated_train
    unrated = dataclasses.replace(events, rating=np.full(len(events), np.nan, np.float32))
    rating, constant = Target(), Target(name="minutes", column="weight")
    late = Target(name="late", column="hour", kind="binary", threshold=12)
    hour, silent = Target(name="hour", column="hour"), Target(name="silent", column="hour", score_weight=0)
    assert rating_prior.source([late, rating], events) == rating
    assert rating_prior.source([late, rating], unrated) == late
    assert rating_prior.source([rating, silent, constant, hour, late], unrated) == hour
    assert rating_prior.source([rating, silent, constant], unrated) is None


def test_labels_of_0_and_1_have_a_prior(reporter: Reporter) -> None:
    """Items of odd number are liked by nine in ten, the others by one; two of three events carry no label."""
    dataset = make_dataset()
    odd = pl.col("item_id").str.slice(1).cast(pl.Int32) % 2
    chance = np.random.default_rng(3).random(len(dataset.interactions.frame))
    frame = dataset.interactions.frame.with_columns(
        rating=pl.lit(None, pl.Float32),
        hour=pl.when(pl.int_range(pl.len()) % 3 < 2)
        .then((pl.Series(chance) < 0.1 + 0.8 * odd).cast(pl.Float32))
        .otherwise(None),
    )
    data = from_values({"data": {"split": {"method": "random"}}}).data
    prepared = prepare(dataclasses.replace(dataset, interactions=Interactions(frame)), data)
    targets = [
        Target(name="liked", column="hour", kind="binary"),
        Target(name="same", column="hour", score_weight=0),
    ]
    prior = rating_prior.fit(
        prepared, RankingSettings(targets=targets, prior_rank=2), prepared.rated_train, reporter
    )
    assert prior is not None and prior.column is None
    items = np.arange(1, prepared.items.trained + 1, dtype=np.int32)
    found = prior.predict(np.zeros_like(items), items)
    is_odd = np.array([int(name[1:]) % 2 for name in prepared.items.decode(items)]) == 1
    assert found[is_odd].mean() == pytest.approx(0.9, abs=0.1)
    assert found[~is_odd].mean() == pytest.approx(0.1, abs=0.1)
    liked, same = (Start.of(target, prepared.rated_train, prior.train, prior.column) for target in targets)
    chances = 1 / (1 + np.exp(-(liked.offset + liked.slope * found)))
    assert chances[is_odd].mean() == pytest.approx(0.9, abs=0.1)
    assert chances[~is_odd].mean() == pytest.approx(0.1, abs=0.1)
    assert same.slope == 0


def test_a_number_starts_at_its_own_prior(world: Prepared, reporter: Reporter) -> None:
    events = dataclasses.replace(
        world.rated_train, rating=np.full(len(world.rated_train), np.nan, np.float32)
    )
    target = Target(name="hour", column="hour")
    prior = rating_prior.fit(world, RankingSettings(targets=[target], prior_rank=2), events, reporter)
    assert prior is not None and prior.column == "hour"
    assert prior.mean == pytest.approx(events.context["hour"].mean(), rel=1e-5)
    start = Start.of(target, events, prior.train, prior.column)
    assert (start.offset, start.slope) == (0, 1)


def test_side_columns_are_standardised_and_finite(world: Prepared) -> None:
    for columns, trained in zip(
        side_features(world, world.rated_train), (world.users.trained, world.items.trained), strict=True
    ):
        assert np.isfinite(columns).all()
        assert (columns[:, 0] == 1).all()
        np.testing.assert_allclose(columns[1 : trained + 1, 1:].mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(columns[1 : trained + 1, 1:].std(axis=0), 1, atol=1e-3)


def test_indicators_of_labels() -> None:
    values = np.array(
        ["", "a|b", "b", "", "c"], dtype=object
    )  # rows 1 to 3 are trained; c stands for nothing
    found = indicators(values, bags=True, trained=3)
    np.testing.assert_allclose(found, [[1, 0.5, 1], [1, 1, 0], [1, 0, 0], [1, 0.5, 1], [0, 0, 0]])


def test_bumps_of_numbers() -> None:
    found = bumps(np.array([np.nan, 1.0, 2.0, 3.0, 99.0, np.nan]), trained=3)
    np.testing.assert_allclose(found[:, 0], [0, -1, 0, 1, 1, 0])
    np.testing.assert_allclose(found[:, -1], [1, 0, 0, 0, 0, 1])
    np.testing.assert_allclose(found[0], found[5])
    assert bumps(np.full(4, np.nan), trained=3).shape == (4, 0)
