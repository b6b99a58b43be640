"""The search over the blocks' settings on validation queries: each family of taste alone, then what they give together.

Before it, whether the events' weights count: play counts may tell of taste, or of nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import metrics
from trainer.blocks import Block
from trainer.data.examples import Cases, Floats, Lists
from trainer.factorisation import BlockSettings, Ease, Factorisation, Spectral, Successors, Transitions
from trainer.progress import Advance

Choice = tuple[BlockSettings, ...]
Parts = Sequence[tuple[Floats, float]]  # score matrices `[cases, items]` and their weights
INF = float("inf")
HALF_LIVES = (INF, 50.0, 20.0, 8.0, 5.0, 3.0, 2.0, 1.0)
SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.5)
L2 = (10.0, 25.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)
PENALTIES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
START: Choice = (Ease(), Transitions(), Spectral(), Successors())
EASE, TRANSITIONS, SPECTRAL, SUCCESSORS = range(4)  # places in a choice
MIN_GAIN = 1.002  # a step is taken for a relative gain above this
CUTOFFS = (10, 20)
CASES_AT_A_TIME = 64  # in each thread


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
    """Steps of the search: `alone`, of one family each without the others, then `together`."""

    alone: dict[int, tuple[Step, ...]]
    together: tuple[Step, ...]

    def __len__(self) -> int:
        return len(self.together) + sum(map(len, self.alone.values()))


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
)


def choose(
    factorisation: Factorisation, cases: Cases, advance: Advance, plan: Plan = ORDERED
) -> tuple[Choice, dict[str, float]]:
    """Returns the settings of each family, and the spread of each chosen block's scores (its unit of scale)."""
    board, done = Board(factorisation, cases), count(1)

    def tell(best: float) -> None:
        advance(next(done), f"validation recall + NDCG {best:.4f}")

    tuned = {family: walk(board, _only(START, family), steps, tell) for family, steps in plan.alone.items()}
    first = max(tuned, key=lambda family: tuned[family][1])
    merged = [tuned[place][0][place] if place in tuned else START[place] for place in range(len(START))]
    choice = needed(board, *walk(board, _only(merged, first), plan.together, tell))
    return choice, {settings.family: board.spread(settings) for settings in choice if settings.scale}


def with_or_without_weights(
    factorisation: Factorisation, cases: Cases, advance: Advance, plan: Plan
) -> Factorisation:
    """Returns the factorisation, or one without its events' weights where the ridge alone, tuned for each, is better so.

    The ridge decides as well as the whole search, and what it decomposes the search has at hand.
    """

    def tell(best: float) -> None:
        advance(0, f"events' weights: validation recall + NDCG {best:.4f}")

    def ridge(side: Factorisation) -> float:
        return walk(Board(side, cases), _only(START, EASE), plan.alone[EASE], tell)[1]

    if factorisation.lists.weights is None:
        return factorisation
    plain = Factorisation(factorisation.lists, factorisation.items, factorisation.rank, weighted=False)
    return max((factorisation, plain), key=ridge)


def walk(
    board: "Board", choice: Choice, steps: Sequence[Step], tell: Callable[[float], None]
) -> tuple[Choice, float]:
    """Returns the choice after every step that applies, and its accuracy, which `tell` gets after each."""
    best = board.value(choice)
    for step in steps:
        if step.applies(choice):
            search = climb if len(step.names) == 1 else scan
            choice, best = search(board, choice, best, step)
        tell(best)
    return choice, best


def needed(board: "Board", choice: Choice, best: float) -> Choice:
    """Returns the choice without the blocks that it does without: shorter vectors, and nothing clearly lost."""
    while sum(settings.scale > 0 for settings in choice) > 1:
        trials = [
            (*choice[:place], dataclasses.replace(settings, scale=0.0), *choice[place + 1 :])
            for place, settings in enumerate(choice)
            if settings.scale
        ]
        value, place = max((board.value(trial), -place) for place, trial in enumerate(trials))
        if value * MIN_GAIN < best:
            break
        choice = trials[-place]
    return choice


def _only(choice: Sequence[BlockSettings], family: int) -> Choice:
    return tuple(
        dataclasses.replace(settings, scale=float(place == family)) for place, settings in enumerate(choice)
    )


def scan(board: "Board", choice: Choice, best: float, step: Step) -> tuple[Choice, float]:
    """Returns the best choice over the whole grid of a step, the given one where nothing is clearly better."""
    trials = [_changed(choice, step, values) for values in step.grid]
    value, place = max((board.value(trial), -place) for place, trial in enumerate(trials))
    return (trials[-place], value) if value > best * MIN_GAIN else (choice, best)


def climb(board: "Board", choice: Choice, best: float, step: Step) -> tuple[Choice, float]:
    """Returns the choice after walking the line of a step, up and down from where it stands, as long as that clearly helps."""
    values = [value for (value,) in step.grid]
    ((family, name),) = step.names
    now = getattr(choice[family], name)
    start = min(range(len(values)), key=lambda place: (values[place] != now, abs(values[place] - now)))
    for direction in (1, -1):
        place, moved = start + direction, False
        while 0 <= place < len(values):
            trial = _changed(choice, step, step.grid[place])
            value = board.value(trial)
            if value <= best * MIN_GAIN:
                break
            choice, best, moved = trial, value, True
            place += direction
        if moved:
            break
    return choice, best


def _changed(choice: Choice, step: Step, values: tuple[Any, ...]) -> Choice:
    changed = list(choice)
    for (family, name), value in zip(step.names, values, strict=True):
        changed[family] = dataclasses.replace(changed[family], **{name: value})
    return tuple(changed)


class Board:
    """Scores of the validation queries, one matrix a family: only what a step changes is computed again."""

    def __init__(self, factorisation: Factorisation, cases: Cases) -> None:
        self.factorisation = factorisation
        self.cases = cases
        self.held: dict[str, tuple[BlockSettings, Floats, float]] = {}

    def value(self, choice: Choice) -> float:
        """Returns the mean accuracy of a choice."""
        held = [(settings.scale, *self._scores(settings)[1:]) for settings in choice if settings.scale]
        parts = [(scores, scale / spread) for scale, scores, spread in held]
        return float(np.nanmean(accuracies(parts, self.cases)))

    def spread(self, settings: BlockSettings) -> float:
        """Returns the standard deviation of a block's scores before its scale."""
        return self._scores(settings)[2]

    def _scores(self, settings: BlockSettings) -> tuple[BlockSettings, Floats, float]:
        plain = dataclasses.replace(settings, scale=1.0)
        if self.held.get(settings.family, (None,))[0] != plain:
            block = _block(self.factorisation, plain, 1.0)
            scores = block.queries(self.cases.history) @ block.candidates.T
            self.held[settings.family] = (plain, scores, float(scores.std()) + 1e-12)
        return self.held[settings.family]


def accuracies(parts: Parts, cases: Cases) -> npt.NDArray[np.float64]:
    """Returns recall + NDCG of each case, the mean over `CUTOFFS`, for the weighted sum of scores; ties count against."""

    def some(start: int) -> npt.NDArray[np.float64]:
        rows = np.arange(start, min(start + CASES_AT_A_TIME, len(cases)))
        total = parts[0][0][rows] * np.float32(parts[0][1])
        for scores, weight in parts[1:]:
            total += scores[rows] * np.float32(weight)
        return _accuracies(total, cases.take(rows))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return np.concatenate(list(threads.map(some, range(0, len(cases), CASES_AT_A_TIME))))


def _accuracies(scores: Floats, cases: Cases) -> npt.NDArray[np.float64]:
    """Returns what `accuracies` does of scores `[cases, items]`, which are overwritten."""
    scores[:, 0] = -np.inf
    for had in (cases.history, cases.disliked):
        if had is not None:
            scores[np.repeat(np.arange(len(cases)), had.lengths), had.items] = -np.inf
    ranks, offsets = _ranks(scores, cases.positives), cases.positives.offsets
    total = sum(metrics.recall(ranks, offsets, k) + metrics.ndcg(ranks, offsets, k) for k in CUTOFFS)
    return np.asarray(total / len(CUTOFFS))


def _ranks(scores: Floats, positives: Lists) -> npt.NDArray[np.int64]:
    """Returns ranks `[positives]`, exact up to the largest cutoff."""
    owner = np.repeat(np.arange(len(scores)), positives.lengths)
    own = scores[owner, positives.items]
    if len(owner) == len(scores):
        counted = np.count_nonzero(scores >= own[:, None], axis=1)
    else:
        places = min(max(CUTOFFS) + 1, scores.shape[1])
        top = np.partition(scores, -places, axis=1)[:, -places:]
        counted = np.count_nonzero(top[owner] >= own[:, None], axis=1)
    return np.where(own > -np.inf, counted, metrics.MISSED)


def blocks(factorisation: Factorisation, choice: Choice, spreads: dict[str, float]) -> list[Block]:
    """Returns the chosen blocks of a factorisation, scaled."""
    return [_block(factorisation, one, one.scale / spreads[one.family]) for one in choice if one.scale]


def _block(factorisation: Factorisation, settings: BlockSettings, scale: float) -> Block:
    history, candidates = factorisation.tables(settings)
    return Block(settings.family, history, candidates, settings.half_life, scale=scale)
