"""What the ranking model predicts: the labels of a target, and where its output begins."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from trainer.data.examples import Events, Floats, Prepared
from trainer.errors import UserError
from trainer.registry import did_you_mean
from trainer.settings import Target


@dataclass(frozen=True)
class Start:
    """Where a target's raw output begins, `offset + slope * prior`, the unit of the rest, and the range."""

    offset: float
    slope: float
    scale: float
    least: float
    most: float

    @classmethod
    def of(
        cls, target: Target, events: Events, prior: Floats | None, prior_column: str | None = "rating"
    ) -> "Start":
        """Returns a start at the prior where it predicts the target's own column, at its logistic regression if binary, else at the mean.

        `prior` `[events]` is what a model in closed form says of the events, if there is one.
        """
        column = labels(target, events)
        there = np.isfinite(column)
        known = column[there].astype(np.float64)
        if not len(known):
            raise UserError(
                f"no training event carries the label of ranking target {target.name!r} "
                f"(column {target.column!r}); map that column, "
                "choose another target, or set ranking.enabled=false"
            )
        least, most = float(known.min()), float(known.max())
        if target.kind == "binary":
            prior_of = np.zeros(len(known)) if prior is None else prior[there]
            return cls(*_logistic(prior_of, known), 1.0, 0.0, 1.0)
        scale = float(known.std()) or 1.0
        if prior is not None and target.column == prior_column:
            return cls(0.0, 1.0, scale, least, most)
        return cls(float(known.mean()), 0.0, scale, least, most)


def labels(target: Target, events: Events) -> Floats:
    """Returns a target's labels float32 `[events]`, NaN where an event has none; a weight is below 0 for a dislike."""
    known = {"rating": events.rating, "weight": events.weight} | dict(events.context)
    if target.column not in known:
        raise UserError(
            f"ranking target {target.name!r} reads column {target.column!r}"
            f"{did_you_mean(target.column, known)}"
        )
    try:
        column = np.asarray(known[target.column], dtype=np.float32)
    except ValueError:
        raise UserError(
            f"ranking target {target.name!r} reads column {target.column!r}, which holds no numbers"
        ) from None
    if target.kind == "regression":
        return column
    threshold = 0.5 if target.threshold is None else target.threshold
    return np.where(np.isfinite(column), column >= threshold, np.nan).astype(np.float32)


def as_ratings(prepared: Prepared, target: Target) -> Prepared:
    """Returns the data with a target's labels in the place of the ratings: what baselines of ratings learn then."""

    def told(events: Events) -> Events:
        return replace(events, rating=labels(target, events))

    return replace(
        prepared,
        rated_train=told(prepared.rated_train),
        rated_validation=told(prepared.rated_validation),
        rated_test=told(prepared.rated_test),
    )


def label_key(target: Target) -> str:
    """Returns the input name of a target's labels."""
    return f"label_{target.name}"


def _logistic(inputs: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Returns offset and slope of the logistic regression of 0/1 labels on an input; 0 slope on constants."""
    share = (labels.sum() + 0.5) / (len(labels) + 1)
    if labels.min() == labels.max() or inputs.min() == inputs.max():
        return float(np.log(share / (1 - share))), 0.0
    fitted = LogisticRegression().fit(inputs[:, None], labels)
    return float(fitted.intercept_[0]), float(fitted.coef_[0, 0])
