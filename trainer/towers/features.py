"""Features to vectors: the declared features of a side, or of the request, each read by the layer of its kind.

Item and user features are encoded when the tower is built and live in it as constants; context features are encoded in the input
pipeline while training, and inside the graph when serving.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from trainer.data.examples import Prepared
from trainer.data.interactions import LIMITS, Feature, FeatureKind, FeatureSettings
from trainer.errors import UserError
from trainer.towers.feature_layers import Labels, Number, Text, Time, Vector, words

MAX_WORDS = 20_000  # distinct words of a text feature
MIN_COUNT = 2  # times that a word must occur to be known: once, it would be one more id of its item
_COUNTED = {"text": "words", "bag": "labels", "ids": "ids"}
OTHERS = ("id", "history")  # what a tower fuses beside features

Raw = npt.NDArray[np.generic] | Sequence[Sequence[str]]
Values = npt.NDArray[np.generic]


class StaticFeatures(tf.keras.layers.Layer):
    """All features of users, or of items, as constant tables by row: `[...]` rows in, `[..., dimension]` out (summed)."""

    def __init__(
        self,
        features: Sequence[Feature],
        raw: Any,
        trained: int,
        dimension: int,
        shared: Mapping[str, Any] | None = None,
    ) -> None:
        """Fits each layer on the raw rows 1 to `trained`; those that features share come from `shared`."""
        super().__init__()
        # By name: a checkpoint must find each layer again, in whatever order the features are declared.
        self.towers: dict[str, tf.keras.layers.Layer] = {}
        self.tables: dict[str, tf.Tensor | tf.Variable] = {}
        self.names = _part_names(features, OTHERS, "feature_")
        for name, feature in zip(self.names, features, strict=True):
            values = as_raw(feature.kind, raw[feature.name])
            tower = _layer(feature, dimension, values[1 : trained + 1], shared)
            self.towers[name] = tower
            encoded = tower.encode(tf.constant(values))
            # Vectors are large, and a graph with large constants cannot be saved.
            constant = feature.kind != "vector"
            self.tables[name] = tf.constant(encoded) if constant else tf.Variable(encoded, trainable=False)

    def parts(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns each feature's vectors `[..., dimension]` of rows `[...]`, by name; rows beyond the tables are missing."""
        return {
            name: tower(tf.gather(self.tables[name], within(rows, self.tables[name])))
            for name, tower in self.towers.items()
        }

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the summed feature vectors `[..., dimension]` of rows `[...]`."""
        return tf.add_n(list(self.parts(rows).values()))


def within(rows: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Returns the rows `[...]`, 0 in place of those that a table has not: of what was new after the training."""
    return tf.where(rows < table.shape[0], rows, 0)


class ContextFeatures(tf.keras.layers.Layer):
    """All features of the request: encoded inputs by name in, `[batch, dimension]` out (summed)."""

    def __init__(
        self,
        features: Sequence[Feature],
        raw: Any,
        dimension: int,
        shared: Mapping[str, Any] | None = None,
        taken: Sequence[str] = OTHERS,
    ) -> None:
        """Fits each layer on the raw events; `taken` are the names of other parts, which a feature's part must not have."""
        super().__init__()
        self.names = _part_names(features, taken, "context_")
        self.towers = {
            feature.name: _layer(feature, dimension, as_raw(feature.kind, raw[feature.name]), shared)
            for feature in features
        }
        for name, tower in self.towers.items():
            tower.feature = name  # what a request calls it

    def encode(self, raw: Any) -> dict[str, tf.Tensor]:
        """Returns the encoded inputs of raw columns by name."""
        return {name: tower.encode(raw[name]) for name, tower in self.towers.items()}

    def parts(self, encoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns each feature's vectors `[batch, dimension]`, by name."""
        named = zip(self.names, self.towers.items(), strict=True)
        return {part: tower(encoded[name]) for part, (name, tower) in named}

    def call(self, encoded: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the summed vectors `[batch, dimension]`."""
        return tf.add_n(list(self.parts(encoded).values()))


def shared_layers(prepared: Prepared, dimension: int) -> dict[str, Any]:
    """Returns the layers that several features share, by the name of `shares`, each fitted on the training values of all of them.

    A text of the request and a text of the items that share one are read by the same weights: Siamese encoding.
    """
    schema = prepared.schema
    sides = (
        (schema.user, prepared.user_features, slice(1, prepared.users.trained + 1)),
        (schema.item, prepared.item_features, slice(1, prepared.items.trained + 1)),
        (schema.context, prepared.train.context, slice(None)),
    )
    first: dict[str, Feature] = {}
    training: dict[str, list[Values]] = {}
    for features, raw, rows in sides:
        for feature in features:
            if feature.shares is not None:
                first.setdefault(feature.shares, feature)
                training.setdefault(feature.shares, []).append(as_raw(feature.kind, raw[feature.name])[rows])
    for name, columns in training.items():
        widths = {column.shape[1:] for column in columns}
        if len(widths) > 1:
            raise UserError(
                f"the vectors that share {name!r} are of different lengths: they cannot share a layer"
            )
    return {name: make(feature, dimension, np.concatenate(training[name])) for name, feature in first.items()}


def make(feature: FeatureSettings, dimension: int, training: Values) -> Any:
    """Returns the layer that reads a feature, fitted on the raw training values `[rows]` of `as_raw`."""
    kind = feature.kind
    if kind in ("number", "count"):
        return Number(dimension, training.astype(np.float64), log=kind == "count")
    if kind == "time":
        return Time(dimension, training.astype(np.float64))
    if kind == "vector":
        return Vector(dimension, training.astype(np.float32))
    if kind == "category":
        return Labels(dimension, _frequent(training), 1, "label")
    if kind == "text":
        read = _text(dimension, training, feature.most)
        return Text(dimension, read, feature.ngrams, training.tolist()) if feature.ngrams else read
    bags = [bag.split("|") for bag in training]
    width = min(feature.most, max((len(bag) for bag in bags), default=1))
    vocabulary = _frequent([label for bag in bags for label in bag])
    return Labels(dimension, vocabulary, max(width, 2), "ids" if kind == "ids" else "labels")


def as_raw(kind: FeatureKind, values: Raw) -> Values:
    """Returns a column as one array `[rows]`: floats with NaN, or strings with "" where missing, bags joined by '|'.

    Strings are objects: in an array of a fixed width each would take the room of the longest.

    Vectors are `[rows, width]`, NaN where missing.
    """
    if kind == "vector":
        return np.asarray(values, dtype=np.float32)
    if kind in ("number", "count", "time"):
        return np.asarray(values, dtype=np.float64)
    if kind in ("bag", "ids"):
        joined = ["|".join(labels) if not isinstance(labels, str) else labels for labels in values]
        return np.array(joined, dtype=object)
    return np.array(["" if value is None else str(value) for value in values], dtype=object)


def unread(prepared: Prepared) -> list[str]:
    """Returns a line about every feature of which some rows are longer than what is read of them."""
    schema = prepared.schema
    sides = (
        ("user", schema.user, prepared.user_features),
        ("item", schema.item, prepared.item_features),
        ("context", schema.context, prepared.train.context),
    )
    lines = []
    for side, features, raw in sides:
        for feature in features:
            if feature.kind not in LIMITS:
                continue
            lengths = _lengths(feature.kind, as_raw(feature.kind, raw[feature.name]))
            longer = int((lengths > feature.most).sum())
            if longer:
                lines.append(
                    f"{side} feature {feature.name!r}: the first {feature.most} {_COUNTED[feature.kind]} are read; "
                    f"{longer:,} of {len(lengths):,} rows have more, up to {lengths.max():,} (its setting: limit)"
                )
    return lines


def _lengths(kind: FeatureKind, values: Values) -> npt.NDArray[np.int64]:
    """Returns how many words, labels or ids each of the values `[rows]` of `as_raw` has, about."""
    column = pl.Series(values, dtype=pl.String)
    parts = (
        column.str.count_matches(r"\S+")
        if kind == "text"
        else column.str.count_matches("|", literal=True) + 1
    )
    return parts.to_numpy().astype(np.int64)


def missing(spec: tf.TensorSpec, rows: Any) -> tf.Tensor:
    """Returns raw values of a layer's `raw_spec` that say nothing; `rows` is the shape `[1]` of their first axis."""
    shape = tf.concat([rows, spec.shape[1:]], axis=0)
    return tf.fill(shape, tf.constant("" if spec.dtype == tf.string else np.nan, spec.dtype))


def _part_names(features: Sequence[Feature], taken: Sequence[str], prefix: str) -> list[str]:
    return [f"{prefix}{feature.name}" if feature.name in taken else feature.name for feature in features]


def _layer(feature: Feature, dimension: int, training: Values, shared: Mapping[str, Any] | None) -> Any:
    if feature.shares is not None and shared is not None:
        return shared[feature.shares]
    return make(feature, dimension, training)


def _text(dimension: int, training: Values, limit: int) -> Labels:
    texts = words(tf.constant(training, tf.string), limit)
    counts = Counter(texts.flat_values.numpy().tolist())
    known = {word.decode(): count for word, count in counts.items() if count >= MIN_COUNT}
    vocabulary = _by_count(known)[:MAX_WORDS]
    width = int(texts.row_lengths().numpy().max(initial=1))
    return Labels(dimension, vocabulary, max(width, 2), "words")


def _frequent(labels: Any) -> list[str]:
    return _by_count(Counter(str(label) for label in labels if label))


def _by_count(counts: Mapping[str, int]) -> list[str]:
    return sorted(counts, key=lambda label: (-counts[label], label))
