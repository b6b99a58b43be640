"""Features to vectors: one small Keras layer a kind, each with an `encode` that runs once and a `call` that trains.

`encode` takes raw values (strings, numbers) to the integers or floats of a table `[rows, width]`; statistics and vocabularies are
those of the training part. `call` takes encoded rows `[..., width]` to vectors `[..., dimension]`. Item and user features are encoded
when the tower is built and live in it as constants; context features are encoded in the input pipeline while training, and inside the
graph when serving.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.interactions import Feature, FeatureKind

BUCKETS = 16  # quantile buckets of a number
MAX_LABELS = 16  # labels of a bag, or words of a text, that are read
MAX_WORDS = 20_000  # distinct words of a text feature
MIN_ITEMS = 2  # times that a word must occur to be known
DAY = 86_400.0
CYCLES = (DAY, 7 * DAY, 365.25 * DAY)  # seconds: hour of the day, day of the week, time of the year

Raw = npt.NDArray[np.generic] | Sequence[Sequence[str]]


class Labels(tf.keras.layers.Layer):
    """The mean of the embeddings of a row's labels: categories (one label), bags (several) and texts (words)."""

    def __init__(self, dimension: int, vocabulary: Sequence[str], width: int, split: bool) -> None:
        super().__init__()
        self.width = width
        self.split = split
        self.lookup = tf.keras.layers.StringLookup(vocabulary=list(vocabulary) or ["\x00"], num_oov_indices=1)
        self.embedding = tf.keras.layers.Embedding(len(vocabulary) + 2, dimension)  # + padding and unknown

    @property
    def raw_spec(self) -> tf.TensorSpec:
        """Returns what a request sends: one string a row; several labels are joined by '|'."""
        return tf.TensorSpec([None], tf.string)

    def encode(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns the label rows int32 `[rows, width]` of strings `[rows]`: 0 padding, 1 unknown or missing."""
        labels = _words(raw) if self.split else tf.strings.split(raw, "|") if self.width > 1 else raw[:, None]
        dense = labels.to_tensor("", shape=[None, self.width]) if self.width > 1 else labels
        rows = tf.cast(self.lookup(dense), tf.int32) + 1
        rows = tf.where(dense == "", 0, rows)
        first = tf.where(tf.reduce_all(rows == 0, axis=1), 1, rows[:, 0])
        return tf.concat([first[:, None], rows[:, 1:]], axis=1)

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]` of label rows `[..., width]`."""
        vectors = self.embedding(encoded)
        if self.width == 1:
            return vectors[..., 0, :]
        mask = tf.cast(encoded > 0, vectors.dtype)[..., None]
        return tf.reduce_sum(vectors * mask, axis=-2) / tf.reduce_sum(mask, axis=-2)


class Number(tf.keras.layers.Layer):
    """A normalised number, an indicator of its absence, and an embedding of its quantile bucket."""

    def __init__(self, dimension: int, values: npt.NDArray[np.floating]) -> None:
        super().__init__()
        known = values[np.isfinite(values)]
        self.mean = float(known.mean()) if len(known) else 0.0
        self.scale = float(known.std()) or 1.0 if len(known) else 1.0
        cuts = np.quantile(known, np.linspace(0, 1, BUCKETS + 1)[1:-1]) if len(known) else np.zeros(0)
        self.cuts = [float(cut) for cut in np.unique(cuts)]
        self.embedding = tf.keras.layers.Embedding(len(self.cuts) + 2, dimension)
        self.linear = tf.keras.layers.Dense(dimension, use_bias=False)

    @property
    def raw_spec(self) -> tf.TensorSpec:
        """Returns what a request sends: one float a row, NaN when missing."""
        return tf.TensorSpec([None], tf.float32)

    def encode(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns float32 `[rows, 3]`: normalised value (the training mean where missing), missing 0/1, bucket."""
        raw = tf.cast(raw, tf.float32)
        missing = ~tf.math.is_finite(raw)
        value = tf.where(missing, self.mean, raw)
        bucket = tf.searchsorted(tf.constant(self.cuts, tf.float32), value, side="right") + 1
        bucket = tf.where(missing, 0, bucket)
        normal = tf.clip_by_value((value - self.mean) / self.scale, -5.0, 5.0)
        return tf.stack([normal, tf.cast(missing, tf.float32), tf.cast(bucket, tf.float32)], axis=1)

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]` of encoded rows `[..., 3]`."""
        return self.linear(encoded[..., :2]) + self.embedding(tf.cast(encoded[..., 2], tf.int32))


class Time(tf.keras.layers.Layer):
    """A moment as cycles (day, week, year) and as age before the latest training moment."""

    def __init__(self, dimension: int, values: npt.NDArray[np.floating]) -> None:
        super().__init__()
        known = values[np.isfinite(values)]
        self.latest = float(known.max()) if len(known) else 0.0
        self.linear = tf.keras.layers.Dense(dimension)

    @property
    def raw_spec(self) -> tf.TensorSpec:
        """Returns what a request sends: seconds since 1970 UTC, float64, NaN when missing."""
        return tf.TensorSpec([None], tf.float64)

    def encode(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns float32 `[rows, 8]`: sine and cosine of each cycle, log of the age in days, missing 0/1."""
        raw = tf.cast(raw, tf.float64)
        missing = ~tf.math.is_finite(raw)
        raw = tf.where(missing, tf.cast(self.latest, tf.float64), raw)
        angles = [2 * np.pi * tf.math.floormod(raw, cycle) / cycle for cycle in CYCLES]
        waves = [wave for angle in angles for wave in (tf.sin(angle), tf.cos(angle))]
        age = tf.math.log1p(tf.maximum(self.latest - raw, 0) / DAY)
        return tf.cast(tf.stack([*waves, age, tf.cast(missing, tf.float64)], axis=1), tf.float32)

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]` of encoded rows `[..., 8]`."""
        return self.linear(encoded)


class StaticFeatures(tf.keras.layers.Layer):
    """All features of users, or of items, as constant tables by row: `[...]` rows in, `[..., dimension]` out (summed)."""

    def __init__(self, features: Sequence[Feature], raw: Any, trained: int, dimension: int) -> None:
        super().__init__()
        self.towers: list[tf.keras.layers.Layer] = []
        self.tables: list[tf.Tensor] = []
        self.names = [feature.name for feature in features]
        for feature in features:
            values = as_raw(feature.kind, raw[feature.name])
            tower = make(feature.kind, dimension, values[1 : trained + 1])
            self.towers.append(tower)
            self.tables.append(tf.constant(tower.encode(tf.constant(values))))

    def parts(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns each feature's vectors `[..., dimension]` of rows `[...]`, by name."""
        named = zip(self.names, self.towers, self.tables, strict=True)
        return {name: tower(tf.gather(table, rows)) for name, tower, table in named}

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the summed feature vectors `[..., dimension]` of rows `[...]`."""
        return tf.add_n(list(self.parts(rows).values()))


class ContextFeatures(tf.keras.layers.Layer):
    """All features of the request: encoded inputs by name in, `[batch, dimension]` out (summed)."""

    def __init__(self, features: Sequence[Feature], raw: Any, dimension: int) -> None:
        super().__init__()
        self.towers = {f.name: make(f.kind, dimension, as_raw(f.kind, raw[f.name])) for f in features}

    def encode(self, raw: Any) -> dict[str, tf.Tensor]:
        """Returns the encoded inputs of raw columns by name."""
        return {name: tower.encode(raw[name]) for name, tower in self.towers.items()}

    def parts(self, encoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns each feature's vectors `[batch, dimension]`, by name."""
        return {name: tower(encoded[name]) for name, tower in self.towers.items()}

    def call(self, encoded: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the summed vectors `[batch, dimension]`."""
        return tf.add_n(list(self.parts(encoded).values()))


def make(kind: FeatureKind, dimension: int, training: npt.NDArray[np.generic]) -> Any:
    """Returns the layer for a kind of feature, fitted on the raw training values `[rows]` of `as_raw`."""
    if kind in ("number", "time"):
        return (Number if kind == "number" else Time)(dimension, training.astype(np.float64))
    if kind == "category":
        return Labels(dimension, _frequent(training), 1, split=False)
    if kind == "bag":
        bags = [bag.split("|") for bag in training]
        width = min(MAX_LABELS, max((len(bag) for bag in bags), default=1))
        return Labels(
            dimension, _frequent([label for bag in bags for label in bag]), max(width, 2), split=False
        )
    texts = _words(tf.constant(training.astype(str)))
    words, counts = np.unique(
        np.char.decode(texts.flat_values.numpy().astype(bytes), "utf-8"), return_counts=True
    )
    shared = np.flatnonzero(counts >= MIN_ITEMS)  # a word of one item says no more than the item's id
    vocabulary = [str(words[i]) for i in shared[np.lexsort((words[shared], -counts[shared]))][:MAX_WORDS]]
    width = int(np.quantile(texts.row_lengths(), 0.99)) if len(training) else 1
    return Labels(dimension, vocabulary, max(width, 2), split=True)


def as_raw(kind: FeatureKind, values: Raw) -> npt.NDArray[np.generic]:
    """Returns a column as one array `[rows]`: floats with NaN, or strings with "" where missing, bags joined by '|'."""
    if kind in ("number", "time"):
        return np.asarray(values, dtype=np.float64)
    if kind == "bag":
        joined = ["|".join(labels) if not isinstance(labels, str) else labels for labels in values]
        return np.array(joined, dtype=object).astype(str)
    return np.array(["" if value is None else value for value in values], dtype=object).astype(str)


def _frequent(labels: Any) -> list[str]:
    values, counts = np.unique([label for label in labels if label], return_counts=True)
    return [str(values[i]) for i in np.lexsort((values, -counts))] if len(values) else []


def _words(raw: tf.Tensor) -> tf.RaggedTensor:
    clean = tf.strings.regex_replace(tf.strings.lower(raw, encoding="utf-8"), r"[\pP\pS]+", " ")
    return tf.strings.split(clean)[:, :MAX_LABELS]
