"""How the events of the synthetic world come about, for a block of users. See `source.py`."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from trainer.data.synthetic.names import DEVICES
from trainer.data.synthetic.people import ACTIVITY, HOURS, People, Tastes, draws_for
from trainer.data.synthetic.world import DAY, STARS, Floats, Ints, Mask, Shelves, World, sequel_of
from trainer.errors import UserError


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
    counts = patience * draws_for(people.wanted)
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


def rating_mean(
    shelves: Shelves, people: People, taste: Floats, user: Ints, session: Ints, item: Ints
) -> Floats:
    """Returns the stars before noise and rounding `[events]`: user, item, and the taste for its category."""
    liking = np.clip(taste[session, shelves.category[item]], -3, 3)
    stars: Floats = 3.1 + people.bias[user] + shelves.quality[item] + 0.25 * liking
    return stars


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
