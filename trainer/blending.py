"""Which blocks a model carries, and how much each weighs: chosen on validation, never on the test part.

Coordinate descent over a small grid: first the factorised blocks among themselves, then the towers beside them. The towers, or any block,
may end with weight 0, and then they are left out of the vectors: training never ends below its start.
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
SURE = 2.0  # standard errors of the gain over the blocks alone that let the towers in
CUTOFF = 10
CASES = 3000  # validation queries at most
CELLS = 8e7  # scores held at a time at most, over all queries of one block
POSITIONS = 5  # events at the end of a history that serve as validation, where users are few


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


@dataclass(frozen=True)
class Recipe:
    """What validation chose: the blocks' settings, the unit of each block's scale, the weights of towers and popularity."""

    choice: Choice
    spreads: dict[str, float]
    towers: float
    popularity: float

    def write(self, path: Path) -> None:
        """Writes the recipe as JSON, beside and renamed."""
        chosen = {one.family: dataclasses.asdict(one) for one in self.choice}
        values = {
            "blocks": chosen,
            "spreads": self.spreads,
            "towers": self.towers,
            "popularity": self.popularity,
        }
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Returns the recipe that `write` left."""
        values = json.loads(path.read_text(encoding="utf-8"))
        choice = tuple(type(one)(**values["blocks"][one.family]) for one in START)
        return cls(choice, values["spreads"], values["towers"], values["popularity"])


def attach(
    retriever: Retriever, config: Config, prepared: Prepared, workdir: Path, reporter: Reporter
) -> None:
    """Chooses blocks and weights on validation, fits the blocks to all that came before the test, and hangs them on the retriever.

    What was chosen is kept in `workdir/blend.json` and not chosen again.
    """
    if config.retrieval.factorisation == "none":
        return
    rank, items = config.retrieval.factorisation_rank, len(prepared.items)
    kept = workdir / "blend.json"
    with reporter.step("factorise", len(STEPS) + 2) as advance:
        if kept.exists():
            recipe = Recipe.read(kept)
        else:
            recipe = find_recipe(retriever, prepared, rank, advance)
            recipe.write(kept)
        advance(len(STEPS) + 1, f"towers {recipe.towers:.3g}")
        final = Factorisation(known(prepared.before_test).by_user(len(prepared.users)), items, rank)
        prior = popularity_block(final.degree, recipe.popularity)
        retriever.combine(recipe.towers, [*blocks(final, recipe.choice, recipe.spreads), prior])


def find_recipe(retriever: Retriever, prepared: Prepared, rank: int, advance: Advance) -> Recipe:
    """Returns what validation chooses; the defaults where there is no validation."""
    items = len(prepared.items)
    lists, cases = rehearsal(prepared)
    choice, spreads = START, {Ease.family: 1.0}
    if len(cases):
        steps = STEPS if prepared.timed or prepared.ordered else UNORDERED_STEPS
        choice, spreads = choose(Factorisation(lists, items, rank), cases, advance, steps)
    train = Factorisation(prepared.train.by_user(len(prepared.users)), items, rank)
    return Recipe(choice, spreads, *weigh_towers(retriever, blocks(train, choice, spreads), prepared))


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


def popularity_block(degree: npt.NDArray[np.floating], scale: float) -> Block:
    """Returns a block of one column that every query reads alike: what is recommended when nothing is known of the user."""
    column = np.log(degree).astype(np.float32)[:, None]
    column[0] = 0
    return Block(
        "popularity",
        np.zeros_like(column),
        column / max(float(column.std()), 1e-9),
        scale=scale,
        constant=True,
    )


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
    start = accuracies(base + np.float32(PRIOR_SCALES[0]) * popular, cases)
    best, chosen = start, (0.0, PRIOR_SCALES[0])
    for tower, prior in itertools.product(TOWER_SCALES, PRIOR_SCALES):
        found = accuracies(base + np.float32(tower) * towers + np.float32(prior) * popular, cases)
        if np.nanmean(found) > np.nanmean(best) and _sure(found - start):
            best, chosen = found, (tower, prior)
    return chosen[0] / spread, chosen[1]


def _sure(gains: npt.NDArray[np.float64]) -> bool:
    """Returns whether the mean gain is above `SURE` of its standard errors: validation is small, and noise gains too."""
    gains = gains[np.isfinite(gains)]
    return bool(gains.mean() > SURE * gains.std() / np.sqrt(len(gains)))


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
