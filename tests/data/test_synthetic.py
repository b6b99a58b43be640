import io

import numpy as np
import polars as pl
import pytest

from trainer import registry
from trainer.data.prepare import prepare
from trainer.data.synthetic.draws import draw
from trainer.data.synthetic.people import BLOCK, make_people, make_tastes
from trainer.data.synthetic.source import Synthetic
from trainer.data.synthetic.truth import best_reachable, chances
from trainer.data.synthetic.world import make_shelves, sequel_of
from trainer.errors import UserError
from trainer.settings import DataSettings


def bytes_of(world):
    data = Synthetic(**world).load()
    frames = (data.interactions.frame, data.users.frame, data.items.frame)
    written = []
    for frame in frames:
        file = io.BytesIO()
        frame.write_ipc(file)
        written.append(file.getvalue())
    return written


def parts(**world):
    settings = Synthetic(**world)
    seeds = np.random.SeedSequence(settings.seed).spawn(5)
    shelves = make_shelves(settings, np.random.default_rng(seeds[0]))
    tastes = make_tastes(settings, np.random.default_rng(seeds[1]))
    people, rng = next(make_people(settings, tastes, seeds[2]))
    return settings, shelves, people, draw(settings, tastes, shelves, people, rng)


@pytest.fixture(scope="module")
def world():
    return Synthetic().load()


def test_the_default_world(world):
    frame = world.interactions.frame
    assert frame.height == 60_000
    assert frame["user_id"].n_unique() == 2_000
    assert world.items.frame.height == 1_000
    assert world.users.frame.height == 2_040  # 40 of them cold
    assert not frame.select("user_id", "item_id").is_duplicated().any()
    assert frame["rating"].drop_nulls().is_in(np.arange(1, 11) / 2).all()
    assert 0.05 < frame["rating"].null_count() / frame.height < 0.15
    for column in ("segment", "age"):
        assert 0.02 < world.users.frame[column].null_count() / 2_040 < 0.09
    assert frame["device"].null_count()
    assert frame["hour"].is_between(0, 23).all()
    assert world.items.frame["title"].n_unique() == 1_000


def test_events_of_a_user_are_in_the_order_of_time(world):
    frame = world.interactions.frame
    steps = frame["timestamp"].diff().over(frame["user_id"]) if hasattr(pl.Series, "over") else None
    steps = frame.select(pl.col("timestamp").diff().over("user_id")).to_series() if steps is None else steps
    assert steps.drop_nulls().min() >= 0


def test_popularity_falls_and_some_items_come_late(world):
    counts = world.interactions.frame["item_id"].value_counts()["count"].sort(descending=True)
    assert counts[:100].sum() > 4 * counts[-300:].sum()
    first = world.interactions.frame.group_by("item_id").agg(pl.col("timestamp").min())["timestamp"]
    assert (first > np.median(world.interactions.frame["timestamp"])).any()


def test_one_seed_one_world():
    assert bytes_of({"interactions": 3_000}) == bytes_of({"interactions": 3_000})
    assert bytes_of({"interactions": 3_000}) != bytes_of({"interactions": 3_000, "seed": 7})


def test_blocks_do_not_overlap_and_do_not_lose_users(monkeypatch):
    monkeypatch.setattr("trainer.data.synthetic.people.BLOCK", 20_000)
    frame = Synthetic(interactions=30_000).load().interactions.frame
    assert frame.height == 30_000
    assert frame["user_id"].n_unique() == 1_000
    assert frame["user_id"].is_sorted()
    assert BLOCK > 20_000


@pytest.mark.parametrize("size", [1_000, 10_000, 1_000_000])
def test_any_size(size):
    data = Synthetic(interactions=size, truth_users=100).load()
    assert len(data.interactions) == size


def test_the_truth_is_a_distribution_and_drives_the_draws():
    settings, shelves, people, draws = parts(interactions=20_000, late_items=0.0)
    place = np.arange(500)
    score = chances(settings, shelves, people, draws, place)
    np.testing.assert_allclose(score.sum(1), 1, atol=1e-9)
    assert (score >= 0).all()
    # Drawn items are as likely as the truth says they are: the mean log chance is that of its own draws.
    place = np.arange(len(draws.user))[:20_000]
    rows = [
        chances(settings, shelves, people, draws, place[i : i + 1000]) for i in range(0, len(place), 1000)
    ]
    score = np.concatenate(rows)
    surprise = -np.log(score[np.arange(len(place)), draws.item[place]])
    entropy = -(score * np.log(np.maximum(score, 1e-300))).sum(1)
    assert surprise.mean() == pytest.approx(entropy.mean(), rel=0.02)


def test_no_ranking_beats_the_truth():
    settings, shelves, people, draws = parts()
    best = best_reachable(settings, shelves, people, draws)
    keys = [f"recall@{k}" for k in (1, 5, 10, 20, 50, 100)]
    assert [best[key] for key in keys] == sorted(best[key] for key in keys)
    assert 0.3 < best["recall@10"] < 0.8
    assert best["ndcg@10"] < best["recall@10"]
    popular = prepare(Synthetic().load(), DataSettings())
    counts = np.bincount(popular.train.item, minlength=len(popular.items)).astype(float)
    ranks = np.tile(counts, (len(popular.test), 1))
    ranks[popular.test.history.matrix(len(popular.items)).nonzero()] = -1
    target = popular.test.positives.items
    own = ranks[np.arange(len(target)), target][:, None]
    popularity = ((ranks >= own).sum(1) <= 10).mean()
    assert 0.04 < popularity < best["recall@10"] / 3  # there is something to learn


def test_the_irreducible_error_of_ratings_is_about_the_noise():
    settings, shelves, people, draws = parts(rating_noise=0.5)
    best = best_reachable(settings, shelves, people, draws)
    assert 0.42 < best["rmse"] < 0.56  # less where ratings are cut at five stars, more by rounding


def test_sequels_go_round_the_shelf():
    _, shelves, _, _ = parts(interactions=1_000)
    item = np.arange(len(shelves.number))
    following = sequel_of(shelves, item)
    assert sorted(following) == sorted(item)
    assert (shelves.category[following] == shelves.category).all()
    assert (shelves.era[following] == shelves.era).all()


def test_tastes_drift():
    still = parts(interactions=5_000, drift=0.0)[3].taste
    moving = parts(interactions=5_000, drift=1.0)[3].taste
    assert still.std() == pytest.approx(moving.std(), rel=0.2)
    assert np.abs(np.diff(still[:3], axis=0)).max() < 1e-6 < np.abs(np.diff(moving[:3], axis=0)).max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": 10, "items": 30, "interactions": 1_000}, "does not fit"),
        ({"sequel": 0.7, "stay": 0.7}, "together more than 1"),
        ({"items": 10, "interactions": 100, "users": 50}, "fewer than data.source.categories"),
    ],
)
def test_worlds_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        registry.build("source", "synthetic", settings, "data.source")


def test_other_shapes_of_world():
    flat = Synthetic(
        interactions=5_000, taste=0.0, zipf=0.0, sequel=0.0, stay=0.0, context=0.0, activity=0.0
    ).load()
    assert flat.best_reachable["recall@10"] < 0.15  # nothing to be known
    one = Synthetic(interactions=2_000, categories=1, eras=1).load()
    assert len(one.interactions) == 2_000
