"""A data set to integers: split, vocabularies of the training part, events, and evaluation cases."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer.config import DataSettings
from trainer.data.examples import Cases, Events, Ints, Lists, Longs, Prepared
from trainer.data.interactions import Corpus, Dataset, Feature, FeatureKind, Interactions
from trainer.data.split import Splits, resolve, split
from trainer.data.vocabulary import UNKNOWN, Vocabulary
from trainer.errors import UserError

logger = logging.getLogger("trainer")

Column = npt.NDArray[np.generic]


def prepare(dataset: Dataset, settings: DataSettings) -> Prepared:
    """Returns the data set ready to train on.

    Vocabularies hold the training part's ids; ids of the user and item tables follow only where these
    declare features that could describe them. With `min_rating`, events rated below it (or not rated) take
    no part in retrieval: neither in training, nor in histories, nor as positives; the `rated_*` parts keep
    every event.

    A positive that the user already had in the history is dropped, for the history is masked in every
    answer: repeated consumption is out of scope. The number of them is logged.

    Raises `UserError` where nothing is left to train or test on.
    """
    parts = split(dataset, settings.split)
    users = Vocabulary.fit(parts.train.frame["user_id"], _catalogue(dataset.users, dataset.schema.user))
    items = Vocabulary.fit(parts.train.frame["item_id"], _catalogue(dataset.items, dataset.schema.item))
    train, validation, test = _coded(parts, users, items, dataset.schema.context)
    positives = [_liked(part, settings.min_rating) for part in (train, validation, test)]
    if not len(positives[0]):
        raise UserError(f"data.min_rating={settings.min_rating} leaves no training event")
    before_test = _merge(positives[0], positives[1])
    comparable = resolve(dataset, settings.split.method) == "leave_last_out" and settings.min_rating is None
    prepared = Prepared(
        schema=dataset.schema,
        users=users,
        items=items,
        user_features=_features(dataset.users, dataset.schema.user, users),
        item_features=_features(dataset.items, dataset.schema.item, items),
        titles=_titles(dataset, items),
        train=positives[0],
        validation=_cases(positives[0], positives[1], users, items, parts.ordered),
        test=_cases(before_test, positives[2], users, items, parts.ordered),
        rated_train=train,
        rated_validation=_known(validation, users, items),
        rated_test=_known(test, users, items),
        ordered=parts.ordered,
        timed=dataset.interactions.has_time,
        before_test=_known(before_test, users, items),
        everything=_known(_merge(before_test, positives[2]), users, items),
        best_reachable=dataset.best_reachable if comparable else {},
    )
    if not len(prepared.test):
        raise UserError(
            "no test event is left to find: all are below data.min_rating or stand in their user's history"
        )
    return prepared


def raw_column(column: pl.Series, kind: FeatureKind) -> Column:
    """Returns raw values `[rows]`: float64 with NaN, or strings with "" where missing; bags joined by '|'."""
    if kind in ("number", "time"):
        return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if isinstance(column.dtype, pl.List):
        column = column.list.join("|")
    column = column.cast(pl.String).fill_null("")
    labels = column.unique(maintain_order=True)
    rows = column.cast(pl.Enum(labels)).to_physical().to_numpy()
    values: Column = np.array([*labels.to_list(), ""], dtype=object)[rows]
    return values


def _catalogue(corpus: Corpus, features: tuple[Feature, ...]) -> Iterable[str]:
    return corpus.frame[corpus.id_column].to_list() if features else ()


def _coded(
    parts: Splits, users: Vocabulary, items: Vocabulary, context: tuple[Feature, ...]
) -> tuple[Events, Events, Events]:
    """Returns the parts as events. Ids outside the vocabularies get rows after theirs, to stay apart."""
    frames = [parts.train, parts.validation, parts.test]
    everyone = _with_strangers(users, [part.frame["user_id"] for part in frames[1:]])
    everything = _with_strangers(items, [part.frame["item_id"] for part in frames[1:]])
    first = np.cumsum([0, *(len(part) for part in frames)])
    timed = all(part.has_time or not len(part) for part in frames)
    train, validation, test = (
        _events(part, everyone, everything, context, int(start), timed)
        for part, start in zip(frames, first[:-1], strict=True)
    )
    return train, validation, test


def _with_strangers(vocabulary: Vocabulary, columns: Iterable[pl.Series]) -> Vocabulary:
    asked = pl.concat(list(columns)).unique()
    strangers = asked.filter(pl.Series(vocabulary.encode(asked) == UNKNOWN)).sort().to_list()
    return Vocabulary((*vocabulary.values, *strangers), vocabulary.trained)


def _events(
    part: Interactions,
    users: Vocabulary,
    items: Vocabulary,
    context: tuple[Feature, ...],
    first: int,
    timed: bool,
) -> Events:
    frame = part.frame
    number = np.arange(first, first + len(part), dtype=np.int64)
    keys = pl.DataFrame(
        {
            "user": users.encode(frame["user_id"]),
            "timestamp": frame["timestamp"].to_numpy() if timed and len(part) else number,
        }
    )
    order = keys.select(pl.arg_sort_by(["user", "timestamp"], maintain_order=True)).to_series().to_numpy()
    return Events(
        user=keys["user"].to_numpy()[order],
        item=items.encode(frame["item_id"])[order],
        timestamp=keys["timestamp"].cast(pl.Int64).to_numpy()[order],
        rating=_floats(frame["rating"])[order],
        weight=_floats(frame["weight"])[order],
        context={feature.name: raw_column(frame[feature.name], feature.kind)[order] for feature in context},
    )


def _floats(column: pl.Series) -> npt.NDArray[np.float32]:
    return column.cast(pl.Float32).fill_null(float("nan")).to_numpy()


def _liked(events: Events, min_rating: float | None) -> Events:
    return events if min_rating is None else events.take(events.rating >= min_rating)


def _known(events: Events, users: Vocabulary, items: Vocabulary) -> Events:
    """Returns the events with strangers set to the unknown, and so moved to the front, by time."""
    strange = events.user >= len(users)
    known = replace(events, user=_row(events.user, users), item=_row(events.item, items))
    if not strange.any():
        return known
    first = np.flatnonzero(strange)
    first = first[np.argsort(events.timestamp[first], kind="stable")]
    return known.take(np.concatenate([first, np.flatnonzero(~strange)]))


def _row(rows: Ints, vocabulary: Vocabulary) -> Ints:
    return np.where(rows < len(vocabulary), rows, UNKNOWN).astype(np.int32)


def _merge(first: Events, second: Events) -> Events:
    """Returns both parts' events by user and time, at one moment those of `first` first; without context."""
    user = np.concatenate([first.user, second.user])
    timestamp = np.concatenate([first.timestamp, second.timestamp])
    joined = Events(
        user,
        np.concatenate([first.item, second.item]),
        timestamp,
        np.concatenate([first.rating, second.rating]),
        np.concatenate([first.weight, second.weight]),
    )
    keys = pl.DataFrame({"user": user, "timestamp": timestamp})
    order = keys.select(pl.arg_sort_by(["user", "timestamp"], maintain_order=True)).to_series().to_numpy()
    return joined.take(order)


def _cases(past: Events, future: Events, users: Vocabulary, items: Vocabulary, ordered: bool) -> Cases:
    """Returns one case for each user of `future` with something left to find, strangers included.

    An event of the history whose item is outside the vocabulary is left out: a model can make nothing of it.
    """
    width = int(max(past.item.max(initial=0), future.item.max(initial=0))) + 1
    people = int(max(past.user.max(initial=0), future.user.max(initial=0))) + 1
    if ordered:
        begin = np.full(people, np.iinfo(np.int64).min)
        begin[future.user[::-1]] = future.timestamp[::-1]  # backwards, so that each user's first event stands
        past = past.take(past.timestamp <= begin[past.user])
    had = pl.Series(_pairs(past, width))
    asked = pl.Series(_pairs(future, width))
    fresh = ~asked.is_in(had.implode()).to_numpy()
    if not fresh.all():
        logger.info(
            "%d of %d positives were in their user's history and are dropped", (~fresh).sum(), len(fresh)
        )
    future = future.take(fresh & asked.is_first_distinct().to_numpy())
    who, start, counts = np.unique(future.user, return_index=True, return_counts=True)
    past = past.take(_row(past.item, items) != UNKNOWN)
    positives = Lists(_offsets(counts), _row(future.item, items), future.timestamp)
    return Cases(
        user=_row(who, users),
        history=past.by_user(people).take(who),
        positives=positives,
        timestamp=future.timestamp[start],
        context={name: column[start] for name, column in future.context.items()},
    )


def _pairs(events: Events, width: int) -> Longs:
    return events.user.astype(np.int64) * width + events.item


def _offsets(counts: npt.NDArray[np.integer]) -> Longs:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _features(
    corpus: Corpus, features: tuple[Feature, ...], vocabulary: Vocabulary
) -> dict[str, Column | list[list[str]]]:
    """Returns the raw feature columns by vocabulary row; row 0 and ids not in the table are missing."""
    table = _by_row(corpus, vocabulary)
    columns: dict[str, Column | list[list[str]]] = {}
    for feature in features:
        column = table[feature.name]
        if feature.kind == "bag" and isinstance(column.dtype, pl.List):
            columns[feature.name] = [
                [label for label in bag or () if label] for bag in column.cast(pl.List(pl.String)).to_list()
            ]
        else:
            columns[feature.name] = raw_column(column, feature.kind)
    return columns


def _by_row(corpus: Corpus, vocabulary: Vocabulary) -> pl.DataFrame:
    rows = pl.DataFrame({corpus.id_column: pl.Series(["", *vocabulary.values], dtype=pl.String)})
    return rows.join(corpus.frame, on=corpus.id_column, how="left", maintain_order="left")


def _titles(dataset: Dataset, items: Vocabulary) -> tuple[str, ...]:
    ids = ("", *items.values)
    if dataset.schema.title is None:
        return ids
    titles = _by_row(dataset.items, items)[dataset.schema.title].cast(pl.String).to_list()
    return tuple(title or row_id for title, row_id in zip(titles, ids, strict=True))
