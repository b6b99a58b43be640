"""Exact ranks and lists, against a sort of every row."""

import dataclasses

import numpy as np
import pytest
from conftest import Table, lists

from trainer import memory
from trainer.data.examples import Cases
from trainer.data.vocabulary import Vocabulary
from trainer.errors import UserError
from trainer.evaluation import answers
from trainer.evaluation.answers import answer
from trainer.evaluation.counting import top_rows
from trainer.evaluation.metrics import MISSED
from trainer.evaluation.scoring import FactorScorer, IdLists


def cases_of(histories, positives, users=None):
    count = len(histories)
    users = np.arange(1, count + 1) if users is None else users
    return Cases(users.astype(np.int32), lists(histories), lists(positives), np.zeros(count, np.int64))


def by_sorting(scores, history, positives):
    """The rank of each positive: masked items out, equals before it, equal positives one behind the other."""
    open_to = [item for item in range(1, len(scores)) if item not in history]
    wanted = set(positives)
    order = sorted(open_to, key=lambda item: (-scores[item], item in wanted))
    place = {item: rank for rank, item in enumerate(order, start=1)}
    return sorted(place.get(item, MISSED) for item in positives)


@pytest.mark.parametrize("levels", [3, 50, 10**6])  # few levels: ties everywhere
@pytest.mark.parametrize("block", [1, 2**20])
def test_ranks_equal_a_full_sort(monkeypatch, levels, block):
    monkeypatch.setattr(answers, "BLOCK_BYTES", block)
    random = np.random.default_rng(levels)
    table = random.integers(0, levels, (30, 301)).astype(np.float32)
    draw = [random.choice(np.arange(1, 301), 60, replace=False).tolist() for _ in range(30)]
    counts = random.integers(1, 30, 30)
    histories = [row[:20] for row in draw]
    positives = [row[20 : 20 + count] for row, count in zip(draw, counts, strict=True)]
    found = answer(Table(table), cases_of(histories, positives), 300, 10)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    for case in range(30):
        own = sorted(found.ranks[offsets[case] : offsets[case + 1]].tolist())
        assert own == by_sorting(table[case], set(histories[case]), positives[case])


@pytest.mark.parametrize("items", [7, 500, 5000])
def test_lists_equal_a_stable_sort(items):
    random = np.random.default_rng(items)
    for scores in (random.normal(size=(20, items)), random.integers(0, 5, (20, items))):
        scores = scores.astype(np.float32)
        scores[:, ::3] = -np.inf
        wanted = np.argsort(-scores, axis=1, kind="stable")[:, :50]
        found = top_rows(scores, 50)
        for row in range(20):
            there = wanted[row][scores[row, wanted[row]] > -np.inf]
            assert found[row, : len(there)].tolist() == there.tolist()
            assert not found[row, len(there) :].any()


def test_threads_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    table = random.normal(size=(64, 200)).astype(np.float32)
    cases = cases_of([[1, 2]] * 64, [[3, 4, 5]] * 64)
    alone = answer(Table(table), cases, 199, 5)
    monkeypatch.setattr(answers, "_MUCH", 0)
    together = answer(Table(table), cases, 199, 5)
    np.testing.assert_array_equal(alone.ranks, together.ranks)
    np.testing.assert_array_equal(alone.lists, together.lists)


def test_masked_unknown_and_impossible_positives_are_missed():
    scores = [[9, 1, 2, 3, -np.inf]]
    found = answer(Table(scores), cases_of([[1]], [[1, 0, 4, 2]]), 4, 3)
    assert found.ranks.tolist() == [MISSED, MISSED, MISSED, 2]
    assert found.lists.tolist() == [[3, 2, 0]]


def test_what_a_user_dislikes_is_masked_like_what_they_had():
    cases = dataclasses.replace(cases_of([[1], [2]], [[4], [4]]), disliked=lists([[], [5, 1]]))
    table = [[0, 9, 8, 3, 5, 7], [0, 9, 8, 3, 5, 7]]
    for model in (Table(table), Lists(table)):
        found = answer(model, cases, 5, 3)
        assert found.lists.tolist() == [[2, 5, 4], [4, 3, 0]]
        assert found.ranks.tolist() == [3, 1]


def test_equal_scores_put_the_positive_last():
    found = answer(Table(np.ones((1, 6))), cases_of([[]], [[2]]), 5, 3)
    assert found.ranks.tolist() == [5]
    assert found.alike.all()


def test_what_is_no_number_goes_last():
    found = answer(Table([[0, 1, np.nan, 3, np.nan]]), cases_of([[]], [[1, 2]]), 4, 4)
    assert found.ranks.tolist() == [2, MISSED]
    assert found.lists.tolist() == [[3, 1, 0, 0]]
    assert found.broken == 1


def test_only_ranks_are_the_same_ranks():
    random = np.random.default_rng(0)
    table = random.normal(size=(5, 100)).astype(np.float32)
    table[0, 7] = np.nan
    cases = cases_of([[1]] * 5, [[2, 3], [4], [7, 8], list(range(10, 50)), [5]])
    full, short = (answer(Table(table), cases, 99, 5, only_ranks=flag) for flag in (False, True))
    np.testing.assert_array_equal(full.ranks, short.ranks)
    assert short.lists.shape == (5, 0)


def test_a_scorers_own_read_only_array_stays_as_it_is():
    table = np.ones((2, 4), np.float32)
    table.flags.writeable = False

    class Constant:
        def scores(self, cases):
            return table

    answer(Constant(), cases_of([[1], [2]], [[3], [3]]), 3, 2)
    assert (table == 1).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 5\)"):
        answer(Table(np.ones((1, 4))), cases_of([[]], [[1]]), 4, 2)


def test_factor_scorer_is_an_inner_product_and_a_maximum_over_interests():
    random = np.random.default_rng(0)
    queries, candidates = random.normal(size=(3, 2, 8)), random.normal(size=(11, 8))
    cases = cases_of([[]] * 3, [[1]] * 3)
    several = FactorScorer(lambda some: queries[some.user - 1], candidates).scores(cases)
    np.testing.assert_allclose(several, (queries @ candidates.T).max(axis=1), rtol=1e-5, atol=1e-5)
    one = FactorScorer(lambda some: queries[some.user - 1, 0], candidates).scores(cases)
    np.testing.assert_allclose(one, queries[:, 0] @ candidates.T, rtol=1e-5, atol=1e-5)


def test_lists_that_differ_are_not_one_list_however_little_a_scorer_knows():
    """Each case scores two items of 5,000: nearly all of the items that tell lists apart have 0 in every case."""
    table = np.zeros((50, 5_001), np.float32)
    table[np.arange(50), 1 + 7 * np.arange(50)] = 1.0
    found = answer(Table(table), cases_of([[]] * 50, [[1]] * 50), 5_000, 5)
    assert len(np.unique(found.orders)) == 50


@pytest.mark.parametrize("interests", [None, 1, 3])
def test_products_in_threads_give_the_ranks_of_a_full_sort(monkeypatch, interests):
    """Vectors of small integers: products are exact, ties are many, and any two routes must agree to the rank."""
    monkeypatch.setattr(answers, "_MUCH", 0)
    monkeypatch.setattr(answers, "_CASES", 16)
    monkeypatch.setattr(answers, "PRODUCT_BYTES", 4 * 301 * 3)
    random = np.random.default_rng(interests)
    shape = (40, 4) if interests is None else (40, interests, 4)
    queries, candidates = random.integers(-3, 4, shape), random.integers(-3, 4, (301, 4))
    whole = queries @ candidates.T if interests is None else (queries @ candidates.T).max(axis=1)
    draw = [random.choice(np.arange(1, 301), 12, replace=False).tolist() for _ in range(40)]
    cases = cases_of([row[:8] for row in draw], [row[8:] for row in draw])
    scorer = FactorScorer(lambda some: queries[some.user - 1], candidates)
    found, table = answer(scorer, cases, 300, 10), answer(Table(whole), cases, 300, 10)
    for case in range(40):
        own = sorted(found.ranks[4 * case : 4 * case + 4].tolist())
        assert own == by_sorting(whole[case], set(draw[case][:8]), draw[case][8:])
    np.testing.assert_array_equal(found.lists, table.lists)
    np.testing.assert_array_equal(found.orders, table.orders)


def test_memory_does_not_grow_with_the_cases():
    """4,000 cases by 20,001 items are 320 MB of scores; two blocks of them must do."""
    random = np.random.default_rng(0)
    queries = random.normal(size=(4_000, 4)).astype(np.float32)
    scorer = FactorScorer(lambda some: queries[some.user - 1], random.normal(size=(20_001, 4)))
    cases = cases_of([[1]] * 4_000, [[2]] * 4_000)
    answer(scorer, cases.take(np.arange(1)), 20_000, 5)
    with memory.costing() as cost:
        answer(scorer, cases, 20_000, 5, only_ranks=True)
    assert cost.memory_mb < 200


class Lists:
    """A server over a table: masked histories, lists and scores only."""

    def __init__(self, table):
        self.table = np.asarray(table, np.float32)

    def top(self, cases, k):
        rows, scores = np.zeros((len(cases), k), np.int32), np.full((len(cases), k), -np.inf, np.float32)
        for case in range(len(cases)):
            seen = set(
                cases.history.items[cases.history.offsets[case] : cases.history.offsets[case + 1]].tolist()
            )
            own = self.table[cases.user[case] - 1]
            order = [item for item in np.argsort(-own, kind="stable").tolist() if item not in {0, *seen}][:k]
            rows[case, : len(order)], scores[case, : len(order)] = order, own[order]
        return rows, scores


@pytest.mark.parametrize("levels", [4, 10**6])
def test_lists_give_the_same_ranks_as_scores_within_them(levels):
    random = np.random.default_rng(levels)
    table = random.integers(0, levels, (20, 41)).astype(np.float32)
    draw = [random.choice(np.arange(1, 41), 12, replace=False).tolist() for _ in range(20)]
    cases = cases_of([row[:5] for row in draw], [row[5:] for row in draw])
    exact, listed = answer(Table(table), cases, 40, 10), answer(Lists(table), cases, 40, 10)
    assert listed.truncated and not exact.truncated
    np.testing.assert_array_equal(exact.lists, listed.lists)
    inside = exact.ranks <= 10
    if levels > 100:
        np.testing.assert_array_equal(exact.ranks[inside], listed.ranks[inside])
    assert not (listed.ranks[~inside] <= 10).any()  # ties at the end of a list count against it


def test_a_served_answer_goes_through_ids():
    users, items = Vocabulary(("u", "v"), 2), Vocabulary(("a", "b", "c"), 3)
    asked = []

    def ask(requests, k):
        asked.append((requests.users, requests.histories, k))
        return [["c", "b"], ["a"]], [[2.0, 1.0], [0.5]]

    cases = cases_of([[1], [2, 0, 3]], [[2], [1]], users=np.array([2, 0]))
    rows, scores = IdLists(ask, users, items).top(cases, 3)
    assert asked == [(["v", ""], [["a"], ["b", "c"]], 3)]
    assert rows.tolist() == [[3, 2, 0], [1, 0, 0]]
    assert scores[0].tolist() == [2.0, 1.0, -np.inf]


def test_a_served_id_outside_the_data_is_said():
    model = IdLists(lambda *_: ([["zz"]], [[1.0]]), Vocabulary(("u",), 1), Vocabulary(("a",), 1))
    with pytest.raises(UserError, match="'zz'"):
        model.top(cases_of([[]], [[1]]), 1)


def test_a_served_item_newer_than_the_data_is_passed_over():
    """A bundle exported with all of the history knows items of the test part that training did not see."""
    model = IdLists(
        lambda *_: ([["new", "a"]], [[2.0, 1.0]]), Vocabulary(("u",), 1), Vocabulary(("a",), 1), ["new"]
    )
    rows, scores = model.top(cases_of([[]], [[1]]), 2)
    assert (rows.tolist(), scores.tolist()) == ([[0, 1]], [[2.0, 1.0]])


@pytest.mark.parametrize("shape", [(0, 4), (3, 4), (3, 2, 4)])
def test_scores_of_products_are_the_caller_s_to_write_into(shape):
    random = np.random.default_rng(0)
    vectors = random.normal(size=shape).astype(np.float32)
    candidates = random.normal(size=(7, 4)).astype(np.float32)
    scorer = FactorScorer(lambda cases: vectors, candidates)
    first, second = scorer.product(vectors), scorer.product(vectors)
    wanted = vectors @ candidates.T
    wanted = wanted.max(axis=1) if wanted.ndim == 3 else wanted
    first[:] = -np.inf
    del scorer
    np.testing.assert_allclose(second, wanted, atol=1e-6)
    assert first.shape == wanted.shape and np.isneginf(first).all()
