"""The shape and the catalogue of the synthetic world. See `source.py` for what it is."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trainer.errors import UserError
from trainer.settings import Settings

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

DAY = 86_400.0  # seconds
STARS = np.arange(1, 11) / 2  # the ratings there are


class World(Settings):
    """The shape of the world. The same settings give the same bytes."""

    interactions: int = Field(60_000, ge=100, le=200_000_000)
    users: int | None = Field(None, ge=2)  # users with events; None: one for 30 interactions
    items: int | None = Field(None, ge=10)  # None: grows with the root of the interactions; 1,000 at 60,000
    categories: int = Field(20, ge=1, le=200)
    eras: int = Field(4, ge=1, le=20)  # spans of release years
    days: int = Field(365, ge=2, le=10_000)
    zipf: float = Field(0.8, ge=0)  # popularity falls with rank to this power
    taste: float = Field(1.8, ge=0)  # spread of the log odds of categories within a user; 0: all users alike
    drift: float = Field(0.1, ge=0)  # radians by which tastes turn from session to session, on average
    context: float = Field(0.6, ge=0)  # spread of the log odds that a device or an hour adds
    session_length: float = Field(5.0, ge=1)  # events, on average
    sequel: float = Field(0.3, ge=0, le=1)  # chance that an event is the sequel of the one before
    stay: float = Field(0.3, ge=0, le=1)  # chance that it is of the category of the one before
    activity: float = Field(0.8, ge=0)  # spread of the log of the events per user; 0: all alike
    rating_noise: float = Field(0.6, gt=0)  # stars
    unrated: float = Field(0.1, ge=0, le=1)  # share of the events without a rating
    missing: float = Field(0.05, ge=0, le=1)  # share of each feature's values that is left out
    cold_users: float = Field(0.02, ge=0)  # users with features and no event, as a share of `users`
    late_items: float = Field(0.05, ge=0, le=1)  # share of the items launched in the second half of the time
    truth_users: int = Field(2_000, ge=0)  # the best reachable score is measured on at most so many users
    seed: int = 42

    @model_validator(mode="after")
    def _possible(self) -> "World":
        users, items = self.sizes
        if not users <= self.interactions <= users * items // 4:
            raise UserError(
                f"data.source.interactions={self.interactions} does not fit {users} users and {items} items: "
                f"at least one for each user, at most a quarter of all pairs ({users * items // 4})"
            )
        if items < self.categories:
            raise UserError(
                f"data.source.items={items} is fewer than data.source.categories={self.categories}"
            )
        if self.sequel + self.stay > 1:
            raise UserError(f"data.source.sequel={self.sequel} and stay={self.stay} are together more than 1")
        return self

    @property
    def sizes(self) -> tuple[int, int]:
        """Returns the numbers of users with events and of items."""
        users = self.users or max(self.interactions // 30, 20)
        return users, self.items or max(round((self.interactions / 0.06) ** 0.5), 60)


@dataclass(frozen=True)
class Shelves:
    """The items `[items]`, by shelf: one category and one era, in the order of sequels."""

    number: Ints  # of the item's id, shuffled so that an id tells nothing
    category: Ints
    era: Ints
    start: Ints  # [categories * eras] first item of each shelf
    size: Ints  # [categories * eras]
    popularity: Floats  # sums to 1
    mass: Floats  # [categories, eras] popularity of each shelf
    launched: Floats  # seconds after the beginning of the world
    quality: Floats  # stars


def make_shelves(world: World, rng: np.random.Generator) -> Shelves:
    """Returns the catalogue."""
    count = world.sizes[1]
    shelves = world.categories * max(min(world.eras, count // world.categories), 1)
    shelf = np.sort(np.arange(count) % shelves)
    popularity = rng.permutation(np.arange(1, count + 1) ** -world.zipf)
    popularity /= popularity.sum()
    eras = shelves // world.categories  # fewer than asked where there are too few items
    category, era = shelf // eras, shelf % eras
    place = category * world.eras + era
    size = np.bincount(place, minlength=world.categories * world.eras)
    mass = np.zeros((world.categories, world.eras))
    np.add.at(mass, (category, era), popularity)
    late = rng.random(count) < world.late_items
    launched = np.where(late, rng.uniform(0.5, 1, count) * world.days * DAY, 0.0)
    number, quality = rng.permutation(count), rng.normal(0, 0.35, count)
    return Shelves(number, category, era, np.cumsum(size) - size, size, popularity, mass, launched, quality)


def sequel_of(shelves: Shelves, item: Ints, steps: Ints | int = 1) -> Ints:
    """Returns the items so many steps further on their shelves; after the last comes the first."""
    shelf = shelves.category[item] * shelves.mass.shape[1] + shelves.era[item]
    start, size = shelves.start[shelf], shelves.size[shelf]
    found: Ints = start + (item - start + steps) % size
    return found
