"""What an event says of its item: liked or disliked, how strongly, and how long ago."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.data.examples import Events, Floats, Longs
from trainer.data.interactions import Dataset, Interactions
from trainer.errors import UserError
from trainer.registry import did_you_mean
from trainer.settings import DataSettings

logger = logging.getLogger("trainer")
Mask = npt.NDArray[np.bool_]

DAY = 86_400.0  # seconds


def without_weightless(dataset: Dataset, behaviours: Mapping[str, float]) -> Dataset:
    """Returns the data set without the events that weigh 0, or whose behaviour does.

    Raises `UserError` where the events have no behaviour, or one that has no weight, and where all weigh 0.
    """
    dropped = [name for name, weight in behaviours.items() if not weight]

    def kept(part: Interactions) -> Interactions:
        frame = part.frame
        if behaviours:
            _check(frame, behaviours)
            frame = frame.filter(~pl.col("behaviour").is_in(dropped))
        return Interactions(frame.filter(pl.col("weight") > 0))

    told = kept(dataset.interactions)
    if not len(told):
        cause = "data.behaviours gives the weight 0 to" if behaviours else "the weight is 0 in"
        raise UserError(f"{cause} all events of data set {dataset.name!r}")
    if len(told) < len(dataset.interactions):
        logger.info("%d events that weigh 0 are left out", len(dataset.interactions) - len(told))
    validation, test = (None if part is None else kept(part) for part in (dataset.validation, dataset.test))
    return replace(dataset, interactions=told, validation=validation, test=test)


def opinions(frame: pl.DataFrame, settings: DataSettings) -> Floats:
    """Returns what each event's weight is multiplied by `[rows]`: its behaviour's weight, below 0 for a dislike."""
    factor = np.ones(frame.height, np.float32)
    if settings.behaviours:
        weights = pl.col("behaviour").replace_strict(dict(settings.behaviours), return_dtype=pl.Float32)
        factor = frame.select(weights).to_series().to_numpy().copy()
    if settings.dislike_rating is not None:
        disliked = (frame["rating"] <= settings.dislike_rating).fill_null(False).to_numpy()
        factor[disliked] = -np.abs(factor[disliked])
    return factor


def likes(events: Events, min_rating: float | None) -> tuple[Mask, Mask, Floats]:
    """Returns which events are positives `[events]`, which stand for a disliked pair, and how much each pair weighs.

    The weight of a disliking event is below 0 (or -0). A pair of user and item is disliked where its weights sum to less
    than 0: then none of its events is a positive, and its last disliking one stands for it. Otherwise its disliking
    events are left out: who skips a song once after playing it twenty times likes it. An event that is no dislike and
    is rated below `min_rating`, or not at all, says nothing.
    """
    against = np.signbit(events.weight)
    fine = np.ones(len(events), bool) if min_rating is None else events.rating >= min_rating
    if not against.any():
        return fine, against, events.weight
    keys = events.user.astype(np.int64) * (int(events.item.max()) + 1) + events.item
    _, pair = np.unique(keys, return_inverse=True)
    balance = np.bincount(pair, np.where(against | fine, events.weight, 0)).astype(np.float32)
    disliked = balance[pair] < 0
    last = np.full(len(balance), -1)
    np.maximum.at(last, pair[against], np.flatnonzero(against))
    stands = np.zeros(len(events), bool)
    stands[last[last >= 0]] = True
    return fine & ~against & ~disliked, stands & disliked, balance[pair]


def liked_and_disliked(events: Events, min_rating: float | None) -> tuple[Events, Events]:
    """Returns the positives, and one event for each disliked pair, whose weight (above 0) says how strongly."""
    liked, disliked, balance = likes(events, min_rating)
    against = events.take(disliked)
    return (events if liked.all() else events.take(liked)), replace(against, weight=-balance[disliked])


def time_weights(timestamps: Longs, latest: int, half_life_days: float) -> Floats:
    """Returns 0.5 ** (age / half-life) `[events]` of seconds `timestamps`; 1 at `latest` and after it.

    Multiply an event's weight by it: the old counts less, by half for every `half_life_days` before `latest`.
    """
    age = np.maximum(latest - np.asarray(timestamps, np.float64), 0) / DAY
    return np.asarray(0.5 ** (age / half_life_days), np.float32)


def _check(frame: pl.DataFrame, behaviours: Mapping[str, float]) -> None:
    if "behaviour" not in frame.columns:
        raise UserError(
            "data.behaviours is set, but the events have no behaviour; name its column in data.source.columns.behaviour"
        )
    absent = frame["behaviour"].is_null()
    if absent.any():
        raise UserError(f"row {int(absent.arg_max() or 0) + 1} of the interactions has no behaviour")
    strange = set(frame["behaviour"].unique()) - set(behaviours)
    if strange:
        name = min(strange)
        raise UserError(
            f"behaviour {name!r} of the interactions has no weight in data.behaviours"
            f"{did_you_mean(name, behaviours)}"
        )
