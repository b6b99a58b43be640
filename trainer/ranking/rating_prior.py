"""The prior of the ranking network: ratings, or the labels of another target, in closed form (`variational.py`).

Labels of 0 and 1 are taken for numbers; a logistic regression makes chances of what is said of them (`targets.Start`).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from trainer.data.examples import Events, Floats, Prepared
from trainer.progress import Reporter
from trainer.ranking.model import Prior
from trainer.ranking.rating_features import side_features
from trainer.ranking.targets import labels
from trainer.ranking.variational import Ratings, leave_one_out, sweeps
from trainer.settings import RankingSettings, Target


def source(targets: Sequence[Target], events: Events) -> Target | None:
    """Returns the target that the prior is of: a rating where events carry some, else the first with a say in the score.

    One whose labels are all alike is passed over, for there is nothing to tell apart.
    """
    for target in targets:
        if target.column == "rating" and _usable(events, events.rating).any():
            return target
    for target in targets:
        values = _values(target, events)
        known = values[_usable(events, values)]
        if target.score_weight and len(known) and known.min() < known.max():
            return target
    return None


def fit(prepared: Prepared, settings: RankingSettings, events: Events, reporter: Reporter) -> Prior | None:
    """Returns the prior learned from what `events` tell of its source, with its leave-one-out predictions of it.

    None where the targets give it no source.
    """
    target = source(settings.targets, events)
    if target is None:
        return None
    values = _values(target, events)
    usable = _usable(events, values)
    rated, values = events.take(usable), values[usable]
    weight = np.abs(rated.weight)  # below 0 for a dislike
    mean = float(np.average(values, weights=weight))
    scale = float(np.sqrt(np.average((values - mean) ** 2, weights=weight))) or 1.0
    ratings = Ratings(
        rated.user,
        rated.item,
        ((values - mean) / scale).astype(np.float32),
        (weight / weight.mean()).astype(np.float32),
    )
    # One thread: for matrices this small, waking the others took three quarters of the time.
    with reporter.step("rating prior", settings.prior_sweeps) as advance, threadpool_limits(1):
        user_columns, item_columns = side_features(prepared, events)
        rank = min(settings.prior_rank, len(prepared.users), len(prepared.items))
        states = sweeps(ratings, user_columns, item_columns, rank)
        for done, found in enumerate(islice(states, settings.prior_sweeps), start=1):
            advance(done, f"noise {scale * found.noise**0.5:.4f}")
    tables = Prior(
        mean=mean,
        item_bias=found.items.mean[:, 0] * np.float32(scale),
        user=found.users.mean * np.float32(scale),
        item=found.items.design,
        train=np.zeros(0, np.float32),
        column=None if _binary(target) else target.column,
    )
    train = tables.predict(events.user, events.item)
    train[usable] = mean + scale * (ratings.value - leave_one_out(found, ratings))
    return replace(tables, train=train.astype(np.float32))


def _binary(target: Target) -> bool:
    """Returns whether the prior is of labels 0 and 1: ratings are read as they are, whatever is made of them."""
    return target.kind == "binary" and target.column != "rating"


def _values(target: Target, events: Events) -> Floats:
    return events.rating if target.column == "rating" else labels(target, events)


def _usable(events: Events, values: Floats) -> npt.NDArray[np.bool_]:
    usable: npt.NDArray[np.bool_] = (
        np.isfinite(values) & (events.weight != 0) & (events.user > 0) & (events.item > 0)
    )
    return usable
