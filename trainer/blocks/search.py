"""The search over the blocks' settings on validation queries: each family of taste alone, then what they give together.

Before it, whether the events' weights count: play counts may tell of taste, or of nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.blocks.block import Block
from trainer.blocks.factorisation import BlockSettings, Factorisation
from trainer.blocks.plan import EASE, ORDERED, SPECTRAL, START, Choice, Plan, Step
from trainer.data.examples import Cases, Floats, Lists
from trainer.evaluation import metrics
from trainer.progress import Advance

Parts = Sequence[tuple[Floats, float]]  # score matrices `[cases, items]` and their weights
MIN_GAIN = 1.002  # a step is taken for a relative gain above this
CLEAR_GAIN = (
    1.05  # another way to a family alone, for one above this: less may be chance, and then lost on dense sets
)
CUTOFFS = (10, 20)
CASES_AT_A_TIME = 64  # in each thread


def choose(
    factorisation: Factorisation, cases: Cases, advance: Advance, plan: Plan = ORDERED
) -> tuple[Choice, dict[str, float]]:
    """Returns the settings of each family, and the spread of each chosen block's scores (its unit of scale)."""
    board, done = Board(factorisation, cases), count(1)

    def tell(best: float) -> None:
        advance(next(done), f"validation recall + NDCG {best:.4f}")

    tuned = {family: walk(board, _only(START, family), steps, tell) for family, steps in plan.alone.items()}
    if plan.rare:
        found = walk(board, _only(START, SPECTRAL), plan.rare, tell)
        if found[1] > tuned[SPECTRAL][1] * CLEAR_GAIN:
            tuned[SPECTRAL] = found
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
        trial, value = best_of(board, trials)
        if value * MIN_GAIN < best:
            break
        choice = trial
    return choice


def _only(choice: Sequence[BlockSettings], family: int) -> Choice:
    return tuple(
        dataclasses.replace(settings, scale=float(place == family)) for place, settings in enumerate(choice)
    )


def best_of(board: "Board", trials: Sequence[Choice]) -> tuple[Choice, float]:
    """Returns the trial with the highest accuracy, the first of equals, and that accuracy."""
    values = [board.value(trial) for trial in trials]
    best = max(values)
    return trials[values.index(best)], best


def scan(board: "Board", choice: Choice, best: float, step: Step) -> tuple[Choice, float]:
    """Returns the best choice over the whole grid of a step, the given one where nothing is clearly better."""
    trials = [_changed(choice, step, values) for values in step.grid]
    trial, value = best_of(board, trials)
    return (trial, value) if value > best * MIN_GAIN else (choice, best)


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
            scores[had.owners, had.items] = -np.inf
    ranks, offsets = _ranks(scores, cases.positives), cases.positives.offsets
    total = sum(metrics.recall(ranks, offsets, k) + metrics.ndcg(ranks, offsets, k) for k in CUTOFFS)
    return np.asarray(total / len(CUTOFFS))


def _ranks(scores: Floats, positives: Lists) -> npt.NDArray[np.int64]:
    """Returns ranks `[positives]`, exact up to the largest cutoff."""
    owner = positives.owners
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
