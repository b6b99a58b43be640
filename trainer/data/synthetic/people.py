"""The users of the synthetic world, block by block, and what their tastes share. See `source.py`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.data.synthetic.names import DEVICES, SEGMENTS
from trainer.data.synthetic.world import DAY, Floats, Ints, World

BLOCK = 2_000_000  # draws held in memory at a time
# The share of a day's activity that lies before an hour: quiet nights, busy evenings.
ACTIVITY, HOURS = (0.0, 0.05, 0.3, 0.55, 1.0), (0.0, 7.0, 13.0, 18.0, 24.0)
DAYPARTS = len(HOURS) - 1


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
    block = (np.cumsum(draws_for(wanted)) - 1) // BLOCK
    firsts = np.flatnonzero(np.diff(block, prepend=-1))
    streams = blocks_seed.spawn(len(firsts))
    for first, end, stream in zip(firsts, [*firsts[1:], len(wanted)], streams, strict=True):
        rng = np.random.default_rng(stream)
        yield _people(world, tastes, int(first), wanted[first:end], rng), rng


def draws_for(wanted: Ints) -> Ints:
    """Returns how often users draw, so that enough remains when what they already had is passed over."""
    return 2 * wanted + 8


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
