"""One small Keras layer for each kind of feature, with an `encode` that runs once and a `call` that trains.

`encode` takes raw values (strings, numbers) to the integers or floats of a table `[rows, width]`; statistics and vocabularies are
those of the training part. `call` takes encoded rows `[..., width]` to vectors `[..., dimension]`. A value that is missing is encoded
too: as the unknown label, as the mean with an indicator beside it.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.towers.lookup import string_lookup

BUCKETS = 16  # quantile buckets of a number
MAX_GRAMS = 64  # n-grams of a text that are read
GRAM_BUCKETS = 20_000  # rows that n-grams are hashed to
DAY = 86_400.0
CYCLES = (DAY, 7 * DAY, 365.25 * DAY)  # seconds: hour of the day, day of the week, time of the year

Reading = Literal["label", "labels", "ids", "words"]
Floats = npt.NDArray[np.floating]


class Labels(tf.keras.layers.Layer):
    """The mean of the embeddings of a row's labels: categories (one label), bags and ids (several) and texts (words).

    An unknown label has a vector of its own; an unknown id is passed over, and only a row without any known id has it.
    """

    def __init__(self, dimension: int, vocabulary: Sequence[str], width: int, reading: Reading) -> None:
        super().__init__()
        self.width = width
        self.reading = reading
        self.lookup = string_lookup(vocabulary)
        self.embedding = tf.keras.layers.Embedding(len(vocabulary) + 2, dimension)  # + padding and unknown

    @property
    def raw_spec(self) -> tf.TensorSpec:
        """Returns what a request sends: one string a row; several labels are joined by '|'."""
        return tf.TensorSpec([None], tf.string)

    def encode(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns the label rows int32 `[rows, width]` of strings `[rows]`: 0 padding, 1 unknown or missing."""
        dense = raw[:, None]
        if self.reading != "label":
            labels = words(raw, self.width) if self.reading == "words" else tf.strings.split(raw, "|")
            dense = labels.to_tensor("", shape=[None, self.width])
        rows = tf.cast(self.lookup(dense), tf.int32) + 1
        rows = tf.where((dense == "") | ((rows == 1) & (self.reading == "ids")), 0, rows)
        first = tf.where(tf.reduce_all(rows == 0, axis=1), 1, rows[:, 0])
        return tf.concat([first[:, None], rows[:, 1:]], axis=1)

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]` of label rows `[..., width]`."""
        vectors = self.embedding(encoded)
        return vectors[..., 0, :] if self.width == 1 else _mean(vectors, encoded)


class Text(tf.keras.layers.Layer):
    """A text as its words, each with a trained vector, and as its letters: hashed pieces of `length` letters.

    The pieces read words that training never saw: the same stem, a spelling error. Bojanowski et al., "Enriching word
    vectors with subword information", 2017.
    """

    def __init__(self, dimension: int, words_of: Labels, length: int, training: Sequence[str]) -> None:
        super().__init__()
        self.words = words_of
        self.length = length
        sizes = grams(tf.constant(training, tf.string), length).row_lengths().numpy()
        self.width = int(np.clip(np.quantile(sizes, 0.99), 1, MAX_GRAMS)) if len(sizes) else 1
        self.embedding = tf.keras.layers.Embedding(GRAM_BUCKETS + 1, dimension)  # + padding

    @property
    def raw_spec(self) -> tf.TensorSpec:
        """Returns what a request sends: one string a row."""
        return self.words.raw_spec

    def encode(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns int32 `[rows, width]` of strings `[rows]`: the words' rows, then those of the pieces (0 padding)."""
        pieces = grams(raw, self.length)
        hashed = pieces.with_flat_values(tf.strings.to_hash_bucket_fast(pieces.flat_values, GRAM_BUCKETS) + 1)
        rows = tf.cast(hashed.to_tensor(0, shape=[None, self.width]), tf.int32)
        return tf.concat([self.words.encode(raw), rows], axis=1)

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]` of encoded rows `[..., width]`: the words' mean and the pieces' mean, summed."""
        pieces = encoded[..., self.words.width :]
        return self.words(encoded[..., : self.words.width]) + _mean(self.embedding(pieces), pieces)


class Number(tf.keras.layers.Layer):
    """A normalised number, an indicator of its absence, and an embedding of its quantile bucket.

    With `log` the number is a count, read by its logarithm; one below 0 is missing.
    """

    def __init__(self, dimension: int, values: Floats, log: bool = False) -> None:
        super().__init__()
        known = values[np.isfinite(values)]
        known = np.log1p(known[known >= 0]) if log else known
        self.log = log
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
        if self.log:
            missing |= raw < 0
            raw = tf.math.log1p(tf.where(missing, 0.0, raw))
        value = tf.where(missing, self.mean, raw)
        bucket = tf.searchsorted(tf.constant(self.cuts, tf.float32), value, side="right") + 1
        bucket = tf.where(missing, 0, bucket)
        normal = tf.clip_by_value((value - self.mean) / self.scale, -5.0, 5.0)
        return tf.stack([normal, tf.cast(missing, tf.float32), tf.cast(bucket, tf.float32)], axis=1)

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]` of encoded rows `[..., 3]`."""
        return self.linear(encoded[..., :2]) + self.embedding(tf.cast(encoded[..., 2], tf.int32))


class Vector(tf.keras.layers.Layer):
    """A vector that another model made, centred, brought to mean length 1 and mapped linearly; with an indicator of its absence."""

    def __init__(self, dimension: int, vectors: Floats) -> None:
        super().__init__()
        known = vectors[np.isfinite(vectors).all(axis=1)]
        self.width = vectors.shape[1]
        centre = known.mean(axis=0, dtype=np.float64) if len(known) else np.zeros(self.width)
        length = np.sqrt(np.square(known - centre).sum(axis=1).mean()) if len(known) else 0.0
        self.centre, self.length = [float(number) for number in centre], float(length) or 1.0
        self.feature = "a feature"  # what a request calls it
        self.linear = tf.keras.layers.Dense(dimension, use_bias=False)

    @property
    def raw_spec(self) -> tf.TensorSpec:
        """Returns what a request sends: one vector a row, NaN when missing."""
        return tf.TensorSpec([None, self.width], tf.float32)

    def encode(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns float32 `[rows, width + 1]`: the scaled vector (zeros where missing), missing 0/1."""
        # A session does not check what it is fed: the size tells, for the graph takes the width for granted.
        rows, size = tf.shape(raw)[0], tf.size(raw)
        told = [f"{self.feature} takes vectors of length {self.width}, not", size // tf.maximum(rows, 1)]
        with tf.control_dependencies([tf.debugging.Assert(size == rows * self.width, told)]):
            raw = tf.cast(tf.identity(raw), tf.float32)
        there = tf.reduce_all(tf.math.is_finite(raw), axis=1, keepdims=True)
        scaled = tf.where(there, (raw - tf.constant(self.centre)) / self.length, 0.0)
        return tf.concat([scaled, tf.cast(~there, tf.float32)], axis=1)

    def call(self, encoded: tf.Tensor) -> tf.Tensor:
        """Returns vectors `[..., dimension]` of encoded rows `[..., width + 1]`."""
        return self.linear(encoded)


class Time(tf.keras.layers.Layer):
    """A moment as cycles (day, week, year) and as age before the latest training moment."""

    def __init__(self, dimension: int, values: Floats) -> None:
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


def words(raw: tf.Tensor, limit: int) -> tf.RaggedTensor:
    """Returns the first `limit` words of texts `[rows]`, lower-case, without punctuation."""
    return tf.strings.split(_clean(raw))[:, :limit]


def grams(raw: tf.Tensor, length: int) -> tf.RaggedTensor:
    """Returns the first pieces of `length` letters of texts `[rows]`; a space stands at both ends and between words."""
    clean = tf.strings.strip(tf.strings.regex_replace(_clean(raw), r"\s+", " "))
    framed = tf.where(clean == "", "", tf.strings.join([" ", clean, " "]))
    letters = tf.strings.unicode_split(framed, "UTF-8", errors="replace")
    return tf.strings.ngrams(letters, length, separator="")[:, :MAX_GRAMS]


def _clean(raw: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_replace(tf.strings.lower(raw, encoding="utf-8"), r"[\pP\pS]+", " ")


def _mean(vectors: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns the mean `[..., dimension]` of the vectors `[..., width, dimension]` whose row is not padding; zeros where all are."""
    mask = tf.cast(rows > 0, vectors.dtype)[..., None]
    return tf.reduce_sum(vectors * mask, axis=-2) / tf.maximum(tf.reduce_sum(mask, axis=-2), 1.0)
