"""How the synthetic world is drawn, block by block. See `synthetic.py` for what it is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from trainer.config import Settings
from trainer.data.synthetic_names import DEVICES, SEGMENTS
from trainer.errors import UserError

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BLOCK = 2_000_000  # draws held in memory at a time
DAY = 86_400.0  # seconds
STARS = np.arange(1, 11) / 2  # the ratings there are
# The share of a day's activity that lies before an hour: quiet nights, busy evenings.
ACTIVITY, HOURS = (0.0, 0.05, 0.3, 0.55, 1.0), (0.0, 7.0, 13.0, 18.0, 24.0)
DAYPARTS = len(HOURS) - 1


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


@dataclass(frozen=True)
class Tastes:
    """How segments, devices and parts of the day shift the log odds of categories and eras."""

    segment_category: Floats  # [segments, categories]
    segment_era: Floats  # [segments, eras]
    device: Floats  # [devices, categories]
    daypart: Floats  # [dayparts, categories]


@dataclass(frozen=True)
class People:
    """A block of users `[users]`."""

    first: int  # number of the first
    wanted: Ints  # events of each
    segment: Ints
    age: Floats
    device: Ints  # the favourite
    start: Floats  # [users, categories] log odds of the categories that a taste starts from
    turn: Floats  # [users, categories] and those it turns to
    drift: Floats  # radians a session
    era: Floats  # [users, eras] odds
    bias: Floats  # stars
    joined: Floats  # seconds after the beginning of the world


@dataclass(frozen=True)
class Draws:
    """A block's draws `[draws]` in each user's order; `kept` are those that became events."""

    kept: Ints  # [events] places of the draws
    user: Ints  # within the block
    session: Ints
    opens: Mask  # whether it opens a session
    item: Ints  # on the shelves
    time: Floats  # seconds after the beginning of the world
    rating: Floats  # [events]
    taste: Floats  # [sessions, categories] log odds of the user alone
    chance: Floats  # [sessions, categories] of a fresh draw
    device: Ints  # [sessions]


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


def make_tastes(world: World, rng: np.random.Generator) -> Tastes:
    """Returns what all users share."""
    return Tastes(
        rng.normal(0, 1, (len(SEGMENTS), world.categories)),
        rng.normal(0, 1, (len(SEGMENTS), world.eras)),
        rng.normal(0, world.context, (len(DEVICES), world.categories)),
        rng.normal(0, world.context, (DAYPARTS, world.categories)),
    )


def make_people(
    world: World, tastes: Tastes, seed: np.random.SeedSequence
) -> Iterator[tuple[People, np.random.Generator]]:
    """Yields the users block by block, each with the stream that its events are drawn from."""
    wanted_seed, blocks_seed = seed.spawn(2)
    wanted = _activity(world, np.random.default_rng(wanted_seed))
    block = (np.cumsum(_draws_for(wanted)) - 1) // BLOCK
    firsts = np.flatnonzero(np.diff(block, prepend=-1))
    streams = blocks_seed.spawn(len(firsts))
    for first, end, stream in zip(firsts, [*firsts[1:], len(wanted)], streams, strict=True):
        rng = np.random.default_rng(stream)
        yield _people(world, tastes, int(first), wanted[first:end], rng), rng


def draw(world: World, tastes: Tastes, shelves: Shelves, people: People, rng: np.random.Generator) -> Draws:
    """Returns a block's draws: as many as it takes, for in a small world users soon have had most of it."""
    for patience in (1, 2, 4, 8, 16):
        draws = _draw(world, tastes, shelves, people, patience, rng)
        if len(draws.kept) == people.wanted.sum():
            return draws
    raise UserError(
        f"this world has room for {len(draws.kept)} of {people.wanted.sum()} interactions: "
        "give it more items or users, or less zipf, taste or sequel"
    )


def _draw(
    world: World, tastes: Tastes, shelves: Shelves, people: People, patience: int, rng: np.random.Generator
) -> Draws:
    counts = patience * _draws_for(people.wanted)
    user = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(user))
    opens = rng.random(len(user)) < 1 / world.session_length
    opens[np.cumsum(counts) - counts] = True
    session = np.cumsum(opens) - 1
    who = user[opens]
    since = _rank(who)
    moment = _session_times(world, people, who, rng)
    device = np.where(rng.random(len(who)) < 0.7, people.device[who], rng.integers(0, len(DEVICES), len(who)))
    angle = (people.drift[who] * since)[:, None]
    taste = (np.cos(angle) * people.start[who] + np.sin(angle) * people.turn[who]).astype(np.float32)
    daypart = np.searchsorted(HOURS, moment % DAY / 3600, side="right") - 1
    odds = np.log(shelves.mass.sum(1) + 1e-12) + taste + tastes.device[device] + tastes.daypart[daypart]
    chance = _normal(np.exp(odds - odds.max(1, keepdims=True)))
    follow = rng.random(len(user))
    sequel = (follow < world.sequel) & ~opens
    fresh = opens | (follow >= world.sequel + world.stay)
    category = _pick(chance, session, rng)[_since(fresh)]
    item = _item(shelves, people, user, category, rng)
    anchor = _since(~sequel)
    item = sequel_of(shelves, item[anchor], place - anchor)
    time = _event_times(user, opens, moment, session, rng)
    kept = _kept(shelves, people.wanted, user, item, time)
    mean = rating_mean(shelves, people, taste, user[kept], session[kept], item[kept])
    rating = np.clip(
        np.round((mean + rng.normal(0, world.rating_noise, len(kept))) * 2) / 2, STARS[0], STARS[-1]
    )
    return Draws(kept, user, session, opens, item, time, rating, taste, chance, device)


def sequel_of(shelves: Shelves, item: Ints, steps: Ints | int = 1) -> Ints:
    """Returns the items so many steps further on their shelves; after the last comes the first."""
    shelf = shelves.category[item] * shelves.mass.shape[1] + shelves.era[item]
    start, size = shelves.start[shelf], shelves.size[shelf]
    found: Ints = start + (item - start + steps) % size
    return found


def rating_mean(
    shelves: Shelves, people: People, taste: Floats, user: Ints, session: Ints, item: Ints
) -> Floats:
    """Returns the stars before noise and rounding `[events]`: user, item, and the taste for its category."""
    liking = np.clip(taste[session, shelves.category[item]], -3, 3)
    stars: Floats = 3.1 + people.bias[user] + shelves.quality[item] + 0.25 * liking
    return stars


def _activity(world: World, rng: np.random.Generator) -> Ints:
    """Returns the number of events of each user `[users]`: at least 1, in all as many as asked."""
    users, items = world.sizes
    most = max(items // 3, -(-world.interactions // users))
    weight = np.exp(rng.normal(0, world.activity, users))
    low, high = 0.0, float(most) / weight.min()
    for _ in range(60):
        middle = (low + high) / 2
        small = np.clip(np.floor(middle * weight), 1, most).sum() <= world.interactions
        low, high = (middle, high) if small else (low, middle)
    wanted = np.clip(np.floor(low * weight), 1, most).astype(np.int64)
    rest = world.interactions - int(wanted.sum())
    wanted[np.flatnonzero(wanted < most)[:rest]] += 1
    return wanted


def _draws_for(wanted: Ints) -> Ints:
    """Returns how often users draw, so that enough remains when what they already had is passed over."""
    return 2 * wanted + 8


def _people(world: World, tastes: Tastes, first: int, wanted: Ints, rng: np.random.Generator) -> People:
    count = len(wanted)
    segment = rng.integers(0, len(SEGMENTS), count)

    def tilt(shared: Floats) -> Floats:
        return world.taste * (0.6 * shared[segment] + 0.8 * rng.normal(0, 1, (count, shared.shape[1])))

    return People(
        first=first,
        wanted=wanted,
        segment=segment,
        age=np.clip(rng.normal(18 + 9 * segment, 5), 12, 95).round(),
        device=rng.integers(0, len(DEVICES), count),
        start=tilt(tastes.segment_category),
        turn=tilt(tastes.segment_category),
        drift=world.drift * rng.uniform(0, 2, count),
        era=np.exp(0.6 * tilt(tastes.segment_era)),
        bias=rng.normal(0, 0.35, count),
        joined=rng.uniform(0, 0.6, count) * world.days * DAY,
    )


def _session_times(world: World, people: People, who: Ints, rng: np.random.Generator) -> Floats:
    """Returns the seconds `[sessions]`, ascending for each user, more of them when days are busy."""
    gaps = rng.exponential(1, len(who)) + 0.1
    total = np.bincount(who, gaps)
    past = np.cumsum(gaps) - (np.cumsum(total) - total)[who]
    share = past / (total[who] + 1)
    joined = people.joined[who]
    days, part = np.divmod((joined + share * (world.days * DAY - joined)) / DAY, 1)
    return (days + np.interp(part, ACTIVITY, HOURS) / 24) * DAY


def _event_times(user: Ints, opens: Mask, moment: Floats, session: Ints, rng: np.random.Generator) -> Floats:
    """Returns whole seconds `[draws]`, ascending for each user, minutes apart in a session."""
    gaps = np.where(opens, 0.0, 60 + rng.exponential(240, len(user)))
    past = np.cumsum(gaps)
    time = moment[session] + past - past[opens][session]
    apart = 1e9  # seconds between users, so that one running maximum serves all
    second: Floats = np.floor(np.maximum.accumulate(time + apart * user) - apart * user)
    return second


def _item(shelves: Shelves, people: People, user: Ints, category: Ints, rng: np.random.Generator) -> Ints:
    """Returns items `[draws]` of the categories: the era by the user's preference, then by popularity."""
    odds = np.cumsum(shelves.mass[category] * people.era[user], axis=1)
    era = (odds <= (rng.random(len(user)) * odds[:, -1])[:, None]).sum(1)
    shelf = category * shelves.mass.shape[1] + era
    ends = np.cumsum(shelves.popularity)
    mass = shelves.mass.ravel()[shelf]
    start, size = shelves.start[shelf], shelves.size[shelf]
    before = np.where(start > 0, ends[start - 1], 0.0)
    drawn = np.searchsorted(ends, before + rng.random(len(user)) * mass, side="right")
    item: Ints = np.clip(drawn, start, start + size - 1)
    return item


def _kept(shelves: Shelves, wanted: Ints, user: Ints, item: Ints, time: Floats) -> Ints:
    """Returns the draws that become events: launched, and new to the user; as many as wanted."""
    there = np.flatnonzero(shelves.launched[item] <= time)
    pair = pl.Series(user[there] * len(shelves.number) + item[there])
    found = there[pair.is_first_distinct().to_numpy()]
    over = _rank(user[found]) - wanted[user[found]]
    lacking = int(wanted.sum() - (over < 0).sum())
    # Users who run short are made up for by others' next draws.
    spare = np.flatnonzero(over >= 0)
    spare = spare[np.argsort(over[spare], kind="stable")][:lacking]
    keep = over < 0
    keep[spare] = True
    kept: Ints = found[keep]
    return kept


def _rank(groups: Ints) -> Ints:
    """Returns each row's number within its group, for sorted groups."""
    opens = np.diff(groups, prepend=-1) > 0
    rows = np.arange(len(groups))
    rank: Ints = rows - rows[opens][np.cumsum(opens) - 1]
    return rank


def _since(mark: Mask) -> Ints:
    """Returns the place of the last mark at or before each place; the first is marked."""
    place: Ints = np.maximum.accumulate(np.where(mark, np.arange(len(mark)), 0))
    return place


def _pick(chance: Floats, row: Ints, rng: np.random.Generator) -> Ints:
    """Returns a column drawn by the chances `[rows, columns]` of each row asked for."""
    ends = np.cumsum(chance, axis=1)
    ends[:, -1] = 1
    flat = (ends + np.arange(len(chance))[:, None]).ravel()
    found = np.searchsorted(flat, row + rng.random(len(row)), side="right") - row * chance.shape[1]
    column: Ints = np.clip(found, 0, chance.shape[1] - 1)
    return column


def _normal(odds: Floats) -> Floats:
    chance: Floats = odds / odds.sum(axis=1, keepdims=True)
    return chance
