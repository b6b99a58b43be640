"""The best score that is reachable in the synthetic world: its own chances, ranked. See `source.py`."""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from trainer.data.synthetic.draws import Draws, rating_mean
from trainer.data.synthetic.people import People
from trainer.data.synthetic.world import STARS, Floats, Ints, Shelves, World, sequel_of

CUTOFFS = (1, 5, 10, 20, 50, 100)
AT_ONCE = 20_000_000  # scores held in memory


def best_reachable(world: World, shelves: Shelves, people: People, draws: Draws) -> dict[str, float]:
    """Returns `recall@k`, `ndcg@k`, `mrr` and `rmse` of the truth on the last events of the first users.

    The truth knows the hidden state (the taste at this session, the draw before, whether a session opens)
    and what the user already had; it ranks all launched items by their exact chance. Ties count against it.
    `rmse` is that of the expected rating.
    """
    user = draws.user[draws.kept]
    last = np.flatnonzero(np.diff(user, append=-1))
    counts = np.bincount(user)[user[last]]
    last = last[(counts >= 2)][: world.truth_users]
    if not len(last):
        return {}
    step = max(AT_ONCE // len(shelves.number), 1)
    parts = [_ranks(world, shelves, people, draws, last[i : i + step]) for i in range(0, len(last), step)]
    rank = np.concatenate(parts)
    best = {f"recall@{k}": float((rank < k).mean()) for k in CUTOFFS}
    best |= {f"ndcg@{k}": float(np.where(rank < k, 1 / np.log2(rank + 2), 0).mean()) for k in CUTOFFS}
    return best | {"mrr": float((1 / (rank + 1)).mean()), "rmse": _rmse(world, shelves, people, draws, last)}


def _ranks(world: World, shelves: Shelves, people: People, draws: Draws, event: Ints) -> Ints:
    """Returns how many items the truth puts before each event's own `[cases]`."""
    place = draws.kept[event]
    score = chances(world, shelves, people, draws, place)
    row = np.arange(len(event))
    score[shelves.launched > draws.time[place][:, None]] = -1
    user = draws.user[draws.kept]
    begin = np.searchsorted(user, user[event])
    size = event - begin
    inside = np.repeat(begin - (np.cumsum(size) - size), size) + np.arange(size.sum())
    score[np.repeat(row, size), draws.item[draws.kept[inside]]] = -1
    own = score[row, draws.item[place]][:, None]
    rank: Ints = (score >= own).sum(1) - 1
    return rank


def chances(world: World, shelves: Shelves, people: People, draws: Draws, place: Ints) -> Floats:
    """Returns the chance of each item `[cases, items]` to be drawn at the places, given all before."""
    row, before, within = np.arange(len(place)), np.maximum(place - 1, 0), ~draws.opens[place]
    follow = np.where(within, world.sequel, 0.0)
    stay = np.where(within, world.stay, 0.0)
    category = (1 - follow - stay)[:, None] * draws.chance[draws.session[place]]
    category[row, shelves.category[draws.item[before]]] += stay
    odds = shelves.mass[None] * people.era[draws.user[place]][:, None, :]
    shelf = category[:, :, None] * odds / odds.sum(2, keepdims=True) / np.maximum(shelves.mass, 1e-300)
    score: npt.NDArray[np.floating] = shelf[:, shelves.category, shelves.era] * shelves.popularity
    score[row, sequel_of(shelves, draws.item[before])] += follow
    return score


def _rmse(world: World, shelves: Shelves, people: People, draws: Draws, event: Ints) -> float:
    place = draws.kept[event]
    mean = rating_mean(
        shelves, people, draws.taste, draws.user[place], draws.session[place], draws.item[place]
    )
    cuts = (STARS[:-1] + STARS[1:]) / 2
    below = ndtr((cuts - mean[:, None]) / world.rating_noise)
    share = np.diff(below, axis=1, prepend=0, append=1)
    return float(np.sqrt(((draws.rating[event] - share @ STARS) ** 2).mean()))
