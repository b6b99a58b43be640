"""Ratings in closed form, without gradients: variational factorisation with feature priors.

    rating = mean + b_u + b_i + <z_u, v_i> + noise
    (b_u, z_u) ~ N(A' x_u, diag(s)),   (b_i, v_i) ~ N(B' x_i, diag(t)),   x: side columns of users and items

This is variational Bayesian matrix factorisation (Lim & Teh, "Variational Bayesian approach to movie rating
prediction", 2007) whose prior means are regressions on features (Agarwal & Chen, "Regression-based latent
factor models", 2009). Each sweep sets the Gaussian posteriors of all users given the items', then the other
way round, and the regressions, the variances and the noise from those posteriors: no setting stands for a
regularisation.

The posteriors' covariances are not a luxury. Point estimates (alternating least squares) overfit the many
rows with few ratings; here a row known badly counts for less in the rows that meet it. A user or an item
without ratings gets its regression's value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from trainer.data.examples import Floats, Ints
from trainer.ranking.rating_features import Columns

Values = npt.NDArray[np.float64]
BLOCK = 8_192  # rows, or events by 8, whose covariances are open at a time
NOISE_SAMPLE = 50_000  # events that the noise is read from
RIDGE = 5.0  # of the regressions on side columns
TRUST = 3.0  # a row of n ratings counts n / (n + TRUST) in the regressions
FLOOR = 1e-6  # the least variance, where ratings of variance 1 leave nothing to explain
MOST_LEVERAGE = 0.8  # an event's own share of its prediction, at most


@dataclass(frozen=True)
class Ratings:
    """Ratings of mean 0 and variance 1, with weights of mean 1. All arrays are `[events]`."""

    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    value: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Any) -> "Ratings":
        """Returns the ratings `rows`."""
        return Ratings(self.user[rows], self.item[rows], self.value[rows], self.weight[rows])


@dataclass(frozen=True)
class Side:
    """Gaussian posteriors of a side's rows: the bias, then the factors.

    `covariance` holds the upper triangles, row by row `[rows, D * (D + 1) / 2]`, where `mean` is `[rows, D]`.
    """

    mean: Floats
    covariance: Floats

    @property
    def design(self) -> Floats:
        """Returns what the other side's rows are multiplied by: 1, then the factors `[rows, D]`."""
        design = self.mean.copy()
        design[:, 0] = 1
        return design


@dataclass(frozen=True)
class Belief:
    """What a side's rows are taken for before their ratings are read."""

    mean: Floats  # [rows, D]
    variance: Values  # [D]


@dataclass(frozen=True)
class Posterior:
    """The fitted model, in units of standardised ratings."""

    users: Side
    items: Side
    noise: float  # variance of a rating of weight 1


def sweeps(ratings: Ratings, user_columns: Columns, item_columns: Columns, rank: int) -> Iterator[Posterior]:
    """Yields the posterior after each sweep, without end."""
    shape = len(user_columns), len(item_columns)
    by_user = Sums.of(ratings.user, ratings.item, ratings, shape)
    by_item = Sums.of(ratings.item, ratings.user, ratings, (shape[1], shape[0]))
    sample = _sample(ratings)
    users, items = _start(by_user, by_item, item_columns, rank)
    noise = 0.7
    user_belief = Belief(np.zeros_like(users.mean), np.r_[0.15, np.full(rank, 0.1)])
    item_belief = Belief(np.zeros_like(items.mean), np.r_[0.2, np.full(rank, 0.1)])
    while True:
        users = posterior(by_user, items, user_belief, noise)
        user_belief = believe(user_columns, users, by_user.total)
        items = posterior(by_item, users, item_belief, noise)
        item_belief = believe(item_columns, items, by_item.total)
        noise = _noise(users, items, sample)
        yield Posterior(users, items, noise)


@dataclass(frozen=True)
class Sums:
    """A side's ratings as sparse matrices `[rows, other side's rows]`; a pair rated again adds up."""

    weight: scipy.sparse.csr_matrix
    value: scipy.sparse.csr_matrix  # weight * rating
    total: Values  # [rows] of weight

    @classmethod
    def of(cls, rows: Ints, others: Ints, ratings: Ratings, shape: tuple[int, int]) -> "Sums":
        """Returns the sums of ratings whose rows and other rows are given `[events]`."""
        weight = scipy.sparse.csr_matrix((ratings.weight, (rows, others)), shape)
        value = scipy.sparse.csr_matrix((ratings.weight * ratings.value, (rows, others)), shape)
        total = np.bincount(rows, ratings.weight, shape[0])
        return cls(weight, value, np.asarray(total, np.float64))


def posterior(sums: Sums, other: Side, belief: Belief, noise: float) -> Side:
    """Returns the rows' posteriors given those of the other side; a row without ratings keeps its belief."""
    size = other.mean.shape[1]
    upper = np.triu_indices(size)
    moments, offsets = _moments(other)
    mean = np.empty((sums.weight.shape[0], size), np.float32)
    covariance = np.empty((len(mean), len(upper[0])), np.float32)
    for block in _blocks(len(mean), BLOCK):
        weight = sums.weight[block]
        precision = np.empty((weight.shape[0], size, size))
        precision[:, *upper] = weight @ moments / noise
        precision[:, *upper[::-1]] = precision[:, *upper]
        precision += np.diag(1 / belief.variance)
        explained = (sums.value[block] @ moments[:, :size] - weight @ offsets) / noise
        spread = np.linalg.inv(precision)
        pull = explained + belief.mean[block] / belief.variance
        mean[block] = (spread @ pull[:, :, None])[:, :, 0]
        covariance[block] = spread[:, *upper]
    return Side(mean, covariance)


def believe(columns: Columns, side: Side, total: Values) -> Belief:
    """Returns the ridge regression of the posteriors on side columns, and the variance that it leaves."""
    trust = (total / (total + TRUST))[:, None].astype(np.float32)
    weighted = columns * trust
    gram = (weighted.T @ columns).astype(np.float64) + RIDGE * np.eye(columns.shape[1])
    slopes = np.linalg.solve(gram, (weighted.T @ side.mean).astype(np.float64))
    mean = columns @ slopes.astype(np.float32)
    rated = total > 0
    size = mean.shape[1]
    diagonal = np.flatnonzero(np.equal(*np.triu_indices(size)))
    left = (side.mean[rated] - mean[rated]) ** 2 + side.covariance[rated][:, diagonal]
    return Belief(mean, np.maximum(left.mean(axis=0, dtype=np.float64), FLOOR))


def leave_one_out(found: Posterior, ratings: Ratings) -> Floats:
    """Returns the errors `[events]` that the model would make on ratings it had not been fitted to.

    As in linear regression: the error divided by 1 - the rating's own share of its prediction.
    """
    errors = np.empty(len(ratings), np.float32)
    for block in _blocks(len(ratings), 8 * BLOCK):
        some = ratings.take(block)
        predicted, of_user, of_item, _ = _predict(found.users, found.items, some)
        share = some.weight * (of_user + of_item) / found.noise
        errors[block] = (some.value - predicted) / (1 - np.minimum(share, MOST_LEVERAGE))
    return errors


def _moments(side: Side) -> tuple[Floats, Floats]:
    """Returns E[d d'] (upper triangles; first E[d]) and E[b d] `[rows, D]` of the biases b and designs d."""
    size = side.mean.shape[1]
    a, b = np.triu_indices(size)
    second = side.covariance + side.mean[:, a] * side.mean[:, b]
    offsets = second[:, :size].copy()
    offsets[:, 0] = side.mean[:, 0]
    second[:, :size] = side.design
    return second, offsets


def _predict(users: Side, items: Side, some: Ratings) -> tuple[Floats, Floats, Floats, Floats]:
    """Returns predictions, and their variance in parts `[events]`: the user's, the item's, both's."""
    size = users.mean.shape[1]
    a, b = np.triu_indices(size)
    twice = np.where(a == b, 1, 2).astype(np.float32)
    user_design, item_design = users.design[some.user], items.design[some.item]
    user_spread, item_spread = users.covariance[some.user] * twice, items.covariance[some.item]
    of_user = np.einsum("nt,nt,nt->n", user_spread, item_design[:, a], item_design[:, b])
    of_item = np.einsum("nt,nt,nt,t->n", item_spread, user_design[:, a], user_design[:, b], twice)
    both = np.einsum("nt,nt->n", user_spread[:, size:], item_spread[:, size:])
    taste = np.einsum("nd,nd->n", users.mean[some.user], item_design)
    return taste + items.mean[some.item, 0], of_user, of_item, both


def _noise(users: Side, items: Side, sample: Ratings) -> float:
    predicted, *variances = _predict(users, items, sample)
    left = sample.weight * ((sample.value - predicted) ** 2 + sum(variances))
    return max(float(left.mean(dtype=np.float64)), FLOOR)


def _start(by_user: Sums, by_item: Sums, item_columns: Columns, rank: int) -> tuple[Side, Side]:
    """Returns users at 0; items at their biases, and at the column mixtures on which users differ most."""
    rows, others = by_item.weight.shape[0], by_user.weight.shape[0]
    bias = np.asarray(by_item.value.sum(axis=1)).ravel() / (by_item.total + TRUST)
    own = (np.asarray(by_user.value.sum(axis=1)).ravel() - by_user.weight @ bias) / (by_user.total + RIDGE)
    slopes = by_user.value @ item_columns - by_user.weight @ (item_columns * bias[:, None])
    slopes -= own[:, None] * (by_user.weight @ item_columns)
    slopes /= np.sqrt(by_user.total + 2 * RIDGE)[:, None]
    _, directions = np.linalg.eigh(slopes[:, 1:].T @ slopes[:, 1:])
    factors = item_columns[:, 1:] @ directions[:, ::-1][:, :rank]
    mean = np.zeros((rows, 1 + rank), np.float32)
    mean[:, 0] = bias
    mean[:, 1 : 1 + factors.shape[1]] = 0.3 * factors / np.maximum(factors.std(axis=0), 1e-6)
    a, b = np.triu_indices(1 + rank)
    spread = np.where(a == b, np.where(a == 0, 0.1, 0.02), 0).astype(np.float32)
    users = Side(np.zeros((others, 1 + rank), np.float32), np.zeros((others, len(a)), np.float32))
    return users, Side(mean, np.tile(spread, (rows, 1)))


def _sample(ratings: Ratings) -> Ratings:
    if len(ratings) <= NOISE_SAMPLE:
        return ratings
    return ratings.take(np.random.default_rng(0).choice(len(ratings), NOISE_SAMPLE, replace=False))


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, length)) for first in range(0, length, size))
