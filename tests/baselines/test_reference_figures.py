"""The published figures of MovieLens latest-small, reached with the settings that gave them."""

from pathlib import Path

import polars as pl
import pytest

from trainer import registry
from trainer.baselines.fitting import with_validation
from trainer.data.examples import Prepared
from trainer.data.interactions import Corpus, Dataset, Interactions, Schema
from trainer.data.prepare import prepare
from trainer.evaluation.ranking import evaluate_ranking
from trainer.evaluation.retrieval import accuracy
from trainer.settings import DataSettings, EvaluateSettings, SplitSettings

RATINGS = Path(__file__).parents[2] / "../shared/data/ml-latest-small/ratings.csv"
pytestmark = pytest.mark.skipif(
    not RATINGS.exists(), reason=f"MovieLens latest-small is not at {RATINGS.parent}"
)


def load(method: str) -> Prepared:
    frame = pl.read_csv(RATINGS).select(
        pl.col("userId").cast(pl.String).alias("user_id"),
        pl.col("movieId").cast(pl.String).alias("item_id"),
        pl.col("timestamp").cast(pl.Int64),
        pl.col("rating").cast(pl.Float32),
        pl.lit(1.0, pl.Float32).alias("weight"),
    )
    users, items = (
        Corpus(frame.select(pl.col(name).unique(maintain_order=True)), name)
        for name in ("user_id", "item_id")
    )
    dataset = Dataset("movielens", Interactions(frame), users, items, Schema())
    return with_validation(prepare(dataset, DataSettings(split=SplitSettings(method=method))))


@pytest.fixture(scope="module")
def last_out() -> Prepared:
    return load("leave_last_out")


@pytest.fixture(scope="module")
def at_random() -> Prepared:
    return load("random")


@pytest.mark.parametrize(
    ("name", "settings", "recall", "ndcg"),
    [
        ("popularity", {}, 0.0426, 0.0194),
        ("ease", {"regularisation": 100.0}, 0.0852, 0.0409),
        ("ease_decayed", {"regularisation": 100.0, "half_life": 5.0}, 0.1295, 0.0674),
    ],
)
def test_leave_last_out(last_out, name, settings, recall, ndcg):
    scorer = registry.build("baseline", name, settings).fit(last_out)
    found = accuracy(scorer, last_out.test, last_out, (10,))
    assert found["recall@10"] == pytest.approx(recall, abs=0.002)
    assert found["ndcg@10"] == pytest.approx(ndcg, abs=0.001)


@pytest.mark.parametrize(
    ("name", "settings", "recall", "ndcg"),
    [("popularity", {}, 0.1732, 0.1857), ("ease", {"regularisation": 300.0}, 0.3490, 0.3684)],
)
def test_random(at_random, name, settings, recall, ndcg):
    scorer = registry.build("baseline", name, settings).fit(at_random)
    found = accuracy(scorer, at_random.test, at_random, (10,))
    assert found["recall@10"] == pytest.approx(recall, abs=0.012)  # another seed's split
    assert found["ndcg@10"] == pytest.approx(ndcg, abs=0.012)


@pytest.mark.parametrize(
    ("name", "settings", "rmse"),
    [
        ("global_mean", {}, 1.0439),
        ("user_item_bias", {"regularisation": 2.0}, 0.8780),
        ("bias_mf", {"regularisation": 0.15, "iterations": 5}, 0.8606),
    ],
)
def test_ratings(at_random, name, settings, rmse):
    model = registry.build("rating_baseline", name, settings).fit(at_random)
    found = evaluate_ranking(model, at_random.rated_test, at_random, EvaluateSettings(bootstrap=0))
    assert found.values["rmse"] < rmse + 0.005
    assert found.values["rmse"] > rmse - 0.02
