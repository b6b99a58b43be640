"""What the worlds of ids alone share: events to a data set, and the score of a truth that knows only who is likely."""

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.data.interactions import Corpus, Dataset, Interactions, Schema
from trainer.data.synthetic.truth import CUTOFFS
from trainer.data.synthetic.world import Floats, Ints

BEGIN = 1_672_531_200  # 2023-01-01 UTC, in seconds
AT_ONCE = 20_000_000  # cells (users times items) of a block of users held in memory
Streams = list[tuple[range, np.random.Generator]]


def blocks(users: int, width: int, seed: np.random.SeedSequence) -> Streams:
    """Returns ranges of users, few enough to hold `width` cells of each, every one with a random stream of its own."""
    step = max(AT_ONCE // width, 1)
    firsts = range(0, users, step)
    streams = seed.spawn(len(firsts))
    return [
        (range(first, min(first + step, users)), np.random.default_rng(stream))
        for first, stream in zip(firsts, streams, strict=True)
    ]


def numbered(letter: str, numbers: npt.NDArray[np.integer], name: str) -> pl.Series:
    """Returns a column of ids: the letter and six digits."""
    digits = pl.Series(name, numbers).cast(pl.String)
    return digits.to_frame().select((letter + pl.col(name).str.zfill(6)).alias(name)).to_series()


def plain_dataset(
    name: str, user: Ints, item: Ints, time: Ints, ids: Ints, best: dict[str, float]
) -> Dataset:
    """Returns events `[events]` without features as a data set.

    `time` is in seconds after the beginning, `ids` `[items]` the number in each item's id: shuffled, so that an id
    tells nothing.
    """
    count = len(user)
    events = pl.DataFrame(
        {
            "user_id": numbered("u", user, "user_id"),
            "item_id": numbered("i", ids[item], "item_id"),
            "timestamp": time.astype(np.int64) + BEGIN,
            "rating": pl.Series([None] * count, dtype=pl.Float32),
            "weight": np.ones(count, np.float32),
        }
    )
    return Dataset(
        name=name,
        interactions=Interactions(events),
        users=Corpus(events.select(pl.col("user_id").unique(maintain_order=True)), "user_id"),
        items=Corpus(numbered("i", np.arange(len(ids)), "item_id").to_frame(), "item_id"),
        schema=Schema(),
        best_reachable=best,
    )


def expected_scores(likely: Ints, chance: Floats, others: Ints) -> dict[str, float]:
    """Returns the expected `recall@k`, `hit_rate@k`, `ndcg@k` and `mrr` of the truth, over the cases `[cases]`.

    In each, one of `likely` equally likely items comes next with the probability `chance`, else one of the `others`,
    all alike. No ranking is better than the likely items first, in whatever order among themselves.
    """
    depth = int((likely + others).max())
    rank = np.arange(depth + 1, dtype=np.float64)
    gain, reciprocal = np.zeros(depth + 1), np.zeros(depth + 1)
    gain[1:], reciprocal[1:] = np.cumsum(1 / np.log2(rank[1:] + 1)), np.cumsum(1 / rank[1:])

    def within(total: Floats, k: int) -> float:
        """Returns the mean over cases of a sum over ranks up to `k`, each rank weighted by its chance."""
        first = np.minimum(likely, k)
        both = np.minimum(likely + others, k)
        share = chance * total[first] / likely
        rest = (1 - chance) * (total[both] - total[first]) / np.maximum(others, 1)
        return float((share + rest).mean())

    best = {f"recall@{k}": within(rank, k) for k in CUTOFFS}
    best |= {f"hit_rate@{k}": best[f"recall@{k}"] for k in CUTOFFS}
    best |= {f"ndcg@{k}": within(gain, k) for k in CUTOFFS}
    return best | {"mrr": within(reciprocal, depth)}
