"""Worlds in which users draw from a few of many groups of items, and nothing else is to be known.

Groups have no order and no neighbours: every choice of groups is equally likely, all items of a group are alike. An
event is one of the user's own items not had yet, or, with probability `noise`, an item of any other group. The truth
knows the groups of each user and puts what is left of them first.
"""

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from trainer.data.interactions import Dataset
from trainer.data.synthetic.plain import blocks, expected_scores, plain_dataset
from trainer.data.synthetic.world import DAY, Ints, Mask
from trainer.errors import UserError
from trainer.registry import register
from trainer.settings import Settings


class Groups(Settings):
    """The shape of such a world. The same settings give the same bytes."""

    users: int = Field(2_000, ge=2)
    groups: int = Field(60, ge=2)
    group_items: int = Field(20, ge=2)  # items of each group
    tastes: int = Field(2, ge=1)  # groups of each user
    events: int = Field(20, ge=3)  # of each user; one fewer where noise drew an item twice
    noise: float = Field(0.05, ge=0, le=1)  # share of the events outside the user's groups
    seed: int = 42

    @model_validator(mode="after")
    def _possible(self) -> "Groups":
        if self.tastes >= self.groups:
            raise UserError(
                f"data.source.tastes={self.tastes} leaves no other of data.source.groups={self.groups}"
            )
        if self.events >= self.tastes * self.group_items:
            raise UserError(
                f"data.source.events={self.events} leaves nothing to find of {self.tastes} groups of "
                f"{self.group_items} items: fewer events, or a larger data.source.group_items"
            )
        return self

    def load(self) -> Dataset:
        """Returns the world, with its best reachable scores on the leave-last-out split."""
        names, users = np.random.SeedSequence(self.seed).spawn(2)
        width = self.groups + self.tastes * self.group_items
        parts = [draw_events(self, people, rng) for people, rng in blocks(self.users, width, users)]
        user, item, own = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        ids = np.random.default_rng(names).permutation(self.groups * self.group_items)
        start = np.random.default_rng(names.spawn(1)[0]).integers(0, 300, self.users)
        day = start[user] + np.arange(len(user)) - np.searchsorted(user, user)
        name = "two_tastes" if self.tastes > 1 else "communities"
        return plain_dataset(name, user, item, day * int(DAY), ids, _best(self, user, own))


@register("source", "two_tastes")
class TwoTastes(Groups):
    """Users with two tastes that have nothing to do with each other, and as many pairs of tastes as users.

    A single vector that is near both groups is, in few dimensions, nearer still to groups that lie between them; and
    one that stays with one group finds half. Two vectors find both.
    """


@register("source", "communities")
class Communities(Groups):
    """Users of one community each, with so few events that most pairs of a community's items share no user.

    What tells two items of a community together are paths of several steps over the graph of users and items, which
    propagation walks and ids alone have to learn from too little. Of twice as many users they learn nearly all there is.
    """

    users: int = Field(1_000, ge=2)  # an item has 2.5 events to train on
    groups: int = Field(20, ge=2)
    group_items: int = Field(40, ge=2)
    tastes: int = Field(1, ge=1)
    events: int = Field(4, ge=3)  # two of them to train on, after the split
    noise: float = Field(0.1, ge=0, le=1)


def draw_events(world: Groups, people: range, rng: np.random.Generator) -> tuple[Ints, Ints, Mask]:
    """Returns user, item and whether it is of the user's own groups, of the events of some users in their order."""
    shape, size = (len(people), world.events), world.group_items
    chosen = np.sort(
        rng.random((len(people), world.groups)).argpartition(world.tastes, axis=1)[:, : world.tastes]
    )
    place = rng.random((len(people), world.tastes * size)).argsort(axis=1)[:, : world.events]
    inside = np.take_along_axis(chosen, place // size, axis=1) * size + place % size
    other = rng.integers(0, world.groups - world.tastes, shape)
    # ascending, so that each step over one of the user's own is counted once
    for taste in range(world.tastes):
        other += other >= chosen[:, taste, None]
    own = rng.random(shape) >= world.noise
    item = np.where(own, inside, other * size + rng.integers(0, size, shape)).ravel()
    user = np.repeat(np.arange(people.start, people.stop), world.events)
    new = pl.Series(user * (world.groups * size) + item).is_first_distinct().to_numpy()
    return user[new], item[new], own.ravel()[new]


def _best(world: Groups, user: Ints, own: Mask) -> dict[str, float]:
    last = np.diff(user, append=-1) != 0
    had_own = np.bincount(user, own & ~last).astype(np.int64)
    had_other = np.bincount(user, ~own & ~last).astype(np.int64)
    mine = world.tastes * world.group_items
    others = world.groups * world.group_items - mine - had_other
    return expected_scores(mine - had_own, np.full(len(others), 1 - world.noise), others)
