"""Every metric on five items, by hand; and against trec_eval and scikit-learn on random lists."""

import math

import numpy as np
import pytest
import pytrec_eval
import scipy.sparse
import sklearn.metrics

from trainer.evaluation import metrics
from trainer.evaluation.metrics import MISSED


def array(*values):
    return np.array(values, np.int64)


# One corpus of 5 items ranked a b c d e. Case 0 wants b and d; case 1 wants a; case 2 wants an unknown item
# and c; case 3 wants nothing.
RANKS = array(2, 4, 1, MISSED, 3)
OFFSETS = array(0, 2, 3, 5, 5)
NAN = math.nan


def same(found, *wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_recall_is_hits_over_hits_possible():
    same(metrics.recall(RANKS, OFFSETS, 1), 0, 1, 0, NAN)
    same(metrics.recall(RANKS, OFFSETS, 3), 1 / 2, 1, 1 / 2, NAN)
    same(metrics.recall(RANKS, OFFSETS, 5), 1, 1, 1 / 2, NAN)


def test_recall_at_one_of_a_case_with_two_positives_can_be_one():
    same(metrics.recall(array(1, 5), array(0, 2), 1), 1)


def test_ndcg_far_beyond_the_corpus_costs_nothing():
    same(metrics.ndcg(RANKS, OFFSETS, 10**12), *metrics.ndcg(RANKS, OFFSETS, 10))


def test_hit_rate():
    same(metrics.hit_rate(RANKS, OFFSETS, 1), 0, 1, 0, NAN)
    same(metrics.hit_rate(RANKS, OFFSETS, 3), 1, 1, 1, NAN)


def test_ndcg_discounts_by_log2_of_rank_plus_one():
    ideal_of_two = 1 + 1 / math.log2(3)
    same(
        metrics.ndcg(RANKS, OFFSETS, 5),
        (1 / math.log2(3) + 1 / math.log2(5)) / ideal_of_two,
        1,
        (1 / math.log2(4)) / ideal_of_two,
        NAN,
    )
    same(metrics.ndcg(RANKS, OFFSETS, 3), (1 / math.log2(3)) / ideal_of_two, 1, 0.5 / ideal_of_two, NAN)
    same(metrics.ndcg(RANKS, OFFSETS, 1), 0, 1, 0, NAN)


def test_reciprocal_rank_is_of_the_best_positive():
    same(metrics.reciprocal_rank(RANKS, OFFSETS), 1 / 2, 1, 1 / 3, NAN)
    same(metrics.reciprocal_rank(array(MISSED), array(0, 1)), 0)


def test_average_precision_sums_precision_at_the_hits():
    same(metrics.average_precision(RANKS, OFFSETS, 5), (1 / 2 + 2 / 4) / 2, 1, (1 / 3) / 2, NAN)
    same(metrics.average_precision(RANKS, OFFSETS, 3), (1 / 2) / 2, 1, (1 / 3) / 2, NAN)
    same(metrics.average_precision(array(4, 2), array(0, 2), 5), (1 / 2 + 2 / 4) / 2)


LISTS = np.array([[1, 2], [1, 3], [4, 0]], np.int32)
COUNTS = np.array([0, 4, 2, 1, 0, 0])


def test_coverage_counts_distinct_items():
    assert metrics.coverage(LISTS, items=5) == 4 / 5
    assert metrics.coverage(LISTS[:0], items=5) == 0


def test_novelty_is_the_mean_surprise_in_bits():
    same(metrics.novelty(LISTS, COUNTS, users=4), (0 + 1) / 2, (0 + 2) / 2, 2)


def test_list_mean_leaves_the_empty_places_out():
    same(metrics.list_mean(np.array([[4, 0], [0, 0]]), np.arange(6.0)), 4, NAN)


def test_intra_list_diversity_is_the_mean_cosine_distance_of_pairs():
    half = math.sqrt(0.5)
    features = scipy.sparse.csr_matrix([[0, 0], [1, 0], [1, 0], [0, 1], [half, half], [0, 0]])
    lists = np.array([[1, 2, 3], [1, 4, 0], [5, 1, 0], [1, 0, 0]], np.int32)
    found = metrics.intra_list_diversity(lists, features)
    np.testing.assert_allclose(found, [2 / 3, 1 - half, 1, NAN])


def test_errors_by_event():
    predicted, actual = np.array([3.0, 4.0, 5.0, 1.0, 2.0]), np.array([3.0, 5.0, 3.0, 1.5, 2.0])
    same(metrics.squared_error(predicted, actual), 0, 1, 4, 0.25, 0)
    same(metrics.absolute_error(predicted, actual), 0, 1, 2, 0.5, 0)


def test_log_loss_is_clipped():
    found = metrics.log_loss(np.array([0.5, 0.25, 0.0]), np.array([1.0, 0.0, 1.0]))
    same(found, math.log(2), -math.log(0.75), -math.log(1e-7))


def test_auc_parts_are_the_shares_rightly_ordered():
    predicted = np.array([0.9, 0.5, 0.5, 0.1, 0.7])
    label = np.array([True, True, False, False, False])
    parts = metrics.auc_parts(predicted, label)
    same(parts, 1, (0.5 + 1) / 3, 3 / 4, 1, 1 / 2)
    assert parts[label].mean() == pytest.approx(4.5 / 6)
    assert parts[~label].mean() == pytest.approx(4.5 / 6)
    assert np.isnan(metrics.auc_parts(predicted, label | True)).all()


def test_list_ndcg_uses_powers_of_two_and_orders_equals_against_the_model():
    user = np.array([1, 1, 1, 2, 3, 3])
    actual = np.array([3.0, 1.0, 2.0, 5.0, 1.0, 2.0])
    predicted = np.array([0.5, 0.9, 0.5, 1.0, 4.0, 4.0])
    users, values = metrics.list_ndcg(predicted, actual, user)
    first = (1 + 3 / math.log2(3) + 7 / 2) / (7 + 3 / math.log2(3) + 1 / 2)
    third = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert users.tolist() == [1, 3]  # user 2 has one event only
    same(values, first, third)


def test_list_ndcg_takes_large_labels_as_they_are():
    _, values = metrics.list_ndcg(np.array([1.0, 2.0]), np.array([300.0, 100.0]), np.array([1, 1]))
    same(values, (100 + 300 / math.log2(3)) / (300 + 100 / math.log2(3)))


@pytest.fixture(scope="module")
def random_case():
    """60 random lists of 40 items with 1 to 12 relevant ones, some of them never listed."""
    random = np.random.default_rng(3)
    ranks, offsets, run, truth = [], [0], {}, {}
    for case in range(60):
        order = random.permutation(40)
        relevant = random.choice(50, random.integers(1, 13), replace=False)
        place = {int(item): rank + 1 for rank, item in enumerate(order)}
        ranks += [place.get(int(item), MISSED) for item in relevant]
        offsets.append(len(ranks))
        run[str(case)] = {str(item): float(40 - rank) for rank, item in enumerate(order)}
        truth[str(case)] = {str(item): 1 for item in relevant}
    return np.array(ranks), np.array(offsets), run, truth


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_agreement_with_trec_eval(random_case, k):
    ranks, offsets, run, truth = random_case
    names = {f"ndcg_cut_{k}", f"map_cut_{k}", f"recall_{k}", f"success_{k}", "recip_rank"}
    measured = pytrec_eval.RelevanceEvaluator(truth, names).evaluate(run)
    theirs = {name: np.array([measured[str(case)][name] for case in range(60)]) for name in names}
    positives = np.diff(offsets)
    possible = positives / np.minimum(
        positives, k
    )  # trec_eval divides by all positives, we by those that fit
    np.testing.assert_allclose(metrics.ndcg(ranks, offsets, k), theirs[f"ndcg_cut_{k}"], atol=1e-9)
    np.testing.assert_allclose(metrics.hit_rate(ranks, offsets, k), theirs[f"success_{k}"], atol=1e-9)
    np.testing.assert_allclose(metrics.reciprocal_rank(ranks, offsets), theirs["recip_rank"], atol=1e-9)
    np.testing.assert_allclose(metrics.recall(ranks, offsets, k), theirs[f"recall_{k}"] * possible, atol=1e-9)
    np.testing.assert_allclose(
        metrics.average_precision(ranks, offsets, k), theirs[f"map_cut_{k}"] * possible, atol=1e-9
    )


def test_agreement_with_scikit_learn():
    """Errors, log loss, AUC with ties, and NDCG of whole lists with exponential gain."""
    random = np.random.default_rng(5)
    actual, predicted = random.integers(1, 6, 300).astype(float), random.integers(0, 30, 300) / 6
    label, chance = actual > 3, np.clip(predicted / 5, 0.01, 0.99)
    user = np.repeat(np.arange(30), 10)
    theirs = sklearn.metrics
    np.testing.assert_allclose(
        np.sqrt(metrics.squared_error(predicted, actual).mean()),
        theirs.root_mean_squared_error(actual, predicted),
    )
    np.testing.assert_allclose(
        metrics.absolute_error(predicted, actual).mean(), theirs.mean_absolute_error(actual, predicted)
    )
    np.testing.assert_allclose(metrics.log_loss(chance, label).mean(), theirs.log_loss(label, chance))
    parts = metrics.auc_parts(predicted, label)
    area = theirs.roc_auc_score(label, predicted)
    np.testing.assert_allclose([parts[label].mean(), parts[~label].mean()], area)
    untied = predicted + random.random(300) / 1000
    users, values = metrics.list_ndcg(untied, actual, user)
    gain, scores = (np.exp2(actual) - 1).reshape(30, 10), untied.reshape(30, 10)
    wanted = [theirs.ndcg_score(gain[[one]], scores[[one]]) for one in users]
    np.testing.assert_allclose(values, wanted)
