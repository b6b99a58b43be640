"""Which blocks a model carries, and how much each weighs: chosen on validation, never on the test part.

Coordinate descent over a small grid: first the factorised blocks among themselves, then the towers beside them. The towers, or any block,
may end with weight 0, and then they are left out of the vectors: training never ends below its start.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import metrics
from trainer.blocks import Block
from trainer.config import Config
from trainer.data.examples import Cases, Events, Floats, Lists, Prepared
from trainer.factorisation import BlockSettings, Ease, Factorisation, Spectral, Transitions
from trainer.models import Retriever
from trainer.progress import Advance, Reporter
from trainer.train_retrieval import scorer

Choice = tuple[BlockSettings, ...]
INF = float("inf")
HALF_LIVES = (INF, 50.0, 20.0, 8.0, 5.0, 3.0, 2.0, 1.0)
SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
PENALTIES = (50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)
START: Choice = (Ease(), Transitions(), Spectral())
TOWER_SCALES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
PRIOR_SCALES = (1e-4, 0.03, 0.1, 0.3)
MIN_GAIN = 1.002  # a step is taken for a relative gain above this
TOWER_GAIN = 1.01  # the towers come in for a gain above this: validation is one event a user, and noisy
CUTOFF = 10
CASES = 3000  # validation queries at most
CELLS = 1.2e8  # scores held at a time at most, over all queries of one block
POSITIONS = 5  # events at the end of a history that serve as validation, where users are few

Step = tuple[int, tuple[str, ...], tuple[tuple[Any, ...], ...]]
STEPS: tuple[Step, ...] = (
    (0, ("half_life",), tuple((h,) for h in HALF_LIVES)),
    (0, ("l2",), tuple((v,) for v in PENALTIES)),
    (0, ("user_power",), ((0.0,), (0.25,), (0.5,))),
    (0, ("popularity",), ((0.0,), (0.15,), (0.3,), (0.45,))),
    (
        1,
        ("half_life", "scale", "symmetric"),
        tuple((h, s, y) for y in (False, True) for h in (INF, 8.0, 3.0, 1.0) for s in (0.3, 0.7, 1.2)),
    ),
    (1, ("popularity",), ((0.0,), (0.2,), (0.4,))),
    (1, ("l2",), ((0.2,), (1.0,), (5.0,), (25.0,), (100.0,))),
    (1, ("half_life",), tuple((h,) for h in HALF_LIVES)),
    (1, ("scale",), tuple((s,) for s in SCALES)),
    (
        2,
        ("half_life", "scale", "rank"),
        tuple((h, s, r) for r in (32, 128, 512) for h in (INF, 5.0) for s in (0.1, 0.2, 0.4)),
    ),
    (0, ("half_life",), tuple((h,) for h in HALF_LIVES)),
    (0, ("popularity",), ((0.0,), (0.15,), (0.3,), (0.45,))),
    (0, ("l2",), tuple((v,) for v in PENALTIES)),
    (1, ("scale",), tuple((s,) for s in SCALES)),
)


def attach(retriever: Retriever, config: Config, prepared: Prepared, reporter: Reporter) -> None:
    """Chooses blocks and weights on validation, fits the blocks to all that came before the test, and hangs them on the retriever."""
    if config.retrieval.factorisation == "none":
        return
    rank, items = config.retrieval.factorisation_rank, len(prepared.items)
    lists, cases = rehearsal(prepared)
    with reporter.step("factorise", len(STEPS) + 2) as advance:
        choice, spreads = START, {Ease.family: 1.0}
        if len(cases):
            choice, spreads = choose(Factorisation(lists, items, rank), cases, advance)
        train = prepared.train.by_user(len(prepared.users))
        before = blocks(Factorisation(train, items, rank), choice, spreads)
        tower, prior = weigh_towers(retriever, before, prepared)
        advance(len(STEPS) + 1, f"towers {tower:g}")
        everything = known(prepared.before_test).by_user(len(prepared.users))
        final = Factorisation(everything, items, rank)
        retriever.combine(tower, [*blocks(final, choice, spreads), popularity_block(final.degree, prior)])


def rehearsal(prepared: Prepared) -> tuple[Lists, Cases]:
    """Returns lists to fit on and cases to choose by, from what lies before the test.

    Where one event a user is held out and users are few, the last `POSITIONS` events of each history are rehearsed one by one: five
    times the cases, and none of them the test's.
    """
    validation = prepared.validation
    single = prepared.ordered and bool((validation.positives.lengths == 1).all())
    if not (single and 0 < len(validation) < CASES):
        return prepared.train.by_user(len(prepared.users)), _sample(validation, len(prepared.items))
    events = known(prepared.before_test)
    lists = events.by_user(len(prepared.users))
    positions = min(POSITIONS, -(-CASES // len(validation)))
    held = np.minimum(positions, lists.lengths // 4)
    ends = lists.offsets[1:]
    fitted = Lists(np.concatenate([[0], np.cumsum(lists.lengths - held)]), *_cut(lists, held))
    user = np.repeat(np.arange(len(lists)), held)
    back = np.concatenate([np.arange(n, 0, -1) for n in held]) if held.sum() else np.zeros(0, np.int64)
    place = ends[user] - back
    size = place - lists.offsets[user]
    history_offsets = np.concatenate([[0], np.cumsum(size)])
    source = np.repeat(lists.offsets[user] - history_offsets[:-1], size) + np.arange(history_offsets[-1])
    cases = Cases(
        user=user.astype(np.int32),
        history=Lists(history_offsets, lists.items[source], lists.timestamps[source]),
        positives=Lists(np.arange(len(user) + 1), lists.items[place], lists.timestamps[place]),
        timestamp=lists.timestamps[place],
    )
    return fitted, _sample(_fresh(cases), len(prepared.items))


def known(events: Events) -> Events:
    """Returns the events of known users with known items."""
    return events.take((events.user > 0) & (events.item > 0))


def choose(factorisation: Factorisation, cases: Cases, advance: Advance) -> tuple[Choice, dict[str, float]]:
    """Returns the settings of each family, and the spread of each chosen block's scores (its unit of scale)."""
    board = Board(factorisation, cases)
    choice, best = START, board.value(START)
    for number, (place, names, grid) in enumerate(STEPS):
        if not choice[place].scale and "scale" not in names:
            continue
        before = best
        for values in grid:
            changed = dataclasses.replace(choice[place], **dict(zip(names, values, strict=True)))
            trial = (*choice[:place], changed, *choice[place + 1 :])
            value = board.value(trial) if trial != choice else best
            if value > max(best, before * MIN_GAIN):
                kept, best = trial, value
        if best > before:
            choice = kept
        advance(number + 1, f"validation recall + NDCG {best:.4f}")
    return choice, {settings.family: board.spread(settings) for settings in choice if settings.scale}


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
        return accuracy(total, self.cases) if total is not None else 0.0

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


def accuracy(scores: Floats, cases: Cases) -> float:
    """Returns recall@10 + NDCG@10 of scores `[cases, items]`, which are overwritten; ties count against."""
    scores[:, 0] = -np.inf
    scores[np.repeat(np.arange(len(cases)), cases.history.lengths), cases.history.items] = -np.inf
    own = scores[np.repeat(np.arange(len(cases)), cases.positives.lengths), cases.positives.items]
    top = np.partition(scores, -CUTOFF - 1, axis=1)[:, -CUTOFF - 1 :] if scores.shape[1] > CUTOFF else scores
    asked = np.repeat(top, cases.positives.lengths, axis=0)
    ranks = np.count_nonzero(asked >= own[:, None], axis=1)
    ranks = np.where(own > -np.inf, ranks, metrics.MISSED)
    offsets = cases.positives.offsets
    found = metrics.recall(ranks, offsets, CUTOFF), metrics.ndcg(ranks, offsets, CUTOFF)
    return float(sum(np.nanmean(figure) for figure in found))


def blocks(factorisation: Factorisation, choice: Choice, spreads: dict[str, float]) -> list[Block]:
    """Returns the chosen blocks of a factorisation, scaled."""
    return [_block(factorisation, one, one.scale / spreads[one.family]) for one in choice if one.scale]


def popularity_block(degree: npt.NDArray[np.floating], scale: float) -> Block:
    """Returns a block of one column that every query reads alike: what is recommended when nothing is known of the user."""
    column = np.log(degree).astype(np.float32)[:, None]
    column[0] = 0
    return Block("popularity", np.zeros_like(column), column / max(float(column.std()), 1e-9), scale=scale, constant=True)


def weigh_towers(retriever: Retriever, beside: Sequence[Block], prepared: Prepared) -> tuple[float, float]:
    """Returns the weights of the towers and of popularity beside blocks that were fitted to the training part alone."""
    cases = _sample(prepared.validation, len(prepared.items))
    if not len(cases):
        return 0.0, PRIOR_SCALES[0]
    base = sum((block.queries(cases.history) @ block.candidates.T for block in beside), start=np.float32(0))
    towers = scorer(retriever, prepared).scores(cases)
    spread = float(towers.std()) + 1e-12
    towers = towers / np.float32(spread)
    degree = np.bincount(known(prepared.train).item, minlength=len(prepared.items)) + 1.0
    popular = popularity_block(degree, 1.0).candidates[:, 0]
    best = (accuracy(base + PRIOR_SCALES[0] * popular, cases), 0.0, PRIOR_SCALES[0])
    for tower in TOWER_SCALES:
        for prior in PRIOR_SCALES:
            value = accuracy(base + np.float32(tower) * towers + np.float32(prior) * popular, cases)
            if value > best[0] * TOWER_GAIN:
                best = (value, tower, prior)
    return best[1] / spread, best[2]


def _block(factorisation: Factorisation, settings: BlockSettings, scale: float) -> Block:
    history, candidates = factorisation.tables(settings)
    return Block(settings.family, history, candidates, settings.half_life, scale=scale)


def _cut(lists: Lists, held: npt.NDArray[np.integer]) -> tuple[Any, Any]:
    left = np.repeat(lists.offsets[1:], lists.lengths) - np.arange(len(lists.items))
    kept = left > np.repeat(held, lists.lengths)
    return lists.items[kept], lists.timestamps[kept]


def _fresh(cases: Cases) -> Cases:
    """Returns the cases whose positive is not in the history."""
    owner = np.repeat(np.arange(len(cases)), cases.history.lengths)
    again = np.bincount(owner, cases.history.items == cases.positives.items[owner], minlength=len(cases)) > 0
    return cases.take(np.flatnonzero(~again))


def _sample(cases: Cases, items: int) -> Cases:
    most = int(min(CASES, max(CELLS / items, 200)))
    if len(cases) <= most:
        return cases
    return cases.take(np.sort(np.random.default_rng(0).choice(len(cases), most, replace=False)))
