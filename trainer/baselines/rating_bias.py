"""Ratings, or labels in their place, without taste: the mean of all, and the mean with what a user and an item add to it."""

import numpy as np
import numpy.typing as npt

from trainer.baselines.fitting import given
from trainer.data.examples import Events, Floats, Prepared
from trainer.errors import UserError
from trainer.evaluation.ranking import Predictor
from trainer.registry import register

Values = npt.NDArray[np.float64]
_ROUNDS = 10
_GRID = (5.0, 1.0, 2.0, 10.0, 20.0)


class Biases:
    """mean + user + item, each `[rows]` and 0 for the unknown."""

    def __init__(self, mean: float, user: Values, item: Values) -> None:
        self.mean, self.user, self.item = mean, user, item

    def predict(self, events: Events) -> Floats:
        """Returns predicted ratings `[events]`."""
        return (self.mean + self.user[events.user] + self.item[events.item]).astype(np.float32)


@register("rating_baseline", "global_mean")
class GlobalMean:
    """The mean of the training ratings for every event: for labels 0 and 1, the share of 1."""

    def __init__(self) -> None:
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> Predictor:
        """Returns the mean; raises `UserError` where no training event carries a rating."""
        rated = rated_events(prepared.rated_train)
        mean = float(rated.rating.mean(dtype=np.float64))
        return Biases(mean, np.zeros(len(prepared.users)), np.zeros(len(prepared.items)))


@register("rating_baseline", "user_item_bias")
class UserItemBias:
    """The mean plus a user's and an item's bias, shrunk to 0 as by `regularisation` further ratings of no bias.

    Koren, "Factor in the neighbors", 2010, section 2.1, by alternating least squares. None: chosen on
    validation.
    """

    def __init__(self, regularisation: float | None = None) -> None:
        self.regularisation = regularisation
        self.chosen: dict[str, float] = {}

    def fit(self, prepared: Prepared) -> Predictor:
        """Returns the fitted biases; raises `UserError` where no training event carries a rating."""
        rated = rated_events(prepared.rated_train)
        grid = given(self.regularisation, _GRID)
        fitted = {weight: fit_biases(rated, prepared, weight) for weight in grid}
        best = min(grid, key=lambda weight: validation_error(fitted[weight], prepared))
        self.chosen = {"regularisation": best}
        return fitted[best]


def rated_events(events: Events) -> Events:
    """Returns the events with a rating of known users and items; raises `UserError` where there are none."""
    kept = ~np.isnan(events.rating) & (events.user > 0) & (events.item > 0)
    if not kept.any():
        raise UserError("no training event carries a rating")
    return events.take(kept)


def fit_biases(rated: Events, prepared: Prepared, regularisation: float) -> Biases:
    """Returns the biases of least squared error with `regularisation` times their squares."""
    mean = float(rated.rating.mean(dtype=np.float64))
    user, item = np.zeros(len(prepared.users)), np.zeros(len(prepared.items))
    left = rated.rating.astype(np.float64) - mean
    for _ in range(_ROUNDS):
        item = _shrunk_mean(left - user[rated.user], rated.item, len(item), regularisation)
        user = _shrunk_mean(left - item[rated.item], rated.user, len(user), regularisation)
    return Biases(mean, user, item)


def validation_error(model: Predictor, prepared: Prepared) -> float:
    """Returns the validation RMSE; 0 where there is no rated validation event, so that the first choice stands."""
    events = prepared.rated_validation
    events = events.take(~np.isnan(events.rating))
    if not len(events):
        return 0.0
    return float(np.sqrt(np.square(model.predict(events) - events.rating).mean(dtype=np.float64)))


def _shrunk_mean(values: Values, rows: npt.NDArray[np.integer], count: int, regularisation: float) -> Values:
    mean: Values = np.bincount(rows, values, count) / (np.bincount(rows, minlength=count) + regularisation)
    return mean
