"""What blending chooses by: cases from before the test only, figures that are the evaluator's, and parts that add up."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from trainer.blocks import plan, search
from trainer.blocks.block import Block
from trainer.blocks.factorisation import Ease, Factorisation, Spectral, Successors, Transitions
from trainer.blocks.rehearsal import rehearsal
from trainer.config import with_settings
from trainer.evaluation.retrieval import measure
from trainer.retrieval import blending
from trainer.retrieval.inference import ragged, scorer
from trainer.retrieval.retriever import Retriever

LONG = [
    list(range(1, 13)),
    [12, 11, 10, 9, 8, 7],
    [5, 6, 7],
]  # the last of each is test, the one before validation


def cases_of(cases):
    rows = zip(
        cases.user, cases.history.take(np.arange(len(cases))).lengths, cases.positives.items, strict=True
    )
    starts = cases.history.offsets
    return [
        (int(user), cases.history.items[starts[row] : starts[row] + size].tolist(), int(item))
        for row, (user, size, item) in enumerate(rows)
    ]


def test_the_rehearsal_by_hand(make_prepared):
    """A quarter of each history, or an event, is held out, event by event, each with all before it; the test events take no part."""
    lists, cases = rehearsal(make_prepared(LONG))
    assert [
        lists.items[a:b].tolist() for a, b in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
    ] == [
        [],  # the unknown user
        list(range(1, 10)),
        [12, 11, 10, 9],
        [5],
    ]
    assert cases_of(cases) == [
        (1, list(range(1, 10)), 10),
        (1, list(range(1, 11)), 11),
        (2, [12, 11, 10, 9], 8),
        (3, [5], 6),
    ]
    assert (cases.history.timestamps < np.repeat(cases.timestamp, cases.history.lengths)).all()


def test_short_histories_are_rehearsed_too(make_prepared):
    """Of three events the last is the test's, and the one before it a case; a single event before the test is none."""
    prepared = make_prepared([[1, 2, 3], [2, 3, 1], [4, 5], [3, 1, 4, 2]])
    lists, cases = rehearsal(prepared)
    assert cases_of(cases) == [(1, [1], 2), (2, [2], 3), (4, [3, 1], 4)]
    assert lists.lengths.tolist() == [0, 1, 1, 1, 2]


def test_the_rehearsal_passes_over_what_was_had_before(make_prepared):
    _, cases = rehearsal(make_prepared([[1, 2, 3, 4, 5, 6, 7, 1, 8]]))
    assert cases_of(cases) == [(1, [1, 2, 3, 4, 5, 6], 7)]  # and not the 1 that follows


def test_without_order_the_validation_cases_serve(make_prepared):
    prepared = make_prepared(LONG, ordered=False)
    lists, cases = rehearsal(prepared)
    np.testing.assert_array_equal(lists.items, prepared.train.item)
    assert cases_of(cases) == cases_of(prepared.validation)


def accuracy(table, cases):
    """Returns the search's own quick figure for one score matrix given in two halves, as two blocks would."""
    return np.nanmean(search.accuracies([(table, 0.75), (table, 0.25)], cases))


def evaluators(model, cases, prepared):
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in search.CUTOFFS]
    return sum(measure(model, cases, prepared, name) for name in names) / len(search.CUTOFFS)


def test_accuracy_is_the_evaluators(tiny_prepared):
    """Its own quick count of ranks, ties against the model, agrees with the one evaluator."""
    cases = tiny_prepared.validation
    shape = (len(tiny_prepared.users), len(tiny_prepared.items))
    table = np.random.default_rng(0).integers(0, 40, shape).astype(np.float32)

    class Table:
        def scores(self, some):
            return table[some.user].copy()

    wanted = evaluators(Table(), cases, tiny_prepared)
    assert accuracy(table[cases.user], cases) == pytest.approx(wanted, rel=1e-6)


def test_accuracy_of_several_positives_is_the_evaluators(tiny_prepared):
    few = tiny_prepared.validation.take(np.arange(40))
    lists = few.history  # as if the whole history were to be found
    empty = dataclasses.replace(
        lists, offsets=np.zeros(41, np.int64), items=lists.items[:0], timestamps=lists.timestamps[:0]
    )
    cases = dataclasses.replace(few, positives=lists, history=empty)
    table = np.random.default_rng(0).normal(size=(40, len(tiny_prepared.items))).astype(np.float32)

    class Table:
        def scores(self, some):
            return table[: len(some)].copy()

    assert accuracy(table, cases) == pytest.approx(evaluators(Table(), cases, tiny_prepared), rel=1e-6)


def test_choosing_never_ends_below_its_start(tiny_prepared):
    lists, cases = rehearsal(tiny_prepared)
    factorisation = Factorisation(lists, len(tiny_prepared.items), 16)
    board = search.Board(factorisation, cases)
    begin = board.value(plan.START)
    choice, spreads = search.choose(factorisation, cases, lambda done, note: None)
    assert board.value(choice) >= begin
    assert set(spreads) == {settings.family for settings in choice if settings.scale}
    assert [type(settings) for settings in choice] == [Ease, Transitions, Spectral, Successors]


def test_blocks_that_add_nothing_are_left_out():
    class Board:
        def value(self, choice):
            return 1.0 * bool(choice[0].scale) + 0.5 * bool(choice[2].scale) + 0.001 * bool(choice[3].scale)

    choice = (Ease(), Transitions(scale=0.3), Spectral(scale=1.0), Successors(scale=0.5))
    kept = search.needed(Board(), choice, 1.501)
    assert [settings.scale for settings in kept] == [1.0, 0.0, 1.0, 0.0]


def test_where_later_events_are_in_the_histories_what_follows_is_not_asked(tiny_prepared):
    def families(**changes):
        plan = blending.plan_of(dataclasses.replace(tiny_prepared, **changes))
        return {family for step in plan.together for family, _ in step.names}

    every = {plan.EASE, plan.SPECTRAL, plan.TRANSITIONS, plan.SUCCESSORS}
    assert families(ordered=True, timed=True) == every
    assert families(ordered=False, timed=True) == every - {plan.SUCCESSORS}
    assert families(ordered=False, timed=False) == {plan.EASE, plan.SPECTRAL}


@pytest.mark.parametrize(("ends_at", "rank"), [(0.0416, 512), (0.0424, 7)])
def test_another_way_is_taken_where_it_ends_clearly_higher(monkeypatch, ends_at, rank):
    """The usual way ends at .04; another counts from 1.05 times that on."""

    def walk(board, choice, steps, tell):
        if steps is not plan.UNORDERED.rare:
            return choice, 0.04
        settings = dataclasses.replace(choice[plan.SPECTRAL], rank=7)
        return (*choice[: plan.SPECTRAL], settings, *choice[plan.SPECTRAL + 1 :]), ends_at

    monkeypatch.setattr(search, "walk", walk)
    monkeypatch.setattr(search, "needed", lambda board, choice, best: choice)
    monkeypatch.setattr(search, "Board", lambda *_: SimpleNamespace(spread=lambda settings: 1.0))
    choice, _ = search.choose(None, None, lambda *_: None, plan.UNORDERED)
    assert choice[plan.SPECTRAL].rank == rank


def test_what_has_no_order_is_searched_without_reading_any():
    unordered = plan.UNORDERED
    steps = [
        *unordered.together,
        *unordered.rare,
        *(step for steps in unordered.alone.values() for step in steps),
    ]
    assert len(unordered) == len(steps) > 0
    for step in steps:
        for values in step.grid:
            for (family, name), value in zip(step.names, values, strict=True):
                assert family not in (plan.TRANSITIONS, plan.SUCCESSORS)
                assert name != "half_life" or value == float("inf")


def test_a_block_that_only_misleads_gets_little_weight(tiny_prepared, monkeypatch):
    """With random tables for the ridge, the spectral block leads."""
    rng = np.random.default_rng(0)

    def noise(self, settings):
        return rng.normal(size=(2, len(tiny_prepared.items), 4)).astype(np.float32)

    monkeypatch.setattr(Factorisation, "_ease", noise)
    lists, cases = rehearsal(tiny_prepared)
    made = Factorisation(lists, len(tiny_prepared.items), 16)
    choice, _ = search.choose(made, cases, lambda *_: None, plan.UNORDERED)
    weights = {settings.family: settings.scale for settings in choice}
    assert weights["spectral"] == 1.0
    assert weights["ease"] <= 0.2
    assert weights["transitions"] == 0


def weighed(make_prepared, tell, seed=0):
    """Returns 150 users of 30 items who see 6 at random, then some of their own half; weights tell which is which, or are noise."""
    rng, items = np.random.default_rng(seed), np.arange(1, 31)
    seen = [[*rng.permutation(items)[:6], *rng.permutation(items[user % 2 :: 2])[:6]] for user in range(150)]
    prepared = make_prepared([list(dict.fromkeys(row)) for row in seen], items=30, ordered=False)

    def with_weights(events):
        own = events.user % 2 == events.item % 2
        weight = np.where(own, 10, 1) if tell else rng.lognormal(0, 2, len(events))
        return dataclasses.replace(events, weight=weight.astype(np.float32))

    return dataclasses.replace(
        prepared, train=with_weights(prepared.train), before_test=with_weights(prepared.before_test)
    )


@pytest.mark.parametrize("tell", [True, False])
def test_weights_that_tell_count_in_the_blocks_and_noise_does_not(
    tiny_config, make_prepared, tmp_path, quiet, tell
):
    prepared = weighed(make_prepared, tell)
    retriever = Retriever(tiny_config.retrieval, prepared)
    blending.attach(retriever, tiny_config, prepared, tmp_path, quiet)
    recipe = blending.Recipe.read(tmp_path / blending.RECIPE)
    assert recipe.weighted == tell
    lists = prepared.before_test.by_user(len(prepared.users))
    counted = lists if tell else dataclasses.replace(lists, weights=None)
    made = Factorisation(counted, len(prepared.items), tiny_config.retrieval.factorisation_rank)
    wanted = search.blocks(made, recipe.choice, recipe.spreads)
    for layer, block in zip(retriever.blocks[:-1], wanted, strict=True):  # the last is popularity
        np.testing.assert_array_equal(layer.block.candidates, block.candidates)


def test_a_recipe_from_before_the_choice_of_weights_has_them_counted(tmp_path):
    path = tmp_path / blending.RECIPE
    recipe = blending.Recipe(plan.START, {"ease": 1.0}, 0.0, 0.1, weighted=False)
    recipe.write(path)
    assert blending.Recipe.read(path) == recipe
    older = json.loads(path.read_text())
    del older["weighted"]
    path.write_text(json.dumps(older))
    assert blending.Recipe.read(path).weighted


@pytest.mark.parametrize(("sign", "taken"), [(1, True), (-1, False)])
def test_towers_that_know_come_in_and_towers_that_mislead_do_not(tiny_prepared, monkeypatch, sign, taken):
    class Towers:
        def scores(self, cases):
            found = (
                np.random.default_rng(0)
                .normal(size=(len(cases), len(tiny_prepared.items)))
                .astype(np.float32)
            )
            found[np.arange(len(cases)), cases.positives.items] += 3 * sign
            return found

    monkeypatch.setattr(blending, "scorer", lambda retriever, prepared: Towers())
    train = tiny_prepared.train.by_user(len(tiny_prepared.users))
    before = search.blocks(
        Factorisation(train, len(tiny_prepared.items), 16), (Ease(l2=50.0),), {"ease": 0.05}
    )
    tower, prior = blending.weigh_towers(None, before, tiny_prepared)
    assert (tower > 0) == taken
    assert prior in blending.PRIOR_SCALES


def test_towers_are_weighed_alike_however_few_cases_are_scored_at_a_time(
    tiny_config, tiny_prepared, monkeypatch
):
    tf.keras.utils.set_random_seed(1)  # of these untrained towers one weight is clearly best
    retriever = Retriever(tiny_config.retrieval, tiny_prepared)
    asked = []

    def accuracies(parts, cases):
        asked.append((parts[1][1], parts[2][1], len(cases)))
        return found(parts, cases)

    found = blending.accuracies
    monkeypatch.setattr(blending, "accuracies", accuracies)
    monkeypatch.setattr(blending, "SURE", -np.inf)  # the best whatever the noise
    whole = blending.weigh_towers(retriever, [], tiny_prepared)
    cases = len(tiny_prepared.validation)
    assert {number for *_, number in asked} == {cases}
    monkeypatch.setattr(blending, "at_a_time", lambda items: cases // 2 + 1)
    asked.clear()
    halves = blending.weigh_towers(retriever, [], tiny_prepared)
    assert {number for *_, number in asked} == {cases // 2 + 1, cases - cases // 2 - 1}
    # the unit of the weights is the spread of the first scores, and popularity is weighed on the first part alone
    assert halves[0] == pytest.approx(whole[0], rel=0.05)
    assert {number for *_, number in asked[len(blending.TOWER_SCALES) * 2 :]} == {cases // 2 + 1}


def test_the_best_of_what_is_surely_better():
    """Row 1 gains in nine cases of ten, row 2 more but in one only, row 3 as row 1 and a little more."""
    values = np.zeros((4, 10))
    values[1, :9], values[2, 0], values[3, :9] = 0.1, 5.0, 0.2
    assert blending.surely_best(values) == 3
    assert blending.surely_best(values[:3]) == 1
    assert blending.surely_best(values[[0, 2]]) == 0
    assert blending.surely_best(np.zeros((3, 10))) == 0


def test_the_vectors_of_both_sides_add_up_the_parts(tiny_config, tiny_prepared, make_lists):
    retriever = Retriever(tiny_config.retrieval, tiny_prepared)
    retriever.history_length = 5
    cases = tiny_prepared.test.take(np.arange(20))
    towers = scorer(retriever, tiny_prepared).scores(cases).copy()
    rng, items = np.random.default_rng(0), len(tiny_prepared.items)
    block = Block("b", *rng.normal(size=(2, items, 3)).astype(np.float32), half_life=4.0, scale=0.5)
    prior = Block("p", *rng.normal(size=(2, items, 1)).astype(np.float32), scale=2.0, constant=True)
    retriever.combine(0.3, [block, prior])
    wanted = 0.3 * towers + sum(part.queries(cases.history) @ part.candidates.T for part in (block, prior))
    np.testing.assert_allclose(scorer(retriever, tiny_prepared).scores(cases), wanted, atol=1e-4)
    assert [part["name"] for part in retriever.describe()] == ["towers", "b", "p"]
    retriever.combine(0.0, [block])  # towers of no weight are left out of the vectors
    assert retriever.candidates(tf.range(3)).shape == [3, 3]
    assert retriever.queries(tf.constant([1]), ragged(make_lists([[1, 2]])), {}).shape == [1, 3]


def test_without_factorisation_the_towers_stand_alone(tiny_config, tiny_prepared, tmp_path, quiet):
    alone = with_settings(tiny_config, {"retrieval.factorisation": "none"})
    retriever = Retriever(alone.retrieval, tiny_prepared)
    blending.attach(retriever, alone, tiny_prepared, tmp_path, quiet)
    assert retriever.describe() == [{"name": "towers", "scale": 1.0}]


def test_attaching_without_validation_cases(tiny_config, tiny_prepared, tmp_path, quiet):
    """Users of two events leave none: the blocks keep their defaults."""
    none = tiny_prepared.validation.take(np.arange(0))
    retriever = Retriever(tiny_config.retrieval, tiny_prepared)
    blending.attach(
        retriever, tiny_config, dataclasses.replace(tiny_prepared, validation=none), tmp_path, quiet
    )
    assert "ease" in [part["name"] for part in retriever.describe()]
    assert measure(scorer(retriever, tiny_prepared), tiny_prepared.test, tiny_prepared, "recall@20") > 0


def test_the_bound_rank_is_kept(tiny_config, tiny_prepared, tmp_path, quiet):
    small = with_settings(tiny_config, {"retrieval.factorisation_rank": 5})
    retriever = Retriever(small.retrieval, tiny_prepared)
    blending.attach(retriever, small, tiny_prepared, tmp_path, quiet)
    assert all(part.get("rank", 0) <= 5 for part in retriever.describe())


def test_what_was_chosen_is_not_chosen_again(tiny_config, tiny_prepared, tmp_path, quiet, monkeypatch):
    first, again = (Retriever(tiny_config.retrieval, tiny_prepared) for _ in range(2))
    blending.attach(first, tiny_config, tiny_prepared, tmp_path, quiet)
    monkeypatch.setattr(blending, "find_recipe", None)
    blending.attach(again, tiny_config, tiny_prepared, tmp_path, quiet)
    assert again.describe() == first.describe()
