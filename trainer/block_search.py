"""The search over the blocks' settings: coordinate descent over a small grid, on validation queries."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import metrics
from trainer.blocks import Block
from trainer.data.examples import Cases, Floats, Lists
from trainer.factorisation import BlockSettings, Ease, Factorisation, Spectral, Transitions
from trainer.progress import Advance

Choice = tuple[BlockSettings, ...]
INF = float("inf")
HALF_LIVES = (INF, 50.0, 20.0, 8.0, 5.0, 3.0, 2.0, 1.0)
SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
PENALTIES = (50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)
START: Choice = (Ease(), Transitions(), Spectral())
MIN_GAIN = 1.002  # a step is taken for a relative gain above this
CUTOFF = 10


@dataclass(frozen=True)
class Step:
    """Settings of one family that are tried together. A grid of one setting is a line, and is climbed from where it stands."""

    family: int  # place in the choice
    names: tuple[str, ...]
    grid: tuple[tuple[Any, ...], ...]


def _line(family: int, name: str, values: Sequence[float]) -> Step:
    return Step(family, (name,), tuple((value,) for value in values))


STEPS: tuple[Step, ...] = (
    _line(0, "half_life", HALF_LIVES),
    _line(0, "l2", PENALTIES),
    _line(0, "user_power", (0.0, 0.25, 0.5)),
    _line(0, "popularity", (0.0, 0.15, 0.3, 0.45)),
    Step(
        1,
        ("half_life", "scale", "symmetric"),
        tuple((h, s, y) for y in (False, True) for h in (INF, 3.0, 1.0) for s in (0.3, 0.7, 1.2)),
    ),
    _line(1, "popularity", (0.0, 0.2, 0.4)),
    _line(1, "l2", (0.2, 1.0, 5.0, 25.0, 100.0)),
    _line(1, "half_life", HALF_LIVES),
    _line(1, "scale", SCALES),
    Step(
        2,
        ("rank", "half_life", "scale"),
        tuple((r, h, s) for r in (32, 128, 512) for h in (INF, 5.0) for s in (0.1, 0.2, 0.4)),
    ),
    _line(0, "half_life", HALF_LIVES),
    _line(0, "popularity", (0.0, 0.15, 0.3, 0.45)),
    _line(0, "l2", PENALTIES),
    _line(1, "scale", SCALES),
)


# Events without times, as sets: their order in the file may mean nothing, and no step may read it.
UNORDERED_STEPS = tuple(
    dataclasses.replace(
        step, grid=tuple(values for values in step.grid if "half_life" not in step.names or INF in values)
    )
    for step in STEPS
    if step.family != 1 and step.names != ("half_life",)
)


def choose(
    factorisation: Factorisation, cases: Cases, advance: Advance, steps: Sequence[Step] = STEPS
) -> tuple[Choice, dict[str, float]]:
    """Returns the settings of each family, and the spread of each chosen block's scores (its unit of scale)."""
    board = Board(factorisation, cases)
    choice, best = START, board.value(START)
    for number, step in enumerate(steps):
        if choice[step.family].scale or "scale" in step.names:
            search = climb if len(step.names) == 1 else scan
            choice, best = search(board, choice, best, step)
        advance(number + 1, f"validation recall + NDCG {best:.4f}")
    return choice, {settings.family: board.spread(settings) for settings in choice if settings.scale}


def scan(board: "Board", choice: Choice, best: float, step: Step) -> tuple[Choice, float]:
    """Returns the best choice over the whole grid of a step, the given one where nothing is clearly better."""
    trials = [_changed(choice, step, values) for values in step.grid]
    value, place = max((board.value(trial), -place) for place, trial in enumerate(trials))
    return (trials[-place], value) if value > best * MIN_GAIN else (choice, best)


def climb(board: "Board", choice: Choice, best: float, step: Step) -> tuple[Choice, float]:
    """Returns the choice after walking the line of a step, up and down from where it stands, as long as that clearly helps."""
    values = [value for (value,) in step.grid]
    now = getattr(choice[step.family], step.names[0])
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
    changed = dataclasses.replace(choice[step.family], **dict(zip(step.names, values, strict=True)))
    return (*choice[: step.family], changed, *choice[step.family + 1 :])


class Board:
    """Scores of the validation queries, one matrix a family: only what a step changes is computed again."""

    def __init__(self, factorisation: Factorisation, cases: Cases) -> None:
        self.factorisation = factorisation
        self.cases = cases
        self.held: dict[str, tuple[BlockSettings, Floats, float]] = {}

    def value(self, choice: Choice) -> float:
        """Returns recall@10 + NDCG@10 of a choice."""
        total: Floats | None = None
        for settings in choice:
            if settings.scale:
                _, scores, spread = self._scores(settings)
                part = scores * np.float32(settings.scale / spread)
                total = part if total is None else np.add(total, part, out=total)
        return float(np.nanmean(accuracies(total, self.cases))) if total is not None else 0.0

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


def accuracies(scores: Floats, cases: Cases) -> npt.NDArray[np.float64]:
    """Returns recall@10 + NDCG@10 of each case for scores `[cases, items]`, which are overwritten; ties count against."""
    scores[:, 0] = -np.inf
    scores[np.repeat(np.arange(len(cases)), cases.history.lengths), cases.history.items] = -np.inf
    ranks, offsets = _ranks(scores, cases.positives), cases.positives.offsets
    return metrics.recall(ranks, offsets, CUTOFF) + metrics.ndcg(ranks, offsets, CUTOFF)


def _ranks(scores: Floats, positives: Lists) -> npt.NDArray[np.int64]:
    """Returns ranks `[positives]`, exact up to the cutoff."""
    owner = np.repeat(np.arange(len(scores)), positives.lengths)
    own = scores[owner, positives.items]
    if len(owner) == len(scores):
        counted = np.count_nonzero(scores >= own[:, None], axis=1)
    else:
        places = min(CUTOFF + 1, scores.shape[1])
        top = np.partition(scores, -places, axis=1)[:, -places:]
        counted = np.count_nonzero(top[owner] >= own[:, None], axis=1)
    return np.where(own > -np.inf, counted, metrics.MISSED)


def blocks(factorisation: Factorisation, choice: Choice, spreads: dict[str, float]) -> list[Block]:
    """Returns the chosen blocks of a factorisation, scaled."""
    return [_block(factorisation, one, one.scale / spreads[one.family]) for one in choice if one.scale]


def _block(factorisation: Factorisation, settings: BlockSettings, scale: float) -> Block:
    history, candidates = factorisation.tables(settings)
    return Block(settings.family, history, candidates, settings.half_life, scale=scale)
