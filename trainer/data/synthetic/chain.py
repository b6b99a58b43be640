"""A world in which the last item says what comes next, and the set of all earlier ones does not.

All items stand on one ring, in an order that ids do not tell. A user's events come in runs: a run begins at an item
drawn at random, and each event of it is the next item on the ring that the user has not had, or, with probability
`noise`, a jump to any item not had yet. After each event a new run begins with probability `fresh`; the last event of
a user, which the leave-last-out split asks for, is always inside a run.

So the best reachable hit@5 is 1 - noise, and a little more: noise may land among the five. Why order matters: the
length of a run has no memory, so that the run that goes on looks like every run that has ended. Who reads the history
as a set must choose among as many ends as there are runs; who reads the order knows. All items are equally frequent,
and nobody has an item twice.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trainer.data.interactions import Dataset
from trainer.data.synthetic.plain import blocks, expected_scores, plain_dataset
from trainer.data.synthetic.world import DAY, Ints, Mask
from trainer.errors import UserError
from trainer.registry import register
from trainer.settings import Settings

MINUTE = 60


@register("source", "chain")
class Chain(Settings):
    """A next-item chain with noise. The same settings give the same bytes."""

    users: int = Field(2_000, ge=2)
    items: int = Field(800, ge=10)
    shortest: int = Field(20, ge=3)  # events of a user
    longest: int = Field(40, ge=3)
    fresh: float = Field(0.5, ge=0, lt=1)  # chance that an event begins a new run
    noise: float = Field(0.05, ge=0, le=1)  # share of random jumps inside a run
    seed: int = 42

    @model_validator(mode="after")
    def _possible(self) -> "Chain":
        if self.shortest > self.longest:
            raise UserError(
                f"data.source.shortest={self.shortest} is more than data.source.longest={self.longest}"
            )
        if 2 * self.longest > self.items:
            raise UserError(
                f"data.source.items={self.items} is too few for histories of {self.longest} distinct items: at least "
                f"{2 * self.longest}"
            )
        return self

    def load(self) -> Dataset:
        """Returns the world, with its best reachable scores on the leave-last-out split."""
        names, users = np.random.SeedSequence(self.seed).spawn(2)
        parts = [_block(self, people, rng) for people, rng in blocks(self.users, self.items, users)]
        user, item, time = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        length = np.bincount(user)
        unseen = self.items - (length - 1)
        best = expected_scores(np.ones_like(unseen), 1 - self.noise + self.noise / unseen, unseen - 1)
        ids = np.random.default_rng(names).permutation(self.items)
        return plain_dataset("chain", user, item, time, ids, best)


def _block(world: Chain, people: range, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Returns user, place on the ring and second of the events of some users."""
    length = rng.integers(world.shortest, world.longest + 1, len(people))
    opens = rng.random((len(people), world.longest)) < world.fresh
    opens[:, 0] = True
    opens[np.arange(len(people)), length - 1] = False
    jumps = opens | (rng.random(opens.shape) < world.noise)
    item = _walk(jumps, world.items, rng)
    pause = np.where(opens, int(DAY), MINUTE)
    time = np.cumsum(pause, axis=1) + rng.integers(0, 300 * int(DAY), len(people))[:, None]
    kept = np.arange(world.longest) < length[:, None]
    user = np.repeat(np.arange(people.start, people.stop), length)
    return user, item[kept], time[kept]


def _walk(jumps: Mask, items: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Returns places on the ring `[users, events]`, each new to its user: anywhere at a jump, else the next."""
    who = np.arange(len(jumps))
    had = np.zeros((len(jumps), items), bool)
    found = np.zeros(jumps.shape, np.int64)
    for step in range(jumps.shape[1]):
        jump = jumps[:, step]
        place = found[:, step - 1].copy()
        moving = who
        while len(moving):  # on to the next, or drawn again, until nobody stands where they have been
            anywhere = rng.integers(0, items, len(moving))
            place[moving] = np.where(jump[moving], anywhere, (place[moving] + 1) % items)
            moving = moving[had[moving, place[moving]]]
        had[who, place] = True
        found[:, step] = place
    return found
