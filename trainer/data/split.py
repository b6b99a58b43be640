"""Interactions to training, validation and test parts.

The order of a user's events is by timestamp, equals in file order; without timestamps it is the file order.
Every event lands in exactly one part, and the parts keep the file order.
"""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.data.interactions import Dataset, Interactions
from trainer.errors import UserError
from trainer.settings import SplitSettings

logger = logging.getLogger("trainer")
Mask = npt.NDArray[np.bool_]
ODD_USERS = 0.05  # a published split by time may have this share of users whose parts overlap


@dataclass(frozen=True)
class Splits:
    """The three parts. `ordered`: for each user, validation is later than training, and test than both."""

    train: Interactions
    validation: Interactions
    test: Interactions
    ordered: bool


def split(dataset: Dataset, settings: SplitSettings) -> Splits:
    """Returns the parts of a data set by the method of the settings.

    A test part that the source brings is always the test; without one `auto` is `leave_last_out` where there is time, else `random`.
    `leave_last_out`: each user's last event is test and the one before is validation. A user with two
    events has no validation event; a user with one event is all training. `time`: a global cut; events of
    one moment stay together. `random`: by (user, item) pair, so that a repeated pair never lies on both
    sides. `predefined`: the source's own parts; a missing validation part is carved out of training, as
    each user's last event where the test lies later than training, else at random.

    Raises `UserError` where the data cannot be split this way or a part that is needed would be empty.
    """
    asked = settings.method
    settings = settings.model_copy(update={"method": resolve(dataset, asked)})
    if asked not in ("auto", settings.method):
        logger.info("the source brings a test part: data.split.method=%s is not used", asked)
    if settings.method == "predefined":
        parts = _predefined(dataset, settings)
    else:
        frame = dataset.interactions.frame
        test, validation = _METHODS[settings.method](dataset.interactions, settings)
        parts = Splits(
            Interactions(frame.filter(pl.Series(~(test | validation)))),
            Interactions(frame.filter(pl.Series(validation))),
            Interactions(frame.filter(pl.Series(test))),
            ordered=settings.method != "random",
        )
    for name, part in (("train", parts.train), ("test", parts.test)):
        if not len(part):
            raise UserError(
                f"data.split.method={settings.method!r} leaves no {name} events of "
                f"{len(dataset.interactions)}; choose another method or other fractions"
            )
    return parts


def resolve(dataset: Dataset, method: str) -> str:
    """Returns the split method that `auto` stands for on this data, or the method itself; a test part that is there always counts."""
    if dataset.test is not None:
        return "predefined"
    if method != "auto":
        return method
    return "leave_last_out" if dataset.interactions.has_time else "random"


def in_words(dataset: Dataset, settings: SplitSettings, ordered: bool) -> str:
    """Returns what the test is, and what the order of events means: `ordered` is that of the parts."""
    method = resolve(dataset, settings.method)
    if method == "predefined":
        why = "not later than training" if dataset.interactions.has_time else "no times"
        return "the source's own" + ("" if ordered else f" ({why}: histories are sets)")
    if method == "time":
        return f"the latest {settings.test_fraction:.0%} of events"
    if method == "leave_last_out":
        return "each user's last" + ("" if dataset.interactions.has_time else ", by the order of the rows")
    told = f"a random {settings.test_fraction:.0%}: histories are sets"
    if settings.method == "random":
        return told
    return f"{told} (no times; data.split.method=leave_last_out takes the rows to be in order)"


def codes(column: pl.Series) -> npt.NDArray[np.int64]:
    """Returns a whole number for each value `[rows]`, by first appearance."""
    kinds = pl.Enum(column.unique(maintain_order=True))
    return column.cast(kinds).to_physical().to_numpy().astype(np.int64)


def _leave_last_out(interactions: Interactions, settings: SplitSettings) -> tuple[Mask, Mask]:
    """Returns the masks of test and validation events `[events]`."""
    del settings
    frame = interactions.frame
    user = codes(frame["user_id"])
    keys = pl.DataFrame({"user": user, "timestamp": frame["timestamp"]})
    by = ["user", "timestamp"] if interactions.has_time else ["user"]
    order = keys.select(pl.arg_sort_by(by, maintain_order=True)).to_series().to_numpy()
    counts = np.bincount(user)
    last = np.cumsum(counts) - 1
    test, validation = np.zeros(len(user), bool), np.zeros(len(user), bool)
    test[order[last[counts >= 2]]] = True
    validation[order[last[counts >= 3] - 1]] = True
    return test, validation


def _time(interactions: Interactions, settings: SplitSettings) -> tuple[Mask, Mask]:
    if not interactions.has_time:
        raise UserError(
            "data.split.method='time' needs timestamps and the data has none; use 'random' instead"
        )
    moments = interactions.frame["timestamp"].to_numpy()
    ranked = np.sort(moments)
    keep = 1 - settings.test_fraction
    test_from = _moment(ranked, keep)
    validation_from = _moment(ranked, keep * (1 - settings.validation_fraction))
    test = moments >= test_from
    return test, (moments >= validation_from) & ~test


def _moment(ranked: npt.NDArray[np.int64], share: float) -> int:
    return int(ranked[min(int(len(ranked) * share), len(ranked) - 1)])


def _random(interactions: Interactions, settings: SplitSettings) -> tuple[Mask, Mask]:
    place, pairs = _shuffled_pairs(interactions.frame, settings.seed)
    test = _share(settings.test_fraction, pairs)
    validation = _share(settings.validation_fraction, pairs - test)
    return place < test, (place >= test) & (place < test + validation)


def _predefined(dataset: Dataset, settings: SplitSettings) -> Splits:
    if dataset.test is None:
        raise UserError(
            f"data.split.method='predefined', and the source {dataset.name!r} brings no test part; "
            "set data.source.test=FILE or choose another method"
        )
    train, test = dataset.interactions, dataset.test
    ordered = follows(train, test)
    if dataset.validation is not None:
        ordered = ordered and follows(train, dataset.validation) and follows(dataset.validation, test)
        return Splits(train, dataset.validation, test, ordered)
    if ordered:
        carved, _ = _leave_last_out(train, settings)
    else:
        place, pairs = _shuffled_pairs(train.frame, settings.seed)
        carved = place < _share(settings.validation_fraction, pairs)
    rest = Interactions(train.frame.filter(pl.Series(~carved)))
    return Splits(rest, Interactions(train.frame.filter(pl.Series(carved))), test, ordered)


def follows(past: Interactions, future: Interactions) -> bool:
    """Returns whether the `future` of nearly every user lies after their `past`; not where times are missing, always where a part is empty.

    Of a published split by chance the times say nothing: events of the test lie between those of training.
    """
    if not (len(past) and len(future)):
        return True
    if not (past.has_time and future.has_time):
        return False
    last = past.frame.group_by("user_id").agg(pl.col("timestamp").max().alias("last"))
    first = future.frame.group_by("user_id").agg(pl.col("timestamp").min().alias("first"))
    both = last.join(first, on="user_id")
    before = (both["first"] < both["last"]).sum()
    if before <= ODD_USERS * both.height:
        return True
    logger.info(
        "%d of %d users have events of the later part before the end of the earlier: taken as a split by chance, without order",
        before,
        both.height,
    )
    return False


def _shuffled_pairs(frame: pl.DataFrame, seed: int) -> tuple[npt.NDArray[np.int64], int]:
    """Returns each event's place in a shuffle of the distinct (user, item) pairs, and the number of pairs."""
    items = codes(frame["item_id"])
    pair = codes(frame["user_id"]) * (items.max(initial=0) + 1) + items
    distinct, which = np.unique(pair, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(distinct))[which], len(distinct)


def _share(fraction: float, pairs: int) -> int:
    return min(max(round(fraction * pairs), 1), max(pairs - 1, 0))


_METHODS = {"leave_last_out": _leave_last_out, "time": _time, "random": _random}
