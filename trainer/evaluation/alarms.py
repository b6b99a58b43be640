"""What makes a figure untrustworthy: a model that says the same to everybody, and test events that leaked into training."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.data.examples import Cases, Events, Floats, Prepared
from trainer.data.reading.kinds import follows
from trainer.evaluation.answers import Answers

_ALIKE = 0.05  # share of cases with one score for everything from which it is worth a line
_SAME = 0.95  # share of cases with one and the same order


def collapse(answers: Answers, cases: int) -> list[str]:
    """Returns a line each for scores that are no numbers, that are all equal, or that order items alike for all."""
    lines = []
    if answers.broken:
        lines.append(
            f"collapse: {answers.broken} of {cases} cases have scores that are not numbers: put last"
        )
    flat = int(answers.alike.sum())
    if cases and flat / cases >= _ALIKE:
        lines.append(f"collapse: in {flat} of {cases} cases all items have one and the same score")
    if cases > 1:
        same = int(np.unique(answers.orders, return_counts=True)[1].max())
        if same / cases >= _SAME and same > 1:
            lines.append(f"collapse: {same} of {cases} cases order the items alike: one list for everybody")
    return lines


def constant(predicted: Floats) -> list[str]:
    """Returns a line where every event is given the same prediction."""
    if len(predicted) < 2 or np.ptp(predicted):
        return []
    return [f"collapse: all {len(predicted)} predictions are the same"]


def leakage(cases: Cases, prepared: Prepared) -> list[str]:
    """Returns a line each for positives that training has seen, and for what lies after the moment of a request."""
    lines = []
    width = len(prepared.items)
    users = np.repeat(cases.user, cases.positives.lengths)
    items = cases.positives.items
    known = (users > 0) & (items > 0)
    seen = np.isin(
        _pairs(users[known], items[known], width), _pairs(prepared.train.user, prepared.train.item, width)
    )
    if seen.any():
        lines.append(
            f"leakage: {int(seen.sum())} of {len(items)} positives are in training with the same user"
        )
    if cases.dropped:
        said = "repeat what their user had" if prepared.ordered else "were in training"
        most = prepared.ordered and cases.dropped > len(items)
        advice = (
            "; to ask for new items, keep of the table each user's first event with an item" if most else ""
        )
        lines.append(
            f"{'' if prepared.ordered else 'leakage: '}{cases.dropped} more positives of the test {said}: they are left out{advice}"
        )
    if prepared.ordered:
        lines += _later_events(cases, prepared)
    return lines


def context_of_items(prepared: Prepared, outcomes: Collection[str]) -> list[str]:
    """Returns a line for each column of the context that is the item's own: a test case has that of its answer.

    `outcomes` are columns that no request reads.
    """
    train = prepared.train
    return [
        f"leakage: context column {name!r} follows from the item, so that a request tells its answer: make it a feature "
        "of the item (data.source.items), or leave it out"
        for name, column in train.context.items()
        if name not in outcomes and column.ndim == 1 and follows(pl.Series(column), pl.Series(train.item))
    ]


def rated_leakage(events: Events, prepared: Prepared) -> list[str]:
    """Returns a line where training holds pairs of user and item that the test asks about; in order of time one may come again."""
    if prepared.ordered:
        return []
    known, width, train = events.known(), len(prepared.items), prepared.rated_train
    seen = np.isin(_pairs(known.user, known.item, width), _pairs(train.user, train.item, width))
    if not seen.any():
        return []
    return [f"leakage: {int(seen.sum())} of {len(events)} events are in training with the same user and item"]


def _later_events(cases: Cases, prepared: Prepared) -> list[str]:
    moment = np.repeat(cases.timestamp, cases.history.lengths)
    future = int((cases.history.timestamps > moment).sum())
    latest = np.full(len(prepared.users), np.iinfo(np.int64).min)
    np.maximum.at(latest, prepared.train.user, prepared.train.timestamp)
    trained = int(((latest[cases.user] > cases.timestamp) & (cases.user > 0)).sum())
    lines = []
    if future:
        lines.append(f"leakage: {future} events of the histories lie after the moment of their request")
    if trained:
        lines.append(f"leakage: training holds later events of the user in {trained} of {len(cases)} cases")
    return lines


def _pairs(
    users: npt.NDArray[np.integer], items: npt.NDArray[np.integer], width: int
) -> npt.NDArray[np.int64]:
    return users.astype(np.int64) * width + items
