"""Who disliked an item does not get it again: the evaluator masks it, by scores and by lists, and histories lack it."""

import dataclasses

import numpy as np
import pytest

from trainer.data.examples import Cases
from trainer.evaluation.answers import answer

SCORES = np.array([[9.0, 5, 4, 3, 2, 1], [9.0, 1, 2, 3, 4, 5]], np.float32)  # of the unknown and five items


class Scores:
    def scores(self, cases):
        return SCORES[cases.user - 1].copy()


class Top:
    """The same scores as lists, which hold what was disliked, as a server would send that does not know."""

    def top(self, cases, k):
        scores = SCORES[cases.user - 1, 1:]
        order = np.argsort(-scores, axis=1)[:, :k]
        return (order + 1).astype(np.int32), np.take_along_axis(scores, order, 1)


@pytest.mark.parametrize("model", [Scores(), Top()])
def test_disliked_items_are_out_of_reach(make_lists, model):
    cases = Cases(
        np.array([1, 2], np.int32),
        make_lists([[1], []]),
        make_lists([[4], [2]]),
        np.zeros(2, np.int64),
        disliked=make_lists([[3], [5, 4]]),
    )
    found = answer(model, cases, 5, 3)
    assert found.lists[:, :2].tolist() == [[2, 4], [3, 2]]
    assert found.ranks.tolist() == [2, 2]
    free = answer(model, dataclasses.replace(cases, disliked=None), 5, 3)
    assert free.lists[:, :2].tolist() == [[2, 3], [5, 4]]


def test_the_evaluator_keeps_the_mask_when_it_drops_cases(make_lists, make_prepared):
    from trainer.evaluation.retrieval import accuracy

    cases = Cases(
        np.array([2, 1, 2], np.int32),
        make_lists([[], [], []]),
        make_lists([[], [2], [5, 5]]),  # nothing to find, and a positive that stands twice
        np.zeros(3, np.int64),
        disliked=make_lists([[1], [1], []]),
    )
    prepared = make_prepared([[1, 2, 3], [2, 1, 3]], items=5)
    assert accuracy(Scores(), cases, prepared, (1,))["hit_rate@1"] == 1


def test_the_ranking_models_past_lacks_dislikes(make_prepared):
    from trainer.ranking.past import Past

    prepared = make_prepared([[1, 2, 3, 4, 5, 6], [2, 1, 3, 5, 4, 6]])
    liked = np.array([True, False, True, True, True, True, False, True])
    past = Past(dataclasses.replace(prepared, liked=liked), 50)
    histories = past.training(past.place[:4], np.ones(4, np.int32))
    assert histories.numpy().tolist() == [[0, 0], [1, 0], [1, 0], [1, 3]]
