"""What is known of users and items beside their ratings, as columns that a rating prior regresses on.

Declared features, how often and by whom a row was rated, and what its user rated: who rated what tells of
tastes even before the ratings are read (Koren, "Factorization meets the neighborhood", 2008). All of it comes
from the training events.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse
from sklearn.utils.extmath import randomized_svd

from trainer.data.examples import Events, Floats, Prepared
from trainer.data.interactions import Feature
from trainer.towers.features import as_raw

MAX_LABELS = 64  # columns of a category or bag, the most frequent labels kept
BUMPS = 10  # columns of a number, spread over its quantiles
IMPLICIT_RANK = 20  # columns that tell who rated what
SHRINKAGE = 5.0  # events of nothing special that a user's mean over rated items starts from

Columns = npt.NDArray[np.float32]


def side_features(prepared: Prepared, events: Events) -> tuple[Columns, Columns]:
    """Returns the columns `[users, p]` and `[items, q]`: a 1, then columns of mean 0 over the trained rows.

    A row that the events do not name, the unknown's (row 0) included, is taken for one of the least popular.
    """
    users, items = len(prepared.users), len(prepared.items)
    pairs = scipy.sparse.csr_matrix(
        (np.ones(len(events), np.float32), (events.user, events.item)), (users, items)
    )
    user_counts, item_counts = (np.asarray(pairs.sum(axis=axis)).ravel() for axis in (1, 0))
    user_tastes, item_tastes = who_rated_what(pairs, user_counts, item_counts)
    trained_users, trained_items = prepared.users.trained, prepared.items.trained
    declared = [
        *declared_columns(prepared.schema.item, prepared.item_features, trained_items),
        popularity(item_counts, trained_items),
    ]
    described = _standardised(declared, trained_items)
    rated = (pairs @ described) / (user_counts + SHRINKAGE)[:, None]
    when = np.bincount(events.user, events.timestamp - events.timestamp.mean(), users)
    about_user = [
        *declared_columns(prepared.schema.user, prepared.user_features, trained_users),
        rated,
        popularity(user_counts, trained_users),
        (when / np.maximum(user_counts, 1))[:, None].astype(np.float32),
        user_tastes,
    ]
    about_item = np.hstack([described, _standardised([item_tastes], trained_items)])
    return _with_one(_standardised(about_user, trained_users)), _with_one(about_item)


def declared_columns(features: Sequence[Feature], raw: Any, trained: int) -> list[Columns]:
    """Returns the declared features' columns `[rows, *]`, one array a feature; texts, vectors and ids have none."""
    made: list[Columns] = []
    for feature in features:
        values = as_raw(feature.kind, raw[feature.name])
        if feature.kind in ("category", "bag"):
            made.append(indicators(values, feature.kind == "bag", trained))
        elif feature.kind in ("number", "time"):
            made.append(bumps(values.astype(np.float64), trained))
        elif feature.kind == "count":
            made.append(bumps(np.log1p(np.maximum(values.astype(np.float64), 0)), trained))
    return made


def indicators(values: npt.NDArray[np.generic], bags: bool, trained: int) -> Columns:
    """Returns `[rows, labels + 1]` of strings `[rows]`: 0/1 for frequent labels, and whether there is none.

    The `MAX_LABELS` most frequent in the rows up to `trained` are kept.
    """
    table = pl.DataFrame(
        {"row": np.arange(len(values)), "label": pl.Series(values.tolist(), dtype=pl.String)}
    )
    if bags:
        table = table.with_columns(pl.col("label").str.split("|")).explode("label")
    table = table.filter(pl.col("label") != "").unique(maintain_order=True)
    seen = table.filter(pl.col("row").is_between(1, trained))
    kept = seen.group_by("label").len().sort(["len", "label"], descending=[True, False]).head(MAX_LABELS)
    places = table.join(kept.with_row_index("column"), on="label")
    columns = np.zeros((len(values), kept.height), np.float32)
    columns[places["row"].to_numpy(), places["column"].to_numpy()] = 1
    there = np.zeros(len(values), bool)
    there[table["row"].to_numpy()] = True
    return _filled(columns, there, trained)


def bumps(values: npt.NDArray[np.float64], trained: int) -> Columns:
    """Returns `[rows, BUMPS + 2]` of numbers: the value, bumps over its quantiles, whether it is missing."""
    there = np.isfinite(values)
    known = np.sort(values[1 : trained + 1][there[1 : trained + 1]])
    if not len(known):
        return np.zeros((len(values), 0), np.float32)
    value = np.clip(np.where(there, values, known[0]), known[0], known[-1])
    place = (np.searchsorted(known, value, "left") + np.searchsorted(known, value, "right")) / (
        2 * len(known)
    )
    bump = np.exp(-0.5 * ((place[:, None] - np.linspace(0, 1, BUMPS)) * (BUMPS - 1)) ** 2)
    return _filled(np.c_[value - known.mean(), bump].astype(np.float32), there, trained)


def popularity(counts: Floats, trained: int) -> Columns:
    """Returns the log number of events and its square `[rows, 2]`; rows without any are like the rarest."""
    log = np.log1p(counts)
    seen = log[1 : trained + 1]
    log = np.maximum(log, seen.min(initial=np.inf)) - seen.mean()
    return np.stack([log, log**2], axis=1).astype(np.float32)


def who_rated_what(
    pairs: scipy.sparse.csr_matrix, user_counts: Floats, item_counts: Floats
) -> tuple[Columns, Columns]:
    """Returns the leading singular vectors `[users, rank]`, `[items, rank]` of degree-normalised pairs."""
    rank = min(IMPLICIT_RANK, min(pairs.shape) - 1)
    left = scipy.sparse.diags_array(np.maximum(user_counts, 1) ** -0.5)
    right = scipy.sparse.diags_array((item_counts + 3) ** -0.5)
    user, _, item = randomized_svd(left @ pairs @ right, rank, n_iter=6, random_state=0)
    return user.astype(np.float32), item.T.astype(np.float32)


def _filled(columns: Columns, there: npt.NDArray[np.bool_], trained: int) -> Columns:
    """Returns the columns, the trained rows' mean where a row has nothing, and a last column that says so."""
    seen = columns[1 : trained + 1][there[1 : trained + 1]]
    mean = seen.mean(axis=0) if len(seen) else np.zeros(columns.shape[1], np.float32)
    return np.hstack([np.where(there[:, None], columns, mean), ~there[:, None]]).astype(np.float32)


def _standardised(columns: Sequence[Columns], trained: int) -> Columns:
    """Returns the columns side by side, of mean 0 and deviation 1 over the trained rows; constant ones go."""
    whole = np.hstack(columns)
    seen = whole[1 : trained + 1]
    mean, scale = seen.mean(axis=0, dtype=np.float64), seen.std(axis=0, dtype=np.float64)
    kept = scale > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    return np.asarray((whole[:, kept] - mean[kept]) / scale[kept], np.float32)


def _with_one(columns: Columns) -> Columns:
    return np.hstack([np.ones((len(columns), 1), np.float32), columns])
