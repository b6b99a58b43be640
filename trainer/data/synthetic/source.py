"""A generated world whose truth is known, so that a model's figure can be read as a share of the possible.

The world, in the order in which an event comes about:

* A **user** has a taste for each category that turns slowly from one direction into another, by `drift`
  radians a session; a preference among eras; a strictness in rating; and a segment (a feature, so that cold
  users are not blank) that shares tastes.
* An **item** has a category, an era and a popularity (Zipf). Items of one category and era stand on one
  *shelf*, in an order: the next on the shelf is the item's sequel. A share of the items is launched only in
  the second half of the time.
* A **session** has a device and an hour; both shift the tastes. Within it, an event is the sequel of the
  one before with probability `sequel`, else of the same category with probability `stay`, else of a
  category drawn from the taste; the era is drawn from the user's preference, the item from the shelf by
  popularity.
* What a user has had, or what is not launched yet, is passed over. So the chance of each item to be the
  next event is known exactly, given the hidden state: no ranking of the catalogue can be better, and its
  score is reported.

Users are drawn in blocks of bounded size, each from a random stream of its own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.data.interactions import Corpus, Dataset, Feature, Interactions, Schema
from trainer.data.synthetic.draws import Draws, draw
from trainer.data.synthetic.names import DEVICES, SEGMENTS, category_names, titles
from trainer.data.synthetic.people import People, make_people, make_tastes
from trainer.data.synthetic.plain import BEGIN, numbered
from trainer.data.synthetic.truth import best_reachable
from trainer.data.synthetic.world import Shelves, World, make_shelves
from trainer.registry import register

LAST_YEAR, ERA_YEARS = 2023, 16
SCHEMA = Schema(
    user=(Feature(name="segment", kind="category"), Feature(name="age", kind="number")),
    item=(
        Feature(name="categories", kind="bag"),
        Feature(name="year", kind="number"),
        Feature(name="title", kind="text"),
    ),
    context=(Feature(name="device", kind="category"), Feature(name="hour", kind="number")),
    title="title",
)


@register("source", "synthetic")
class Synthetic(World):
    """The embedded data set: a world of any size from 1e3 to 1e8 interactions."""

    def load(self) -> Dataset:
        """Returns the world, with its best reachable score on the leave-last-out split."""
        seeds = np.random.SeedSequence(self.seed).spawn(5)
        shelves = make_shelves(self, np.random.default_rng(seeds[0]))
        tastes = make_tastes(self, np.random.default_rng(seeds[1]))
        ids = item_ids(len(shelves.number))
        events, users = [], []
        best: dict[str, float] = {}
        for people, rng in make_people(self, tastes, seeds[2]):
            draws = draw(self, tastes, shelves, people, rng)
            best = best or best_reachable(self, shelves, people, draws)
            events.append(_event_frame(self, shelves, people, draws, ids, rng))
            users.append(_user_frame(self, people.first, people.segment, people.age, rng))
        users.append(_cold_users(self, np.random.default_rng(seeds[3])))
        return Dataset(
            name="synthetic",
            interactions=Interactions(pl.concat(events)),
            users=Corpus(pl.concat(users), "user_id"),
            items=Corpus(_item_frame(self, shelves, ids, np.random.default_rng(seeds[4])), "item_id"),
            schema=SCHEMA,
            best_reachable=best,
        )


def item_ids(count: int) -> pl.Series:
    """Returns the ids of the items by number."""
    return numbered("i", np.arange(count), "item_id")


def _event_frame(
    world: World, shelves: Shelves, people: People, draws: Draws, ids: pl.Series, rng: np.random.Generator
) -> pl.DataFrame:
    kept = draws.kept
    count = len(kept)
    user = numbered("u", np.arange(people.first, people.first + len(people.wanted)), "user_id")
    second = draws.time[kept].astype(np.int64) + BEGIN
    hour = (second % 86_400) / 3_600
    return pl.DataFrame(
        {
            "user_id": user.gather(draws.user[kept]),
            "item_id": ids.gather(shelves.number[draws.item[kept]]),
            "timestamp": second,
            "rating": _sometimes(pl.Series(draws.rating, dtype=pl.Float32), world.unrated, rng),
            "weight": np.ones(count, np.float32),
            "device": _sometimes(_labels(DEVICES, draws.device[draws.session[kept]]), world.missing, rng),
            "hour": pl.Series(np.floor(hour), dtype=pl.Float32),
        }
    )


def _user_frame(
    world: World,
    first: int,
    segment: npt.NDArray[np.integer],
    age: npt.NDArray[np.floating],
    rng: np.random.Generator,
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": numbered("u", np.arange(first, first + len(segment)), "user_id"),
            "segment": _sometimes(_labels(SEGMENTS, segment), world.missing, rng),
            "age": _sometimes(pl.Series(age, dtype=pl.Float32), world.missing, rng),
        }
    )


def _cold_users(world: World, rng: np.random.Generator) -> pl.DataFrame:
    users = world.sizes[0]
    segment = rng.integers(0, len(SEGMENTS), round(users * world.cold_users))
    return _user_frame(world, users, segment, rng.normal(18 + 9 * segment, 5).round(), rng)


def _item_frame(world: World, shelves: Shelves, ids: pl.Series, rng: np.random.Generator) -> pl.DataFrame:
    count = len(ids)
    names = np.array(category_names(world.categories))
    second = np.where(rng.random(count) < 0.3, rng.integers(0, world.categories, count), shelves.category)
    pair = pl.DataFrame({"own": names[shelves.category], "second": names[second]})
    bags = pair.select(pl.concat_list("own", "second").list.unique(maintain_order=True)).to_series()
    year = LAST_YEAR - (world.eras - 1 - shelves.era) * ERA_YEARS - rng.integers(0, ERA_YEARS, count)
    frame = pl.DataFrame(
        {
            "item_id": ids.gather(shelves.number),
            "title": titles(shelves.category, rng),
            "categories": _sometimes(bags, world.missing, rng),
            "year": _sometimes(pl.Series(year, dtype=pl.Float32), world.missing, rng),
        }
    )
    return frame.sort("item_id")


def _labels(names: Sequence[str], rows: npt.NDArray[np.integer]) -> pl.Series:
    return pl.Series(names).gather(rows)


def _sometimes(column: pl.Series, missing: float, rng: np.random.Generator) -> pl.Series:
    """Returns the column with so large a share of its values left out."""
    frame = pl.DataFrame({"value": column, "there": rng.random(len(column)) >= missing})
    return frame.select(pl.when("there").then("value")).to_series()
