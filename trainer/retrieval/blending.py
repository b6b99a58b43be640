"""Which blocks a model carries, and how much each weighs: chosen on validation, never on the test part.

First whether the events' weights count in the blocks, then the factorised blocks among themselves, then the towers beside them. The
towers, or any block, may end with weight 0, and then they are left out of the vectors: training never ends below its start.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.blocks.block import Block
from trainer.blocks.factorisation import Ease, Factorisation
from trainer.blocks.plan import ORDERED, START, TIMED, UNORDERED, Choice, Plan
from trainer.blocks.rehearsal import at_a_time, rehearsal
from trainer.blocks.search import accuracies, blocks, choose, with_or_without_weights
from trainer.config import Config
from trainer.data.examples import Cases, Events, Prepared
from trainer.progress import Advance, Reporter
from trainer.retrieval.inference import scorer
from trainer.retrieval.retriever import Retriever
from trainer.workdir import write_json

TOWER_SCALES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
PRIOR_SCALES = (1e-4, 0.03, 0.1, 0.3)
RECIPE = "blend.json"  # in the work directory
WEIGHED = 6_000  # validation cases at most that weigh the towers
SURE = 2.0  # standard errors of the gain over the blocks alone that let the towers in


@dataclass(frozen=True)
class Recipe:
    """What validation chose: the blocks' settings, the unit of each block's scale, the weights of towers and popularity.

    `weighted`: the events' weights count in the blocks.
    """

    choice: Choice
    spreads: dict[str, float]
    towers: float
    popularity: float
    weighted: bool = True

    def write(self, path: Path) -> None:
        """Writes the recipe as JSON, beside and renamed."""
        chosen = {one.family: dataclasses.asdict(one) for one in self.choice}
        values = {
            "blocks": chosen,
            "spreads": self.spreads,
            "towers": self.towers,
            "popularity": self.popularity,
            "weighted": self.weighted,
        }
        write_json(path, values)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Returns the recipe that `write` left; a family that it did not know yet has no weight, and events had theirs."""
        values = json.loads(path.read_text(encoding="utf-8"))
        choice = tuple(type(one)(**values["blocks"].get(one.family, {"scale": 0.0})) for one in START)
        weighted = values.get("weighted", True)
        return cls(choice, values["spreads"], values["towers"], values["popularity"], weighted)


def attach(
    retriever: Retriever, config: Config, prepared: Prepared, workdir: Path, reporter: Reporter
) -> None:
    """Chooses blocks and weights on validation, fits the blocks to all that came before the test, and hangs them on the retriever.

    What was chosen is kept in the work directory and not chosen again.
    """
    if config.retrieval.factorisation == "none":
        refit(retriever, config, prepared, workdir)
        return
    rank, kept, plan = config.retrieval.factorisation_rank, workdir / RECIPE, plan_of(prepared)
    with reporter.step("factorise", len(plan) + 2) as advance:
        if not kept.exists():
            find_recipe(retriever, prepared, rank, plan, advance).write(kept)
        advance(len(plan) + 1, f"towers {Recipe.read(kept).towers:.3g}")
        refit(retriever, config, prepared, workdir)


def plan_of(prepared: Prepared) -> Plan:
    """Returns the search that reads what the order of events means."""
    if prepared.ordered:
        return ORDERED
    return TIMED if prepared.timed else UNORDERED


def refit(retriever: Retriever, config: Config, prepared: Prepared, workdir: Path) -> None:
    """Fits the blocks that the run in `workdir` has chosen to the events `before_test`, and hangs them on the retriever."""
    recipe = None if config.retrieval.factorisation == "none" else Recipe.read(workdir / RECIPE)
    combine(retriever, recipe, prepared.before_test, prepared, config.retrieval.factorisation_rank)


def combine(
    retriever: Retriever, recipe: Recipe | None, events: Events, prepared: Prepared, rank: int
) -> None:
    """Hangs the recipe's blocks, fitted to `events`, on the retriever; without a recipe only popularity, for whoever brings nothing else.

    An id embedding over a graph reads `events` too.
    """
    retriever.embedding.refresh((events.user, events.item))
    told = events.known()
    degree = np.bincount(told.item, minlength=len(prepared.items)) + 1.0
    if recipe is None:
        retriever.combine(1.0, [popularity_block(degree, 0.0)])
        return
    lists = told.by_user(len(prepared.users))
    fitted = Factorisation(lists, len(prepared.items), rank, recipe.weighted)
    prior = popularity_block(degree, recipe.popularity)
    retriever.combine(recipe.towers, [*blocks(fitted, recipe.choice, recipe.spreads), prior])


def find_recipe(retriever: Retriever, prepared: Prepared, rank: int, plan: Plan, advance: Advance) -> Recipe:
    """Returns what validation chooses; the defaults where there is no validation."""
    items = len(prepared.items)
    lists, cases = rehearsal(prepared)
    fitted = Factorisation(lists, items, rank)
    choice, spreads = START, {Ease.family: 1.0}
    if len(cases):
        fitted = with_or_without_weights(fitted, cases, advance, plan)
        choice, spreads = choose(fitted, cases, advance, plan)
    if len(lists.items) != len(prepared.train):  # fitted to other events than the towers
        fitted = Factorisation(prepared.train.by_user(len(prepared.users)), items, rank, fitted.weighted)
    towers, popularity = weigh_towers(retriever, blocks(fitted, choice, spreads), prepared)
    return Recipe(choice, spreads, towers, popularity, fitted.weighted)


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
    """Returns the weights of the towers and of popularity beside blocks that were fitted to the training part alone.

    What towers add is often a hundredth, and takes many cases to be sure of; they are scored some at a time.
    """
    cases = prepared.validation.at_most(WEIGHED)
    if not len(cases):
        return 0.0, PRIOR_SCALES[0]
    size = at_a_time(len(prepared.items))
    some = [
        cases.take(np.arange(start, min(start + size, len(cases)))) for start in range(0, len(cases), size)
    ]
    ask = scorer(retriever, prepared)
    spread = float(ask.scores(some[0]).std()) + 1e-12
    degree = np.bincount(prepared.train.known().item, minlength=len(prepared.items)) + 1.0
    popular = popularity_block(degree, 1.0).candidates[:, 0]

    def found(pairs: Sequence[tuple[float, float]], parts: Sequence[Cases]) -> npt.NDArray[np.float64]:
        """Returns the accuracy `[pairs, cases]` of each case with each pair of weights."""
        values = []
        for part in parts:
            towers = np.array(ask.scores(part))
            base = np.zeros_like(towers)
            for block in beside:
                base += block.queries(part.history) @ block.candidates.T
            prior = np.broadcast_to(popular, towers.shape)
            mixed = ([(base, 1.0), (towers, one / spread), (prior, other)] for one, other in pairs)
            values.append(np.stack([accuracies(parts_of, part) for parts_of in mixed]))
        return np.concatenate(values, axis=1)

    tower = TOWER_SCALES[surely_best(found([(one, PRIOR_SCALES[0]) for one in TOWER_SCALES], some))]
    prior = PRIOR_SCALES[surely_best(found([(tower, one) for one in PRIOR_SCALES], some[:1]))]
    return tower / spread, prior


def surely_best(values: npt.NDArray[np.float64]) -> int:
    """Returns the row of `values` `[choices, cases]` with the highest mean, of those whose gain over row 0 is `sure`."""
    means = np.nanmean(values, axis=1)
    better = [row for row in range(1, len(values)) if sure(values[row] - values[0])]
    return max(better, key=means.__getitem__, default=0)


def sure(gains: npt.NDArray[np.float64]) -> bool:
    """Returns whether the mean gain is above `SURE` of its standard errors: validation is small, and noise gains too."""
    gains = gains[np.isfinite(gains)]
    return bool(gains.mean() > SURE * gains.std() / np.sqrt(len(gains)))
