"""The whole report on a hand-made world, its alarms, its slices, and what it says about bad input."""

import dataclasses
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Table, events, lists
from rich.console import Console

from trainer.config import Config
from trainer.data.examples import Cases
from trainer.data.interactions import Feature
from trainer.errors import UserError
from trainer.evaluation import beyond_accuracy, metrics, slices
from trainer.evaluation.alarms import context_of_items
from trainer.evaluation.ranking import evaluate_ranking
from trainer.evaluation.reports import Report, compare, gate
from trainer.evaluation.retrieval import accuracy, evaluate_retrieval, measure
from trainer.evaluation.significance import Sample
from trainer.progress import Reporter
from trainer.settings import EvaluateSettings

# Case 1 ranks c first; case 2 has b, d at 3 and 2; case 3 has e at 3; case 4 wants an unknown item.
SCORES = [
    [9, 9, 9, 5, 4, 3, 2],
    [9, 9, 2, 1, 3, 4, 0],
    [9, 0, 0, 0, 3, 1, 2],
    [9, 1, 2, 3, 4, 5, 6],
]
PLAIN = EvaluateSettings(cutoffs=(1, 2, 3), bootstrap=0)


def test_figures_of_the_hand_made_world(prepared):
    report = evaluate_retrieval(Table(SCORES), prepared.test, prepared, PLAIN)
    assert report.values["recall@1"] == pytest.approx(1 / 4)
    assert report.values["recall@3"] == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert report.values["hit_rate@2"] == pytest.approx(2 / 4)
    assert report.values["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    assert report.lists.tolist() == [[3, 4, 5], [5, 4, 2], [4, 6, 5], [6, 5, 4]]
    assert report.values["coverage@1"] == pytest.approx(4 / 6)
    # known by: a 4, b 2, c 1 of 4 users, the rest by none (counted as one)
    assert report.values["novelty@3"] == pytest.approx(((2 + 2 + 2) + (2 + 2 + 1) + 6 + 6) / 12)
    own = [3, 4, 7 / 3, 4]
    listed = [1 / 3, 2 / 3, 0, 0]
    assert report.values["popularity_lift@3"] == pytest.approx(sum(listed) / sum(own) - 1)
    assert report.counts == {"cases": 4}
    assert not report.alarms


def test_diversity_reads_bags(prepared):
    report = evaluate_retrieval(Table(SCORES), prepared.test, prepared, PLAIN)
    half = 1 - math.sqrt(0.5)
    wanted = [(half + 1 + 1) / 3, (1 + 1 + half) / 3, 1, 1]
    assert report.values["intra_list_diversity@3"] == pytest.approx(np.mean(wanted))


def test_without_labels_diversity_is_left_out_with_a_line(prepared, replaced):
    world = replaced(schema=prepared.schema.model_copy(update={"item": ()}))
    report = evaluate_retrieval(Table(SCORES), world.test, world, PLAIN)
    assert not any(name.startswith("intra") for name in report.values)
    assert any("intra_list_diversity is left out" in line for line in report.notes)


def test_a_report_is_json_with_intervals_around_the_figures(prepared):
    settings = EvaluateSettings(cutoffs=(1, 3), slices=("genres", "age", "device"))
    report = evaluate_retrieval(Table(SCORES), prepared.test, prepared, settings)
    found = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert found["cases"] == 4
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] + 1e-9 and found[name] <= high + 1e-9, name
    assert {"recall@3", "coverage@1", "novelty@3", "popularity_lift@1", "mrr"} <= set(found["intervals"])


def test_slices_part_cases_and_positives(prepared):
    settings = EvaluateSettings(cutoffs=(3,), bootstrap=0, slices=("genres", "age", "device"))
    found = evaluate_retrieval(Table(SCORES), prepared.test, prepared, settings).slices
    assert {label: row["cases"] for label, row in found["history_length"].items()} == {
        "0": 0,
        "1-4": 4,
        "5-19": 0,
        "20+": 0,
    }
    assert "recall@3" not in found["history_length"]["20+"]
    assert {label: row["cases"] for label, row in found["item_popularity"].items()} == {
        "head": 0,
        "mid": 1,
        "tail": 1,
        "unseen": 3,
    }
    assert found["item_popularity"]["tail"]["recall@3"] == 1
    assert found["device"]["desk"]["cases"] == 1 and found["device"]["phone"]["cases"] == 3
    assert found["genres"]["x"]["cases"] == 1 and found["genres"]["y"]["recall@3"] == 1
    assert found["age"]["(missing)"]["cases"] == 1
    assert sum(row["cases"] for row in found["age"].values()) == 4


@pytest.mark.parametrize(
    ("kind", "values", "labels"),
    [
        ("number", [1, 2, 3, 4], ["1 to 1.75", "1.75 to 2.5", "2.5 to 3.25", "3.25 to 4"]),
        (  # six digits tell none of them apart
            "number",
            [1_000_000_000 + n for n in (0, 1, 2, 3, 4)],
            [f"{1_000_000_000 + n} to {1_000_000_001 + n}" for n in range(4)],
        ),
        (
            "time",
            [0, 60, 120, 180, 240],
            [f"1970-01-01T00:0{n}:00 to 1970-01-01T00:0{n + 1}:00" for n in range(4)],
        ),
    ],
)
def test_quartiles_have_names_of_their_own(kind, values, labels):
    found = slices._masks(Feature(name="a", kind=kind), np.array(values, float))
    assert list(found) == labels
    assert sum(mask.sum() for mask in found.values()) == len(values)


def test_a_slice_by_text_is_a_line_and_by_nothing_an_error(prepared):
    report = evaluate_retrieval(Table(SCORES), prepared.test, prepared, EvaluateSettings(slices=("name",)))
    assert any("no slices by name" in line for line in report.notes)
    with pytest.raises(UserError, match="did you mean 'genres'"):
        evaluate_retrieval(Table(SCORES), prepared.test, prepared, EvaluateSettings(slices=("genre",)))


def test_cutoffs_above_the_corpus_take_all_of_it(prepared):
    report = evaluate_retrieval(Table(SCORES), prepared.test, prepared, EvaluateSettings(cutoffs=(3, 50)))
    assert any("cutoff 50 is above the corpus of 6 items" in line for line in report.notes)
    assert report.values["recall@50"] == pytest.approx(3 / 4)


def test_cases_without_positives_and_repeated_positives_are_said(prepared):
    test = Cases(
        np.array([1, 2, 3], np.int32),
        lists([[1], [1], [1]]),
        lists([[3, 3, 4], [], [0, 0]], start=10),
        np.full(3, 10, np.int64),
    )
    report = evaluate_retrieval(Table(SCORES), test, prepared, PLAIN)
    assert report.counts == {"cases": 2}
    assert report.notes[:2] == [
        "1 positives stand twice in their case: counted once",
        "1 of 3 cases have no positives: left out",
    ]


def test_no_cases_at_all(prepared):
    report = evaluate_retrieval(Table(SCORES), prepared.test.take(np.arange(0)), prepared, EvaluateSettings())
    assert report.values == {} and "no cases to evaluate" in report.notes
    json.dumps(report.as_dict(), allow_nan=False)
    assert math.isnan(measure(Table(SCORES), prepared.validation, prepared))


def test_progress_counts_to_the_end(prepared):
    seen = []
    evaluate_retrieval(Table(SCORES), prepared.test, prepared, PLAIN, lambda *done: seen.append(done))
    assert seen[-1] == (4, 4)


@pytest.mark.parametrize("metric", ["recall@2", "hit_rate@1", "ndcg@3", "map@3", "mrr"])
def test_measuring_one_metric_agrees_with_the_report(prepared, metric):
    report = evaluate_retrieval(Table(SCORES), prepared.test, prepared, PLAIN)
    assert measure(Table(SCORES), prepared.test, prepared, metric) == pytest.approx(report.values[metric])
    assert accuracy(Table(SCORES), prepared.test, prepared, (1, 2, 3))[metric] == report.values[metric]


@pytest.mark.parametrize("metric", ["recall", "coverage@5", "mrr@5", "ndcg@0", "ndcg@010", "nonsense"])
def test_a_metric_that_cannot_be_chosen_by(prepared, metric):
    with pytest.raises(UserError, match=metric):
        measure(Table(SCORES), prepared.test, prepared, metric)


def test_collapse_to_one_score_scores_nothing_and_is_said(prepared):
    report = evaluate_retrieval(Table(np.zeros((4, 7))), prepared.test, prepared, PLAIN)
    assert report.values["recall@2"] == 0
    assert any("one and the same score" in line for line in report.alarms)


def test_the_models_alarms_are_on_the_terminal(prepared, monkeypatch):
    from trainer import measurement

    monkeypatch.setattr("trainer.measurement.scorer", lambda *_: Table(np.zeros((4, 7))))
    reporter = Reporter(Console(file=io.StringIO(), width=200))
    model = SimpleNamespace(retriever=SimpleNamespace(unheard=lambda _: ["brand has no say"]))
    run = measurement.Run(Config(), Path(), prepared, "", model, None, reporter)
    monkeypatch.setattr("trainer.measurement.context_of_items", lambda *_: ["leakage: context column"])
    reports = measurement.measure(run, (), ())
    said = reporter.console.file.getvalue()
    assert "retrieval: collapse: in 4 of 4 cases all items have one" in said
    assert "retrieval: leakage: context column" in said
    assert "leakage: context column" in reports.retrieval["model"].alarms
    assert "retrieval: brand has no say" in said and "brand has no say" in reports.retrieval["model"].notes


def test_collapse_to_one_list_is_said(prepared):
    same = np.arange(7.0) + np.array([[0], [5], [7], [1]])
    report = evaluate_retrieval(Table(same), prepared.test, prepared, PLAIN)
    assert any("one list for everybody" in line for line in report.alarms)


def test_scores_that_are_no_numbers_are_said(prepared):
    broken = np.array(SCORES, float)
    broken[1, 3] = np.nan
    report = evaluate_retrieval(Table(broken), prepared.test, prepared, PLAIN)
    assert any("1 of 4 cases have scores that are not numbers" in line for line in report.alarms)


def test_context_that_is_the_items_own_is_a_leak(make_prepared):
    made = make_prepared([[1 + (user + n) % 5 for n in range(5)] for user in range(20)])
    item, number = made.train.item, np.arange(len(made.train))
    context = {"price": item * 1.5, "device": number % 2 * 1.0, "shop": np.where(number, 9.0, 8.0)}
    leaky = dataclasses.replace(made, train=dataclasses.replace(made.train, context=context))
    (line,) = context_of_items(leaky, ())
    assert line.startswith("leakage: context column 'price' follows from the item")
    assert context_of_items(leaky, {"price"}) == []


def test_leaks_are_said(prepared, replaced):
    seen = events([1], [3], [99], [5])
    report = evaluate_retrieval(Table(SCORES), prepared.test, replaced(train=seen), PLAIN)
    assert any("1 of 5 positives are in training" in line for line in report.alarms)
    assert any("later events of the user in 1 of 4 cases" in line for line in report.alarms)
    early = Cases(
        prepared.test.user,
        prepared.test.history,
        prepared.test.positives,
        np.full(4, 1),
        prepared.test.context,
    )
    report = evaluate_retrieval(Table(SCORES), early, prepared, PLAIN)
    assert any("1 events of the histories lie after" in line for line in report.alarms)
    unordered = evaluate_retrieval(Table(SCORES), early, replaced(ordered=False), PLAIN)
    assert not unordered.alarms
    overlapping = dataclasses.replace(prepared.test, dropped=7)
    report = evaluate_retrieval(Table(SCORES), overlapping, replaced(ordered=False), PLAIN)
    assert report.alarms == ["leakage: 7 more positives of the test were in training: they are left out"]
    report = evaluate_retrieval(Table(SCORES), overlapping, prepared, PLAIN)  # later, they come again
    advice = "; to ask for new items, keep of the table each user's first event with an item"
    assert report.alarms == [
        f"7 more positives of the test repeat what their user had: they are left out{advice}"
    ]


@pytest.fixture
def crowd(prepared, replaced):
    """200 cases with one positive each, a model that finds 60 % of them first, and one that finds 30 %."""
    random = np.random.default_rng(0)
    test = Cases(
        np.arange(1, 201, dtype=np.int32),
        lists([[]] * 200),
        lists(random.integers(1, 7, (200, 1)).tolist()),
        np.zeros(200, np.int64),
    )

    def model(share):
        table = random.normal(size=(200, 7)).astype(np.float32)
        hits = np.flatnonzero(random.random(200) < share)
        table[hits, test.positives.items[hits]] = 9
        return evaluate_retrieval(Table(table), test, replaced(ordered=False), PLAIN)

    return model(0.6), model(0.3)


def test_the_gate_closes_below_a_baseline_and_says_by_how_much(crowd):
    good, poor = crowd
    line = gate(poor, {"good": good, "poor": poor}, "recall@1")
    assert (
        line is not None and "good" in line and f"{compare(poor, good, 'recall@1').difference:+.4f}" in line
    )
    assert gate(good, {"poor": poor}, "recall@1") is None
    assert gate(good, {"same": good}, "recall@1") is None
    assert gate(good, {}, "recall@1") is None
    assert compare(good, poor, "recall@1").significant


def test_to_the_gate_less_of_an_error_is_better():
    low, high = (
        Report(
            {},
            {"rmse": value},
            {},
            {},
            {"rmse": Sample(value * np.ones(20), np.ones(20), np.arange(20))},
            [],
            [],
        )
        for value in (0.8, 0.9)
    )
    assert gate(low, {"baseline": high}, "rmse") is None
    assert "0.8000: the difference is +0.1000" in (gate(high, {"worse": high, "baseline": low}, "rmse") or "")


def test_the_gate_asks_for_users_enough():
    """Of three users nothing is sure, however clear their interval."""
    one = np.ones(3)
    good, poor = (Sample(value * one, one, np.arange(3)) for value in (1.0, 0.2))
    good, poor = (
        Report({"cases": 3}, {"recall@1": sample.value}, {}, {}, {"recall@1": sample}, [], [])
        for sample in (good, poor)
    )
    gap = compare(poor, good, "recall@1")
    assert gap.high < 0 and gate(poor, {"good": good}, "recall@1") is None


def test_what_has_no_value_by_user_cannot_be_compared(crowd):
    with pytest.raises(UserError, match=r"coverage@1 cannot be compared.*recall@1"):
        compare(*crowd, "coverage@1")


def test_ranking_figures(prepared):
    predicted = np.array([4, 4, 3, 3, 1], np.float32)
    report = evaluate_ranking(predicted, prepared.rated_test, prepared, EvaluateSettings())
    assert report.values["rmse"] == pytest.approx(math.sqrt(2 / 5))
    assert report.values["mae"] == pytest.approx(2 / 5)
    assert report.values["auc"] == pytest.approx(5.5 / 6)  # the mean is 3: 5, 4, 3 against 2, 1
    assert report.values["list_ndcg"] == pytest.approx(1.0)  # of user 2
    assert report.counts == {"events": 5, "users": 4}
    for name, (low, high) in report.intervals.items():
        assert low <= report.values[name] + 1e-9 and report.values[name] <= high + 1e-9, name
    assert report.slices["item_popularity"]["unseen"]["events"] == 3
    # of the unseen, predicted 3, 3, 1, only the second is rated at least 3: one tie, one right
    assert report.slices["item_popularity"]["unseen"]["auc"] == pytest.approx(0.75)
    json.dumps(report.as_dict(), allow_nan=False)


def test_binary_ranking_adds_log_loss(prepared):
    labels = np.array([1, 1, 0, 0, 0], np.float32)
    predicted = np.array([0.9, 0.4, 0.6, 0.2, 0.1], np.float32)
    report = evaluate_ranking(
        predicted, prepared.rated_test, prepared, EvaluateSettings(), labels, binary=True
    )
    assert report.values["auc"] == pytest.approx(5 / 6)
    assert report.values["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8, 0.9]).mean(), rel=1e-5)


def test_the_interval_of_auc_is_that_of_resampled_events(prepared):
    random = np.random.default_rng(0)
    count = 400
    many = events(np.arange(1, count + 1), [0] * count, [10] * count, random.integers(1, 6, count))
    predicted = (many.rating + random.normal(0, 3, count)).astype(np.float32)
    rows = np.minimum(many.user, 4)
    many = events(rows, many.item, many.timestamp, many.rating)
    unknown = events([0] * count, [0] * count, [10] * count, many.rating)
    report = evaluate_ranking(predicted, unknown, prepared, EvaluateSettings(bootstrap=400))
    drawn = []
    for _ in range(200):
        rows = random.integers(0, count, count)
        again = evaluate_ranking(
            predicted[rows],
            unknown.take(rows),
            prepared,
            EvaluateSettings(bootstrap=0),
            threshold=float(many.rating.mean()),
        )
        drawn.append(again.values["auc"])
    assert np.ptp(report.intervals["auc"]) == pytest.approx(
        np.ptp(np.quantile(drawn, [0.025, 0.975])), rel=0.25
    )


def test_ranking_without_labels_or_with_bad_predictions_is_said(prepared):
    nothing = events([1, 2], [1, 2], [10, 10], [np.nan, np.nan])
    report = evaluate_ranking(np.zeros(2, np.float32), nothing, prepared, EvaluateSettings())
    assert report.values == {} and report.notes == [
        "2 of 2 events carry no label: left out",
        "no events to rank",
    ]
    bad = np.array([1, np.nan, 1, 1, np.inf], np.float32)
    report = evaluate_ranking(bad, prepared.rated_test, prepared, EvaluateSettings())
    assert report.alarms == ["2 of 5 predictions are not finite: nothing was measured"]


def test_constant_predictions_have_an_auc_of_one_half(prepared):
    report = evaluate_ranking(np.ones(5, np.float32), prepared.rated_test, prepared, EvaluateSettings())
    assert report.values["auc"] == 0.5
    assert report.alarms == ["collapse: all 5 predictions are the same"]


def test_rated_events_that_training_has_seen_are_said(prepared, replaced):
    predicted = np.array([5, 5, 2, 3, 1], np.float32)
    again = {"rated_train": events([1, 2, 3], [3, 3, 5], [0, 0, 0], [5, 4, 3])}
    world, in_time = replaced(**again, ordered=False), replaced(**again, ordered=True)
    report = evaluate_ranking(predicted, prepared.rated_test, world, EvaluateSettings())
    assert evaluate_ranking(predicted, prepared.rated_test, in_time, EvaluateSettings()).alarms == []
    assert report.alarms == ["leakage: 2 of 5 events are in training with the same user and item"]
    assert evaluate_ranking(predicted, prepared.rated_test, prepared, EvaluateSettings()).alarms == []


def test_empty_slices_are_named_and_have_no_figures(prepared):
    report = evaluate_retrieval(Table(SCORES), prepared.test, prepared, PLAIN)
    line = next(line for line in report.notes if line.startswith("slices without cases"))
    assert (
        line
        == "slices without cases: history_length 0, history_length 5-19, history_length 20+, item_popularity head"
    )
    assert report.slices["item_popularity"]["head"] == {"cases": 0, "intervals": {}}
    ranked = evaluate_ranking(np.ones(5, np.float32), prepared.rated_test, prepared, EvaluateSettings())
    assert any(line.startswith("slices without events: ") for line in ranked.notes)
    nothing = evaluate_retrieval(Table(SCORES), prepared.test.take(np.arange(0)), prepared, PLAIN)
    assert nothing.notes == ["no cases to evaluate"]


class Top:
    """Gives the best k of a table and nothing else."""

    def __init__(self, table):
        self.table = np.asarray(table, np.float32)

    def top(self, cases, k):
        own = np.array(self.table[cases.user - 1])
        own[:, 0] = -np.inf
        for case in range(len(cases)):
            own[
                case, cases.history.items[cases.history.offsets[case] : cases.history.offsets[case + 1]]
            ] = -np.inf
        order = np.argsort(-own, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(own, order, axis=1)
        return np.where(scores > -np.inf, order, 0).astype(np.int32), scores


def test_what_lists_cannot_tell_is_left_out_and_said(prepared):
    exact = evaluate_retrieval(Table(SCORES), prepared.test, prepared, PLAIN)
    listed = evaluate_retrieval(Top(SCORES), prepared.test, prepared, PLAIN)
    assert set(exact.values) - set(listed.values) == {"mrr"}
    assert {name: listed.values[name] for name in exact.values if name != "mrr"} == pytest.approx(
        {name: value for name, value in exact.values.items() if name != "mrr"}
    )
    assert listed.values["mrr@3"] == exact.values["mrr"]  # here everything that is found is found by rank 3
    assert listed.notes[0].startswith("only lists of 3 were given: mrr cannot be had from them")
    assert "mrr" not in listed.slices["history_length"]["1-4"]


def test_all_accuracies_agree_with_and_without_the_whole_report(prepared):
    lists = accuracy(Top(SCORES), prepared.test, prepared, (1, 2, 3))
    scores = accuracy(Table(SCORES), prepared.test, prepared, (1, 2, 3))
    assert lists.pop("mrr@3") == scores.pop("mrr")
    assert lists == scores


def test_coverage_of_every_cutoff_comes_from_one_pass():
    random = np.random.default_rng(0)
    shown = random.integers(0, 40, (25, 8)).astype(np.int32)
    cutoffs = (1, 3, 8, 20)
    assert beyond_accuracy._coverages(shown, 39, cutoffs) == [
        metrics.coverage(shown[:, :k], 39) for k in cutoffs
    ]
