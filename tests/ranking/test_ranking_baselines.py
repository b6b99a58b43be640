"""Baselines beside a ranking model of whatever target: what they learn, how they are measured, what is compared."""

from pathlib import Path

import numpy as np
import pytest
from ranking_world import quick

from trainer import compare
from trainer.baselines.rating_bias import Biases, GlobalMean
from trainer.compare_figures import figures_of
from trainer.config import with_settings
from trainer.data.examples import Prepared
from trainer.errors import UserError
from trainer.measurement import Reports, Run, beside_ranking, measure
from trainer.memory import Cost
from trainer.progress import Reporter
from trainer.ranking.targets import as_ratings, labels
from trainer.ranking.train import build_ranking
from trainer.settings import EvaluateSettings, Target

LIKED = {"name": "liked", "kind": "binary", "threshold": 4.0}
HOUR = {"name": "hour", "column": "hour"}
PLAIN = EvaluateSettings(bootstrap=0)
NAMES = ("global_mean", "user_item_bias", "bias_mf")


def measured(world: Prepared, reporter: Reporter, **target: object) -> tuple[Run, Reports]:
    """Returns an untrained model of one target beside the baselines."""
    config = with_settings(quick(targets=[target]), {"evaluate.bootstrap": 0, "retrieval.enabled": False})
    model = build_ranking(config, world, reporter).model
    run = Run(config, Path(), world, "", None, model, reporter, {"ranking": Cost()})
    return run, measure(run, (), NAMES)


def test_the_share_of_likes_by_hand(world: Prepared) -> None:
    liked = Target(**LIKED)
    labelled = as_ratings(world, liked)
    np.testing.assert_array_equal(labelled.rated_train.rating, world.rated_train.rating >= 4)
    share, actual = labelled.rated_train.rating.mean(), labels(liked, world.rated_test).mean()
    found = beside_ranking(GlobalMean().fit(labelled), liked, labelled, PLAIN).values
    by_hand = -actual * np.log(share) - (1 - actual) * np.log(1 - share)
    assert found["log_loss"] == pytest.approx(by_hand, rel=1e-5)
    assert found["auc"] == 0.5


@pytest.mark.parametrize("sum_of_biases", [7.0, -7.0])
def test_a_sum_of_biases_is_no_certainty(world: Prepared, sum_of_biases: float) -> None:
    liked = Target(**LIKED)
    labelled = as_ratings(world, liked)
    nothing = np.zeros(len(world.users)), np.zeros(len(world.items))
    found = beside_ranking(Biases(sum_of_biases, *nothing), liked, labelled, PLAIN).values
    share, actual = labelled.rated_train.rating.mean(), labels(liked, world.rated_test).mean()
    chance = 1 - 0.1 * (1 - share) if sum_of_biases > 0 else 0.1 * share
    by_hand = -actual * np.log(chance) - (1 - actual) * np.log(1 - chance)
    assert found["log_loss"] == pytest.approx(by_hand, rel=1e-5)


def test_a_model_of_likes_stands_beside_baselines(world: Prepared, reporter: Reporter) -> None:
    run, reports = measured(world, reporter, **LIKED)
    assert list(reports.ranking) == ["model", *NAMES]
    losses = {name: report.values["log_loss"] for name, report in reports.ranking.items()}
    assert losses["model"] < losses["user_item_bias"] < 0.95 * losses["global_mean"]
    compared = figures_of(run, reports)
    assert all(set(figures.samples) == {"log_loss", "auc"} for figures in compared.values())
    assert len(compared["model"].users["auc"]) == len(world.rated_test)


def test_a_model_of_hours_stands_beside_baselines(world: Prepared, reporter: Reporter) -> None:
    run, reports = measured(world, reporter, **HOUR)
    hours, mean = world.rated_test.context["hour"], world.rated_train.context["hour"].mean()
    by_hand = np.sqrt(np.mean((hours - mean) ** 2))
    assert reports.ranking["global_mean"].values["rmse"] == pytest.approx(by_hand, rel=0.01)
    assert set(figures_of(run, reports)["user_item_bias"].samples) == {"rmse"}


def test_presets_that_predict_different_things_are_not_compared() -> None:
    configs = {"one": quick(targets=[LIKED]), "other": quick(targets=[LIKED | {"threshold": 3.0}])}
    with pytest.raises(UserError, match="one and other predict different things"):
        compare._check(configs, 1)
    compare._check(configs | {"other": with_settings(configs["other"], {"ranking.enabled": False})}, 1)
