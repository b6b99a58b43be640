"""A world of 80 users and 60 items whose ratings follow tastes, genres and habits."""

import dataclasses

import numpy as np
import polars as pl

from trainer.config import Config, from_values
from trainer.data.examples import Prepared
from trainer.data.interactions import Corpus, Dataset, Feature, Interactions, Schema
from trainer.data.prepare import prepare

USERS, ITEMS, EVENTS = 80, 60, 2_400
GENRES = np.array(["drama", "comedy", "horror"])
SCHEMA = Schema(
    user=(Feature(name="city", kind="category"),),
    item=(
        Feature(name="genres", kind="bag"),
        Feature(name="year", kind="number"),
        Feature(name="title", kind="text"),
    ),
    context=(Feature(name="device", kind="category"), Feature(name="hour", kind="number")),
    title="title",
)


def make_world(schema: Schema = SCHEMA, ratings: np.ndarray | None = None, unrated: float = 0.0) -> Prepared:
    """Returns the world; `ratings` [events] replaces its ratings, `schema` its declared features."""
    settings = from_values({"data": {"split": {"method": "random"}}}).data
    return prepare(make_dataset(schema, ratings, unrated), settings)


def make_dataset(schema: Schema = SCHEMA, ratings: np.ndarray | None = None, unrated: float = 0.0) -> Dataset:
    """Returns the world's events and tables."""
    rng = np.random.default_rng(7)
    user, item = np.divmod(rng.choice(USERS * ITEMS, EVENTS, replace=False), ITEMS)
    genre = rng.integers(0, 3, ITEMS)
    taste = rng.normal(0, 0.8, (USERS, 3))
    quality, mood = rng.normal(0, 0.5, ITEMS), rng.normal(0, 0.4, USERS)
    device = rng.integers(0, 2, EVENTS)
    truth = 3.5 + quality[item] + mood[user] + taste[user, genre[item]] + 0.5 * (device - 0.5)
    rating = np.clip(truth + rng.normal(0, 0.3, EVENTS), 0.5, 5)
    if ratings is not None:
        rating = ratings
    rating = np.where(rng.random(EVENTS) < unrated, np.nan, rating)
    users = [f"u{number:03}" for number in range(USERS)]
    items = [f"i{number:03}" for number in range(ITEMS + 3)]  # the last three have features alone
    frame = pl.DataFrame(
        {
            "user_id": np.array(users)[user],
            "item_id": np.array(items)[item],
            "timestamp": pl.Series(rng.integers(1, 10**6, EVENTS), dtype=pl.Int64),
            "rating": pl.Series(rating, dtype=pl.Float32).fill_nan(None),
            "weight": pl.Series(np.ones(EVENTS), dtype=pl.Float32),
            "device": np.array(["phone", "desk"])[device],
            "hour": pl.Series(rng.integers(0, 24, EVENTS), dtype=pl.Float32),
        }
    )
    genres = GENRES[np.r_[genre, 0, 1, 2]]
    about = pl.DataFrame(
        {
            "item_id": items,
            "genres": [[label] for label in genres],
            "year": pl.Series([None, *range(1950, 1950 + ITEMS + 2)], dtype=pl.Float32),
            "title": [f"the {label} {name}" for label, name in zip(genres, items, strict=True)],
        }
    )
    people = pl.DataFrame({"user_id": users, "city": ["oslo", "rome"] * (USERS // 2)})
    return Dataset("world", Interactions(frame), Corpus(people, "user_id"), Corpus(about, "item_id"), schema)


def quick(**ranking: object) -> Config:
    """Returns settings of a short ranking run."""
    settings = {"layers": [8], "embedding_dimension": 4, "epochs": 3, "batch_size": 256, "prior_rank": 3}
    return from_values({"ranking": settings | ranking, "retrieval": {"embedding_dimension": 4}})


def with_events(world: Prepared, **columns: np.ndarray) -> Prepared:
    """Returns the world with some columns of its training events replaced."""
    return dataclasses.replace(world, rated_train=dataclasses.replace(world.rated_train, **columns))
