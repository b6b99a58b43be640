"""What a request may ask beyond k: only some items or categories, more or less popular ones, a list that repeats itself less."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.data.examples import Floats, Prepared
from trainer.data.interactions import Feature
from trainer.errors import UserError
from trainer.index.top import LOWEST, Top
from trainer.registry import did_you_mean
from trainer.towers.features import as_raw
from trainer.towers.lookup import string_lookup

LABELLED = ("category", "bag")  # kinds of features that can filter
USUAL = ("category", "categories", "genre", "genres")  # usual names of the feature that filters
MOST_POPULARITY = 1e3  # either way of that dial: beyond it the log of popularity alone orders a list, and float32 loses the score
POOL = 200  # places of a list that are made more diverse; further ones follow as they are


@dataclass(frozen=True)
class Wish:
    """What a request wishes, a row each: allowed item ids and labels `[batch, n]`, dials `[batch]`."""

    allow: tf.Tensor
    category: tf.Tensor
    diversity: tf.Tensor
    popularity: tf.Tensor


class Alike(Protocol):
    """What tells how much items are alike."""

    def among(self, rows: tf.Tensor, there: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns a function of one place `[batch]` of each list of item rows: how similar its places `[batch, n]` are to it, -1 to 1."""
        ...


def filter_feature(prepared: Prepared, name: str) -> Feature | None:
    """Returns the item feature that requests filter by: the one called `name`, None for `none`, for `auto` one with labels.

    That is the one with a usual name, else with such a word in its name, else the first by name.

    Raises `UserError` about a feature that does not exist, or has no labels.
    """
    labelled = {one.name: one for one in prepared.schema.item if one.kind in LABELLED}
    if name not in ("auto", "none", *labelled):
        raise UserError(
            f"export.category={name}: no item feature of kind category or bag{did_you_mean(name, labelled)}"
        )
    if name == "auto":
        # category_code, main_genre
        spoken = (one for usual in USUAL for one in labelled if usual in one.lower())
        name = next((usual for usual in USUAL if usual in labelled), next(spoken, min(labelled, default="")))
    return labelled.get(name)


def log_popularity(prepared: Prepared) -> Floats:
    """Returns log(1 + events) of each item row, of the events `before_test`."""
    rows = prepared.before_test.item
    return np.log1p(np.bincount(rows, minlength=len(prepared.items))).astype(np.float32)


class Categories(tf.Module):
    """The labels of every item in one category or bag feature."""

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        super().__init__()
        values = sorted({label for row in rows for label in row})
        self.values = tuple(values)
        self.lookup = string_lookup(values)
        self.places = int(self.lookup.vocabulary_size())  # of labels, the unknown one first
        self.items = len(rows)
        places = {label: place for place, label in enumerate(values, start=1)}
        labels = np.array([places[label] for row in rows for label in row], np.int32)
        owners = np.repeat(np.arange(len(rows), dtype=np.int32), [len(row) for row in rows])
        self.labels = tf.Variable(labels, trainable=False, name="labels")
        self.owners = tf.Variable(owners, trainable=False, name="items_of_labels")

    @classmethod
    def of(cls, prepared: Prepared, feature: Feature | None) -> "Categories":
        """Returns the labels of an item feature; of none: no item has a label."""
        if feature is None:
            return cls([[]] * len(prepared.items))
        name, kind = feature.name, feature.kind
        column = as_raw(kind, prepared.item_features[name]).tolist()
        split = [value.split("|") if kind == "bag" else [value] for value in column]
        return cls([[label for label in labels if label] for labels in split])

    def eligible(self, asked: tf.Tensor) -> tf.Tensor:
        """Returns which items `[batch, items]` carry one of the labels `[batch, n]`; all do where a row asks for none ("")."""
        rows = tf.cast(self.lookup(asked), tf.int32)
        wanted = marked(tf.where(rows > 0, rows, -1), self.places)
        hits = tf.gather(tf.cast(tf.transpose(wanted), tf.int32), self.labels)
        found = tf.transpose(tf.math.unsorted_segment_max(hits, self.owners, self.items)) > 0
        return found | tf.reduce_all(asked == "", axis=1, keepdims=True)


def marked(rows: tf.Tensor, size: int) -> tf.Tensor:
    """Returns bool `[batch, size]`, true at each row's numbers `[batch, n]`; -1 marks nothing."""
    batch = tf.repeat(tf.range(tf.shape(rows)[0]), tf.shape(rows)[1])
    places = tf.stack([batch, tf.reshape(rows, [-1]) + 1], axis=1)
    hits = tf.scatter_nd(places, tf.ones_like(places[:, 0]), tf.stack([tf.shape(rows)[0], size + 1]))
    return hits[:, 1:] > 0


def allowed(rows: tf.Tensor, ids: tf.Tensor, size: int) -> tf.Tensor:
    """Returns which items `[batch, items]` the item rows `[batch, n]` of `ids` name; all where every id of a row is ""."""
    return marked(rows, size) | tf.reduce_all(ids == "", axis=1, keepdims=True)


def diversified(top: Top, alike: Alike, dial: tf.Tensor, k: tf.Tensor) -> Top:
    """Returns a list in the order of maximal marginal relevance (Carbonell & Goldstein 1998), each item with its own score.

    The next item is the one with the highest `(1 - dial) * relevance - dial * similarity`: relevance is the score within 0 and 1,
    similarity the highest with what already stands in the list, as `similar_items` compares them. `dial` `[batch]` is cut to 0..1, and 0
    changes nothing. The first `POOL` places take part, of which the best `k` are chosen.
    """
    rows, scores = top
    pool, steps = (tf.minimum(size, tf.shape(rows)[1]) for size in (POOL, tf.minimum(k, POOL)))
    there = scores[:, :pool] > LOWEST
    similarity = alike.among(rows[:, :pool], there)
    dial = tf.clip_by_value(finite(dial), 0.0, 1.0)[:, None]
    relevance = (1.0 - dial) * _within_one(scores[:, :pool], there)
    filled = tf.where(there, 0.0, -10.0)  # empty places come last, but before what is in the list already

    def step(place: tf.Tensor, order: tf.Tensor, taken: tf.Tensor, nearest: tf.Tensor) -> tuple[Any, ...]:
        chosen = tf.argmax(relevance - dial * nearest + filled - 100.0 * taken, axis=1, output_type=tf.int32)
        return (
            place + 1,
            tf.concat([order, chosen[:, None]], axis=1),
            taken + tf.one_hot(chosen, pool),
            tf.maximum(nearest, similarity(chosen)),
        )

    start = (0, rows[:, :0], tf.zeros_like(relevance), -tf.ones_like(relevance))
    wide = tf.TensorShape([None, None])
    shapes = (tf.TensorShape([]), wide, wide, wide)
    places = tf.while_loop(lambda place, *_: place < steps, step, start, shapes)[1]
    places = tf.concat([places, tf.zeros_like(rows[:, pool:]) + tf.range(pool, tf.shape(rows)[1])], axis=1)
    return tf.gather(rows, places, batch_dims=1), tf.gather(scores, places, batch_dims=1)


def finite(dial: tf.Tensor) -> tf.Tensor:
    """Returns the dials, 0 where they are no number."""
    return tf.where(tf.math.is_finite(dial), dial, 0.0)


def _within_one(scores: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Returns each row's scores moved and scaled to 0..1, 0 at empty places."""
    most = tf.reduce_max(tf.where(there, scores, LOWEST), axis=1, keepdims=True)
    least = tf.reduce_min(tf.where(there, scores, tf.float32.max), axis=1, keepdims=True)
    span = tf.maximum(most - least, 1e-12)
    return tf.where(there, (scores - least) / span, 0.0)
