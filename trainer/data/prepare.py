"""A data set to integers: split, vocabularies of the training part, events, and evaluation cases."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from trainer import registry
from trainer.data.examples import Cases, Events, Ints, Lists, Longs, Prepared, by_time, offsets_of
from trainer.data.interactions import Corpus, Dataset, Feature, Interactions
from trainer.data.opinions import liked_and_disliked, likes, opinions, without_weightless
from trainer.data.raw import RawFeatures, by_row
from trainer.data.split import Splits, resolve, split
from trainer.data.vocabulary import UNKNOWN, Vocabulary
from trainer.errors import UserError
from trainer.settings import DataSettings

logger = logging.getLogger("trainer")


def load_dataset(settings: DataSettings) -> Dataset:
    """Returns the data set that `settings.source` names, as it is."""
    source = settings.source
    dataset: Dataset = registry.build("source", source.name, source.settings, "data.source").load()
    return dataset


def prepare(dataset: Dataset, settings: DataSettings) -> Prepared:
    """Returns the data set ready to train on.

    Vocabularies hold the training part's ids; ids of the user and item tables follow only where these
    declare features that could describe them. With `min_rating`, events rated below it (or not rated) take
    no part in retrieval: neither in training, nor in histories, nor as positives; the `rated_*` parts keep
    every event. Neither do dislikes (`behaviours` of negative weight, `dislike_rating`): they are kept as
    `negative`. Behaviours of weight 0 are left out before anything else.

    A positive that the user already had in the history, or disliked, is dropped, for both are masked in every
    answer: repeated consumption is out of scope. The number of them is logged.

    Raises `UserError` where nothing is left to train or test on.
    """
    dataset = without_weightless(dataset, settings.behaviours)
    parts, filters = split(dataset, settings.split), _filters(settings)
    users = Vocabulary.fit(parts.train.frame["user_id"], _catalogue(dataset.users, dataset.schema.user))
    items = Vocabulary.fit(parts.train.frame["item_id"], _catalogue(dataset.items, dataset.schema.item))
    raw = RawFeatures.of(dataset, users, items)
    code = Coding(users, items, settings, dataset.schema.context, raw)
    wide = _with_strangers(parts, code)
    train, validation, test = _coded(parts, wide)
    liked, negative = liked_and_disliked(train, settings.min_rating)
    if not len(liked):
        raise UserError(f"{filters} leaves no training event")
    begun = train.merged(validation)
    before_test, everything = (
        [_known(side, among.users, among.items) for side in liked_and_disliked(events, settings.min_rating)]
        for events, among in ((begun, code), (begun.merged(test), wide))
    )
    titles = _titles(dataset, wide.items)
    comparable = resolve(dataset, settings.split.method) == "leave_last_out" and not filters
    prepared = Prepared(
        schema=dataset.schema,
        users=users,
        items=items,
        user_features=raw.table(dataset.users, dataset.schema.user),
        item_features=raw.table(dataset.items, dataset.schema.item),
        titles=titles[: len(items)],
        train=liked,
        validation=_cases(train, validation, code, parts.ordered),
        test=_cases(begun, test, code, parts.ordered),
        rated_train=train,
        rated_validation=_known(validation, users, items),
        rated_test=_known(test, users, items),
        ordered=parts.ordered,
        timed=parts.train.has_time,
        before_test=before_test[0],
        everything=everything[0],
        best_reachable=dataset.best_reachable if comparable else {},
        negative=negative,
        negative_before_test=before_test[1],
        negative_everything=everything[1],
        liked=likes(train, settings.min_rating)[0],
        newcomers=wide.users.values[len(users.values) :],
        new_items=dict(zip(wide.items.values[len(items.values) :], titles[len(items) :], strict=True)),
    )
    if not len(prepared.test):
        filtered = f", or {filters} leaves them out" if filters else ""
        raise UserError(f"no test event is left to find: all stand in their user's history{filtered}")
    return prepared


@dataclass(frozen=True)
class Coding:
    """How events become integers."""

    users: Vocabulary
    items: Vocabulary
    settings: DataSettings
    context: tuple[Feature, ...]
    raw: RawFeatures


def _filters(settings: DataSettings) -> str:
    """Returns the settings that keep events from being positives, for messages; "" where there are none."""
    return " and ".join(
        f"data.{name}" if isinstance(value, dict) else f"data.{name}={value}"
        for name in ("min_rating", "dislike_rating", "behaviours")
        if (value := getattr(settings, name)) not in (None, {})
    )


def _catalogue(corpus: Corpus, features: tuple[Feature, ...]) -> Iterable[str]:
    return corpus.frame[corpus.id_column].to_list() if features else ()


def _with_strangers(parts: Splits, code: Coding) -> Coding:
    """Returns the coding that gives ids outside the vocabularies rows after theirs, to stay apart."""
    later = [parts.validation.frame, parts.test.frame]

    def wider(vocabulary: Vocabulary, column: str) -> Vocabulary:
        asked = pl.concat([frame[column] for frame in later]).unique()
        strangers = asked.filter(pl.Series(vocabulary.encode(asked) == UNKNOWN)).sort().to_list()
        return Vocabulary((*vocabulary.values, *strangers), vocabulary.trained)

    return replace(code, users=wider(code.users, "user_id"), items=wider(code.items, "item_id"))


def _coded(parts: Splits, code: Coding) -> tuple[Events, Events, Events]:
    """Returns the parts as events. Where training has no times, all are numbered; a later part without them is put behind all that have."""
    frames = [parts.train, parts.validation, parts.test]
    timed = parts.train.has_time
    first = 1 + max(int(part.frame["timestamp"].max()) for part in frames if part.has_time) if timed else 0  # type: ignore[arg-type]
    found = []
    for name, part in zip(("train", "validation", "test"), frames, strict=True):
        own = timed and part.has_time
        if timed and len(part) and not own:
            logger.info("the %s part has no times, and training has: its events are taken to be later", name)
        found.append(_events(part, code, None if own else first))
        first += 0 if own else len(part)
    train, validation, test = found
    return train, validation, test


def _events(part: Interactions, code: Coding, first: int | None) -> Events:
    """Returns a part's events by user and time; those of dislikes have a weight below 0, or -0.

    With `first` they are numbered from there, in place of their times.
    """
    frame = part.frame
    times = frame["timestamp"] if first is None else np.arange(first, first + len(part), dtype=np.int64)
    user, timestamp = code.users.encode(frame["user_id"]), pl.Series(times).cast(pl.Int64).to_numpy()
    order = by_time(user, timestamp)
    return Events(
        user=user[order],
        item=code.items.encode(frame["item_id"])[order],
        timestamp=timestamp[order],
        rating=_floats(frame["rating"])[order],
        weight=(np.abs(_floats(frame["weight"])) * opinions(frame, code.settings))[order],
        context={
            feature.name: code.raw.column(frame[feature.name], feature)[order] for feature in code.context
        },
    )


def _floats(column: pl.Series) -> npt.NDArray[np.float32]:
    return column.cast(pl.Float32).fill_null(float("nan")).to_numpy()


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


def _cases(past: Events, future: Events, code: Coding, ordered: bool) -> Cases:
    """Returns one case for each user of `future` with something left to find, strangers included.

    An event of the history whose item is outside the vocabulary is left out: a model can make nothing of it.
    """
    users, items, min_rating = code.users, code.items, code.settings.min_rating
    future = future.take(
        ~np.signbit(future.weight) & (True if min_rating is None else future.rating >= min_rating)
    )
    width = int(max(past.item.max(initial=0), future.item.max(initial=0))) + 1
    people = int(max(past.user.max(initial=0), future.user.max(initial=0))) + 1
    if ordered:
        begin = np.full(people, np.iinfo(np.int64).min)
        begin[future.user[::-1]] = future.timestamp[::-1]  # backwards, so that each user's first event stands
        past = past.take(past.timestamp <= begin[past.user])
    past, disliked = liked_and_disliked(past, min_rating)
    had = pl.Series(np.concatenate([_pairs(past, width), _pairs(disliked, width)]))
    asked = pl.Series(_pairs(future, width))
    fresh = ~asked.is_in(had.implode()).to_numpy()
    if not fresh.all():
        logger.info(
            "%d of %d held-out events repeat what their user had before, and are no positives",
            (~fresh).sum(),
            len(fresh),
        )
    future = future.take(fresh & asked.is_first_distinct().to_numpy())
    who, start, counts = np.unique(future.user, return_index=True, return_counts=True)
    past, disliked = (side.take(_row(side.item, items) != UNKNOWN) for side in (past, disliked))
    positives = Lists(offsets_of(counts), _row(future.item, items), future.timestamp)
    return Cases(
        user=_row(who, users),
        history=past.by_user(people).take(who),
        positives=positives,
        timestamp=future.timestamp[start],
        context={name: column[start] for name, column in future.context.items()},
        disliked=disliked.by_user(people).take(who) if len(disliked) else None,
        dropped=int((~fresh).sum()),
    )


def _pairs(events: Events, width: int) -> Longs:
    return events.user.astype(np.int64) * width + events.item


def _titles(dataset: Dataset, items: Vocabulary) -> tuple[str, ...]:
    ids = ("", *items.values)
    if dataset.schema.title is None:
        return ids
    titles = by_row(dataset.items, items)[dataset.schema.title].cast(pl.String).to_list()
    return tuple(title or row_id for title, row_id in zip(titles, ids, strict=True))
