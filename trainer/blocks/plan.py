"""What the search over the blocks' settings tries: steps, each a few settings of a family, in an order that finds most of the gain early.

Families of taste (ridge, spectral) are tuned alone first, then all together, what follows the last items among them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from trainer.blocks.factorisation import BlockSettings, Ease, Spectral, Successors, Transitions

Choice = tuple[BlockSettings, ...]
INF = float("inf")
HALF_LIVES = (INF, 50.0, 20.0, 8.0, 5.0, 3.0, 2.0, 1.0)
SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.5)
L2 = (10.0, 25.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)
PENALTIES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
START: Choice = (Ease(), Transitions(), Spectral(), Successors())
EASE, TRANSITIONS, SPECTRAL, SUCCESSORS = range(4)  # places in a choice


@dataclass(frozen=True)
class Step:
    """Settings, each of a family, that are tried together. A grid of one setting is a line, and is climbed from where it stands."""

    names: tuple[tuple[int, str], ...]
    grid: tuple[tuple[Any, ...], ...]

    def applies(self, choice: Choice) -> bool:
        """Returns whether it would change anything: a block of no weight has no settings that matter."""
        return any(name == "scale" or choice[family].scale for family, name in self.names)

    def unordered(self) -> "Step":
        """Returns the step without half-lives, for events whose order means nothing."""
        places = [place for place, (_, name) in enumerate(self.names) if name == "half_life"]
        kept = tuple(values for values in self.grid if all(values[place] == INF for place in places))
        return dataclasses.replace(self, grid=kept)


@dataclass(frozen=True)
class Plan:
    """Steps of the search: `alone`, of one family each without the others, then `together`.

    `rare` is another way to the spectral block alone, taken where it ends clearly higher.
    """

    alone: dict[int, tuple[Step, ...]]
    together: tuple[Step, ...]
    rare: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(self.together) + len(self.rare) + sum(map(len, self.alone.values()))


def _line(family: int, name: str, values: Sequence[float]) -> Step:
    return Step(((family, name),), tuple((value,) for value in values))


def _grid(family: int, **values: Sequence[Any]) -> Step:
    return Step(tuple((family, name) for name in values), tuple(product(*values.values())))


EASE_ALONE = (
    _line(EASE, "half_life", HALF_LIVES),
    _line(EASE, "l2", L2),
    _line(EASE, "user_power", (0.0, 0.25, 0.5)),
    _line(EASE, "popularity", (0.0, 0.15, 0.3, 0.45)),
)
SPECTRAL_ALONE = (
    _line(SPECTRAL, "half_life", HALF_LIVES),
    _grid(SPECTRAL, damping=(0.3, 0.4, 0.5), penalty=(0.0, 0.3, 3.0)),
    _line(SPECTRAL, "rank", (64, 128, 256, 512)),
    _line(SPECTRAL, "penalty", PENALTIES),
    _line(SPECTRAL, "user_power", (0.0, 0.25, 0.5)),
    _line(SPECTRAL, "damping", (0.1, 0.2, 0.3, 0.4, 0.5)),
    _line(SPECTRAL, "rank", (64, 128, 256, 512, 1024)),  # the costly one last
    _line(SPECTRAL, "penalty", PENALTIES),
    _line(SPECTRAL, "popularity", (-0.1, -0.05, 0.0, 0.05, 0.1)),
)
# Popular candidates damped from early on: in large sparse sets, where most users have few events, this ends elsewhere and higher.
SPECTRAL_RARE = (
    *SPECTRAL_ALONE[:2],
    _grid(SPECTRAL, penalty=(0.3, 3.0, 10.0), popularity=(0.0, 0.2, 0.4)),
    *SPECTRAL_ALONE[2:-1],
    _line(SPECTRAL, "popularity", (-0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)),
)
MIX = Step(
    ((EASE, "scale"), (SPECTRAL, "scale")), ((1.0, 0.2), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0), (0.2, 1.0))
)
FEW_DIRECTIONS = Step(  # a coarse picture of taste beside the fine one of the ridge
    (
        (EASE, "scale"),
        *((SPECTRAL, name) for name in ("damping", "penalty", "rank", "half_life", "scale")),
    ),
    tuple(product((1.0,), (0.3,), (0.0,), (32, 128), (INF, 5.0), (0.1, 0.2, 0.4))),
)
WHAT_SURELY_FOLLOWS = (
    _grid(SUCCESSORS, popularity=(0.0, 0.2, 0.4), scale=(0.3, 0.7, 1.5)),
    _line(SUCCESSORS, "half_life", (0.5, 1.0, 2.0, 4.0)),
    _line(SUCCESSORS, "damping", (0.25, 0.5, 0.75, 1.0)),
    _line(SUCCESSORS, "scale", SCALES),
)
WHAT_FOLLOWS = (
    _grid(TRANSITIONS, symmetric=(False, True), half_life=(INF, 3.0, 1.0), scale=(0.3, 0.7, 1.2)),
    _line(TRANSITIONS, "damping", (0.25, 0.5)),
    _line(TRANSITIONS, "popularity", (0.0, 0.2, 0.4)),
    _line(TRANSITIONS, "l2", (0.2, 1.0, 5.0, 25.0, 100.0)),
    _line(TRANSITIONS, "half_life", HALF_LIVES),
    _line(TRANSITIONS, "scale", SCALES),
)
AGAIN = (
    _line(EASE, "half_life", HALF_LIVES),
    _line(EASE, "popularity", (0.0, 0.15, 0.3, 0.45)),
    _line(EASE, "l2", L2),
    _grid(SPECTRAL, damping=(0.3, 0.4), rank=(128, 512), penalty=(1.0, 3.0), scale=(0.2, 0.5, 1.0)),
    _line(SPECTRAL, "penalty", PENALTIES),
    _line(TRANSITIONS, "scale", SCALES),
    _line(SUCCESSORS, "scale", SCALES),
)
ORDERED = Plan(
    {EASE: EASE_ALONE, SPECTRAL: SPECTRAL_ALONE},
    (MIX, *WHAT_SURELY_FOLLOWS, *WHAT_FOLLOWS, FEW_DIRECTIONS, *AGAIN),
)


def _without_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Returns the steps that read no order, for events without times: their order in the file may mean nothing."""
    kept = (step.unordered() for step in steps if step.names[0][0] not in (TRANSITIONS, SUCCESSORS))
    return tuple(step for step in kept if len(step.grid) > 1)


TIMED = Plan(  # of a split by chance: a history holds what came later too, so what is near is read, and not what follows
    ORDERED.alone, tuple(step for step in ORDERED.together if step.names[0][0] != SUCCESSORS)
)
UNORDERED = Plan(
    {family: _without_order(steps) for family, steps in ORDERED.alone.items()},
    _without_order(ORDERED.together),
    _without_order(SPECTRAL_RARE),
)
