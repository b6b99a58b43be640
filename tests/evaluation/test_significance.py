"""Intervals that cover, and comparisons that see what is the same on both sides."""

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.evaluation.significance import Sample, clusters, intervals, paired


def test_an_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(3, 1, 2000)
    low, high = intervals({"m": Sample.mean(values, np.arange(2000))}, 500, seed=1)["m"]
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 / np.sqrt(2000), rel=0.15)


def test_users_are_drawn_whole():
    one = np.random.default_rng(0).normal(0, 1, 100)
    often = Sample.mean(np.repeat(one, 25), np.repeat(np.arange(100), 25))
    once = Sample.mean(one, np.arange(100))
    widths = [np.ptp(intervals({"m": sample}, 500, seed=1)["m"]) for sample in (often, once)]
    assert widths[0] == pytest.approx(widths[1])


def test_same_seed_same_interval():
    sample = {"m": Sample.mean(np.random.default_rng(0).normal(size=50), np.arange(50))}
    assert intervals(sample, 100, seed=1) == intervals(sample, 100, seed=1)
    assert intervals(sample, 100, seed=1) != intervals(sample, 100, seed=2)


def test_nothing_is_said_without_resamples_or_without_values():
    assert intervals({"m": Sample.mean(np.ones(3), np.arange(3))}, 0, seed=1) == {}
    assert intervals({"m": Sample.mean(np.full(3, np.nan), np.arange(3))}, 10, seed=1) == {}


def test_a_root_is_taken_after_the_mean():
    sample = Sample.mean(np.array([1.0, 7.0, np.nan]), np.arange(3), root=True)
    assert sample.value == pytest.approx(2.0)


def test_pairing_finds_a_small_steady_difference():
    hard = np.random.default_rng(0).normal(0, 1, 400)
    ours, theirs = Sample.mean(hard + 0.02, np.arange(400)), Sample.mean(hard, np.arange(400))
    found = paired("m", ours, theirs)
    assert found.significant and found.difference == pytest.approx(0.02)
    noise = Sample.mean(hard + np.random.default_rng(1).normal(0, 1, 400), np.arange(400))
    assert not paired("m", noise, theirs).significant
    few = np.arange(9)
    assert not paired("m", ours.take(few), theirs.take(few)).significant  # of nine users nothing is sure


def test_other_cases_cannot_be_compared():
    with pytest.raises(UserError, match="same cases"):
        paired("m", Sample.mean(np.ones(3), np.arange(3)), Sample.mean(np.ones(2), np.arange(2)))


def test_every_unknown_user_is_a_cluster():
    found = clusters(np.array([0, 7, 0, 7, 2]))
    assert len(np.unique(found)) == 4
    assert found[1] == found[3] and found[0] != found[2]
