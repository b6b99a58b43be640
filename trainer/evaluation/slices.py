"""Where a model is good and where it is not: masks over cases, positives or events, by name and label."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.data.examples import Cases, Events, Prepared
from trainer.data.interactions import Feature, Schema
from trainer.errors import UserError
from trainer.registry import did_you_mean

Mask = npt.NDArray[np.bool_]
Slices = dict[str, dict[str, Mask]]
Raw = npt.NDArray[np.generic] | list[list[str]]

_LENGTHS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, np.iinfo(np.int64).max)}
_LABELS = 20  # labels of a category or bag that get a slice of their own, the most frequent
HEAD, TAIL = 0.2, 0.8  # shares of the training events


def by_length(lengths: npt.NDArray[np.integer]) -> dict[str, Mask]:
    """Returns masks `[n]` by the number of events in the history: 0, 1-4, 5-19, 20 and more."""
    return {label: (lengths >= low) & (lengths <= high) for label, (low, high) in _LENGTHS.items()}


def by_popularity(rows: npt.NDArray[np.integer], counts: npt.NDArray[np.integer]) -> dict[str, Mask]:
    """Returns masks `[n]` of item `rows` by their training events `counts` `[rows of the vocabulary]`.

    Head: the most popular items that gather the first 20 % of all events; tail: the least popular that
    gather the last 20 %; mid: those between; unseen: no event, items outside the corpus among them.
    Abdollahpouri et al., "The connection between popularity bias, calibration, and fairness in
    recommendation", 2020.
    """
    counts = counts.copy()
    counts[0] = 0
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of all more popular items
    share = np.empty(len(counts))
    share[order] = before / max(int(counts.sum()), 1)
    group = np.select([counts == 0, share < HEAD, share < TAIL], [3, 0, 1], 2)[rows]
    return {label: group == number for number, label in enumerate(("head", "mid", "tail", "unseen"))}


def by_column(
    columns: Sequence[str],
    prepared: Prepared,
    users: npt.NDArray[np.integer],
    items: npt.NDArray[np.integer],
    context: Mapping[str, npt.NDArray[np.generic]],
) -> tuple[Slices, Slices, list[str]]:
    """Returns slices over `users` (or the context beside them), slices over `items`, and a line for each left out.

    A category or bag gives one slice a label (an item with several labels is in several), a number or time
    one each quartile. Raises `UserError` for a column that the schema does not declare.
    """
    asked, wanted, lines = {}, {}, []
    for name in columns:
        side, feature = _find(prepared.schema, name)
        if feature.kind in ("text", "vector"):
            lines.append(f"no slices by {name}: it is {feature.kind}")
        elif side == "item":
            wanted[name] = _masks(feature, _at(prepared.item_features[name], items))
        elif side == "user":
            asked[name] = _masks(feature, _at(prepared.user_features[name], users))
        elif name in context:
            asked[name] = _masks(feature, context[name])
        else:
            lines.append(f"no slices by {name}: these events do not carry it")
    return asked, wanted, lines


def of_cases(
    cases: Cases, prepared: Prepared, counts: npt.NDArray[np.integer], columns: Sequence[str]
) -> tuple[Slices, Slices, list[str]]:
    """Returns slices over the cases, slices over their positives (flat), and lines about what is left out."""
    asked, wanted, lines = by_column(columns, prepared, cases.user, cases.positives.items, cases.context)
    lengths = {"history_length": by_length(cases.history.lengths)}
    return lengths | asked, {"item_popularity": by_popularity(cases.positives.items, counts)} | wanted, lines


def of_events(events: Events, prepared: Prepared, columns: Sequence[str]) -> tuple[Slices, list[str]]:
    """Returns slices over rated events, by the training ratings of their user and item, and lines."""
    known = np.bincount(prepared.rated_train.user, minlength=len(prepared.users))
    known[0] = 0
    counts = np.bincount(prepared.rated_train.item, minlength=len(prepared.items))
    asked, wanted, lines = by_column(columns, prepared, events.user, events.item, events.context)
    fixed = {
        "history_length": by_length(known[events.user]),
        "item_popularity": by_popularity(events.item, counts),
    }
    return fixed | asked | wanted, lines


def labels_of(feature: Feature, value: object) -> list[str]:
    """Returns the labels of a category's or a bag's raw value; a bag is a list, or a text parted by `|`."""
    if feature.kind in ("bag", "ids") and isinstance(value, list | tuple | np.ndarray):
        return [str(label) for label in value if label]
    if feature.kind in ("bag", "ids"):
        return [label for label in str(value or "").split("|") if label]
    return [str(value)] if value is not None and value != "" else []


def _find(schema: Schema, name: str) -> tuple[str, Feature]:
    sides = {"user": schema.user, "item": schema.item, "context": schema.context}
    for side, features in sides.items():
        for feature in features:
            if feature.name == name:
                return side, feature
    known = [feature.name for features in sides.values() for feature in features]
    raise UserError(f"setting evaluate.slices: no column {name!r} in the schema{did_you_mean(name, known)}")


def _at(values: Raw, rows: npt.NDArray[np.integer]) -> Raw:
    return [values[row] for row in rows] if isinstance(values, list) else values[rows]


def _masks(feature: Feature, values: Raw) -> dict[str, Mask]:
    if feature.kind in ("number", "count", "time"):
        return _quartiles(np.asarray(values, np.float64), times=feature.kind == "time")
    return _labels([labels_of(feature, value) for value in values])


def _labels(lists: Iterable[Sequence[str]]) -> dict[str, Mask]:
    lists = [labels or ["(missing)"] for labels in lists]
    lengths = [len(labels) for labels in lists]
    place = np.repeat(np.arange(len(lists)), lengths)
    flat = pl.Series([label for labels in lists for label in labels], dtype=pl.String)
    counted = flat.value_counts(name="count").sort(["count", flat.name], descending=[True, False])
    masks = {}
    for name in sorted(counted[flat.name][:_LABELS]):
        masks[name] = np.zeros(len(lists), bool)
        masks[name][place[(flat == name).to_numpy()]] = True
    return masks


def _quartiles(values: npt.NDArray[np.float64], times: bool) -> dict[str, Mask]:
    known = np.isfinite(values)
    if not known.any():
        return {"(missing)": ~known}
    bounds = np.quantile(values[known], [0, 0.25, 0.5, 0.75, 1])
    edges = np.unique(np.floor(bounds) if times else bounds)
    said = np.datetime_as_string(edges.astype("datetime64[s]")).tolist() if times else _distinct(edges)
    group = np.searchsorted(edges[1:-1], values, side="left")
    masks = {}
    for number in range(max(len(edges) - 1, 1)):
        low, high = said[number], said[min(number + 1, len(edges) - 1)]
        masks[f"{low} to {high}"] = known & (group == number)
    return masks | ({"(missing)": ~known} if not known.all() else {})


def _distinct(numbers: npt.NDArray[np.float64]) -> list[str]:
    """Returns different numbers as texts with as few digits as tell them apart, six at least."""
    texts = ([f"{number:.{digits}g}" for number in numbers] for digits in range(6, 18))
    return next(found for found in texts if len(set(found)) == len(numbers))
