"""Losses of retrieval as functions `(labels, scores) -> [batch]`, wrapped once for `tfrs.tasks.Retrieval`.

`scores` are `[batch, candidates]`, already divided by the temperature; `labels` have their shape and a single 1 a row, at the positive.
A candidate that must not count as a negative (an accidental hit, an item the user has) has a score of `MASKED` or below.
Functions that take `items` are given the size of the corpus.
"""

import inspect
from typing import Annotated, Any

import tensorflow as tf
from pydantic import Field

from trainer.registry import check_settings, get, register

MASKED = tf.float32.min / 200  # the task masks with the lowest float32 over 100


@register("loss", "softmax")
def softmax(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns the softmax cross-entropy over the candidates (InfoNCE, van den Oord et al. 2018)."""
    return tf.nn.softmax_cross_entropy_with_logits(labels, scores)


@register("loss", "bpr")
def bpr(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns -log sigmoid(positive - negative), the mean over the negatives (Rendle et al. 2009)."""
    positive, negative = _parts(labels, scores)
    return _mean(tf.where(negative, tf.nn.softplus(scores - positive), 0.0), negative)


@register("loss", "hinge")
def hinge(
    labels: tf.Tensor, scores: tf.Tensor, margin: Annotated[float, Field(gt=0)] = 1.0, hardest: bool = False
) -> tf.Tensor:
    """Returns the triplet loss max(0, margin - positive + negative): the mean over the negatives, or of the `hardest` one.

    Weinberger and Saul 2009; the margin is in units of the score over the temperature.
    """
    positive, negative = _parts(labels, scores)
    triplets = tf.where(negative, tf.nn.relu(margin - positive + scores), 0.0)
    return tf.reduce_max(triplets, axis=1) if hardest else _mean(triplets, negative)


@register("loss", "binary_cross_entropy")
def binary_cross_entropy(
    labels: tf.Tensor, scores: tf.Tensor, items: int, calibration: Annotated[float, Field(ge=0, le=1)] = 0.0
) -> tf.Tensor:
    """Returns the binary cross-entropy of the positive, and the sum of its negatives'.

    A score stands beside prior odds of one to the number of negatives, as in noise-contrastive estimation (Gutmann and Hyvärinen 2010):
    else, of thousands of negatives, whole epochs would learn only that hardly anything is liked.
    `calibration` t in 0..1 is gBCE's (Petrov and Macdonald, "gSASRec", 2023): the positive's probability is raised to the power
    a (t (1 - 1/a) + 1/a), a the share of the corpus that was sampled, which undoes the overconfidence that few negatives give.
    """
    positive, negative = _parts(labels, scores)
    count = tf.reduce_sum(tf.cast(negative, tf.float32), axis=1)
    sampled = tf.clip_by_value(count / max(items - 1, 1), 1e-9, 1.0)
    power = sampled * (calibration * (1.0 - 1.0 / sampled) + 1.0 / sampled)
    prior = tf.math.log(tf.maximum(count, 1.0))
    others = tf.reduce_sum(tf.where(negative, tf.nn.softplus(scores - prior[:, None]), 0.0), axis=1)
    return power * tf.nn.softplus(prior - positive[:, 0]) + others


@register("loss", "squared_error")
def squared_error(
    labels: tf.Tensor, scores: tf.Tensor, unobserved: Annotated[float, Field(ge=0)] = 1.0
) -> tf.Tensor:
    """Returns (1 - positive)^2 + `unobserved` times the mean of negative^2 (Hu et al. 2008, with sampled zeros)."""
    positive, negative = _parts(labels, scores)
    zeros = _mean(tf.square(tf.where(negative, scores, 0.0)), negative)
    return tf.square(1.0 - positive[:, 0]) + unobserved * zeros


def _parts(labels: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the positive's scores `[batch, 1]` and which places are negatives `[batch, candidates]`."""
    positive = tf.reduce_sum(labels * scores, axis=1, keepdims=True)
    return positive, (labels < 0.5) & (scores > MASKED)


def _mean(values: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    number = tf.reduce_sum(tf.cast(counted, values.dtype), axis=1)
    return tf.reduce_sum(values, axis=1) / tf.maximum(number, 1.0)


def wrap(name: str, settings: dict[str, Any], items: int) -> tf.keras.losses.Loss:
    """Returns a registered loss as the Keras loss that `tfrs.tasks.Retrieval` takes, one value an example `[batch]`."""
    function = get("loss", name)
    checked = check_settings(function, settings, "retrieval.loss", hidden=("labels", "scores", "items"))
    if "items" in inspect.signature(function).parameters:
        checked["items"] = items

    class Loss(tf.keras.losses.Loss):
        def __init__(self) -> None:
            super().__init__(reduction=tf.keras.losses.Reduction.NONE, name=name)

        def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
            return function(y_true, y_pred, **checked)

    return Loss()
