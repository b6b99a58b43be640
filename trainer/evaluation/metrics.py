"""What every metric means: pure functions from ranks, lists or predictions to one value per case, user or event.

A rank counts from 1; `MISSED` stands for a positive that can never be found. `ranks` are flat `[positives]`
and `offsets` `[cases + 1]` say where each case's positives begin: case `i` has
`ranks[offsets[i]:offsets[i + 1]]`, in any order, all different unless missed. Relevance is binary for
retrieval. A case without positives gives NaN.
"""

import numpy as np
import numpy.typing as npt
import scipy.sparse

Values = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int64]
MISSED = int(np.iinfo(np.int64).max)
ERRORS = frozenset({"rmse", "mae", "log_loss"})  # less is better; of all others, more


def ascending(metric: str) -> int:
    """Returns what a metric's figures are multiplied by so that the least is the best: 1 for an error, else -1."""
    return 1 if metric in ERRORS else -1


def per_case(values: npt.NDArray[np.generic], offsets: Offsets) -> Values:
    """Returns the sum of each case's `values` `[cases]`; 0 for a case without any."""
    total: Values = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return total[offsets[1:]] - total[offsets[:-1]]


def recall(ranks: Ranks, offsets: Offsets, k: int) -> Values:
    """Returns hits among the first k over the hits possible, min(k, positives) `[cases]`."""
    return _share(per_case(ranks <= k, offsets), np.minimum(np.diff(offsets), k))


def hit_rate(ranks: Ranks, offsets: Offsets, k: int) -> Values:
    """Returns 1 where any positive is among the first k, else 0 `[cases]`."""
    return _where_asked((per_case(ranks <= k, offsets) > 0).astype(np.float64), offsets)


def ndcg(ranks: Ranks, offsets: Offsets, k: int) -> Values:
    """Returns DCG@k over the best possible DCG@k `[cases]`: gain 1, discount 1 / log2(rank + 1).

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002, with the log2 of
    trec_eval.
    """
    gain = np.where(ranks <= k, 1 / np.log2(np.minimum(ranks, k) + 1.0), 0.0)
    most = np.minimum(np.diff(offsets), k)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, most.max(initial=0) + 2)))])
    return _share(per_case(gain, offsets), ideal[most])


def reciprocal_rank(ranks: Ranks, offsets: Offsets) -> Values:
    """Returns 1 / the best rank `[cases]`, 0 where all are missed; its mean is MRR (Voorhees, TREC-8, 1999)."""
    inverse = np.where(ranks == MISSED, 0.0, 1.0 / ranks)
    best = np.zeros(len(offsets) - 1)
    np.maximum.at(best, np.repeat(np.arange(len(best)), np.diff(offsets)), inverse)
    return _where_asked(best, offsets)


def average_precision(ranks: Ranks, offsets: Offsets, k: int) -> Values:
    """Returns the sum of precision@rank over the hits of the first k, over min(k, positives) `[cases]`.

    Its mean is MAP@k as in Kaggle's definition; trec_eval's `map_cut` divides by all positives instead.
    """
    case = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((ranks, case))
    place = np.arange(len(ranks)) - offsets[case] + 1  # the hit's number within its case
    sorted_ranks = ranks[order]
    precision = np.where(sorted_ranks <= k, place / np.minimum(sorted_ranks, k), 0.0)
    return _share(per_case(precision, offsets), np.minimum(np.diff(offsets), k))


def coverage(lists: npt.NDArray[np.int32], items: int) -> float:
    """Returns the share of the `items` in the corpus that stand in any of the `lists` `[cases, k]` (0: no item)."""
    seen = np.zeros(int(lists.max(initial=0)) + 1, bool)
    seen[lists] = True
    return float(seen[1:].sum()) / items if items else 0.0


def novelty(lists: npt.NDArray[np.int32], popularity: npt.NDArray[np.integer], users: int) -> Values:
    """Returns the mean surprise -log2(share of users who know the item) of each list, in bits `[cases]`.

    `popularity` `[rows]` counts the training users of each item; an item without any counts as known to one.
    Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems", 2010.
    """
    surprise = -np.log2(np.maximum(popularity, 1) / max(users, 1))
    return list_mean(lists, surprise)


def list_mean(lists: npt.NDArray[np.int32], values: npt.NDArray[np.floating]) -> Values:
    """Returns the mean of `values` `[rows]` over each list's items `[cases]`; NaN for an empty list."""
    there = lists > 0
    return _share(np.where(there, values[lists], 0.0).sum(axis=1), there.sum(axis=1))


def intra_list_diversity(lists: npt.NDArray[np.int32], features: scipy.sparse.csr_matrix) -> Values:
    """Returns the mean cosine distance of all pairs of items in each list `[cases]`; NaN below two items.

    `features` `[rows, labels]` has rows of length 1, or 0 for an item without labels (distance 1 to all).
    Ziegler et al., "Improving recommendation lists through topic diversification", 2005.
    """
    there = lists > 0
    count = there.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(count)])
    member = scipy.sparse.csr_matrix(
        (np.ones(offsets[-1]), lists[there], offsets), (len(lists), features.shape[0])
    )
    together = np.asarray((member @ features).power(2).sum(axis=1)).ravel()  # |sum f|^2 = all ordered pairs
    alone = np.asarray(member @ features.power(2).sum(axis=1)).ravel()
    return 1 - _share(together - alone, count * (count - 1))


def squared_error(predicted: npt.NDArray[np.floating], actual: npt.NDArray[np.floating]) -> Values:
    """Returns the squared error of each event `[events]`; the root of its mean is RMSE."""
    return np.square(predicted.astype(np.float64) - actual)


def absolute_error(predicted: npt.NDArray[np.floating], actual: npt.NDArray[np.floating]) -> Values:
    """Returns the absolute error of each event `[events]`; its mean is MAE."""
    return np.abs(predicted.astype(np.float64) - actual)


def log_loss(probability: npt.NDArray[np.floating], label: npt.NDArray[np.floating]) -> Values:
    """Returns -log of the probability given to what happened `[events]`, in nats, clipped at 1e-7."""
    kept = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.where(label > 0, np.log(kept), np.log1p(-kept))


def auc_parts(predicted: npt.NDArray[np.floating], label: npt.NDArray[np.bool_]) -> Values:
    """Returns for each event the share of the other class that it is rightly ordered against `[events]`; ties half.

    The mean over the positives is the area under the ROC curve, and so is the mean over the negatives.
    These are the structural components of DeLong, DeLong and Clarke-Pearson, 1988. NaN where one class is
    missing.
    """
    positive, negative = np.sort(predicted[label]), np.sort(predicted[~label])
    if not len(positive) or not len(negative):
        return np.full(len(predicted), np.nan)
    below = _rank_share(negative, predicted)
    above = 1 - _rank_share(positive, predicted)
    return np.where(label, below, above)


def list_ndcg(
    predicted: npt.NDArray[np.floating], actual: npt.NDArray[np.floating], user: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.integer], Values]:
    """Returns the users with at least two events and the NDCG of each one's events in predicted order, `[users]` both.

    Gain 2^actual - 1 (Burges et al., "Learning to rank using gradient descent", 2005), or `actual` itself
    where it goes above 10 and the power would leave one event to decide; equal predictions are ordered
    against the model.
    """
    actual = actual.astype(np.float64) - min(0.0, float(actual.min(initial=0)))
    gain = np.exp2(actual) - 1 if actual.max(initial=0) <= 10 else actual
    order = np.lexsort((actual, -predicted.astype(np.float64), user))
    best = np.lexsort((-actual, user))
    users, starts, counts = np.unique(user[order], return_index=True, return_counts=True)
    discount = 1 / np.log2(np.arange(len(user)) - np.repeat(starts, counts) + 2.0)
    offsets = np.append(starts, len(user)).astype(np.int64)
    ideal = per_case(gain[best] * discount, offsets)
    kept = (counts > 1) & (ideal > 0)
    return users[kept], per_case(gain[order] * discount, offsets)[kept] / ideal[kept]


def _rank_share(others: npt.NDArray[np.floating], values: npt.NDArray[np.floating]) -> Values:
    """Returns the share of the sorted `others` below each value, equals counting half."""
    left = np.searchsorted(others, values, side="left")
    right = np.searchsorted(others, values, side="right")
    return (left + right) / (2.0 * len(others))


def _share(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Values:
    """Returns part / whole, NaN where the whole is 0."""
    shares: Values = np.full(len(whole), np.nan)
    np.divide(part, whole, out=shares, where=np.asarray(whole != 0), dtype=np.float64)
    return shares


def _where_asked(values: Values, offsets: Offsets) -> Values:
    return np.where(np.diff(offsets) > 0, values, np.nan)
