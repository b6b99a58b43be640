"""Clicks without ratings have a light stage too: a table of likes and watch times, from the file to the weights."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from trainer.config import Config, from_values
from trainer.data.examples import Prepared
from trainer.data.prepare import load_dataset, prepare
from trainer.export.cascade_choice import Retrieved, choose
from trainer.progress import Reporter
from trainer.ranking.cascade import Cascade, Request, Weights
from trainer.ranking.train import build_ranking
from trainer.retrieval.train import build_retrieval

USERS, ITEMS, GOOD, EVENTS = 80, 60, 15, 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The first `GOOD` items are met four times as often as the others, liked by nine in ten and watched for long."""
    rng = np.random.default_rng(5)
    chance = np.where(np.arange(ITEMS) < GOOD, 4.0, 1.0)
    item = np.array([rng.choice(ITEMS, EVENTS, replace=False, p=chance / chance.sum()) for _ in range(USERS)])
    good = item.ravel() < GOOD
    liked = rng.random(item.size) < np.where(good, 0.9, 0.1)
    table = pl.DataFrame(
        {
            "user": np.repeat([f"u{number}" for number in range(USERS)], EVENTS),
            "item": [f"i{number:02}" for number in item.ravel()],
            "timestamp": 1_600_000_000 + 60 * np.arange(item.size),
            "liked": liked.astype(int),
            "watch_time": pl.Series(np.where(good, 300.0, 30.0) + rng.exponential(20, item.size)),
        }
    )
    table = table.with_columns(watch_time=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("watch_time")))
    path = tmp_path_factory.mktemp("table") / "events.csv"
    table.write_csv(path)
    source = {
        "name": "table",
        "path": str(path),
        "context": {"liked": "number", "watch_time": "number"},
    }
    targets = [
        {"name": "liked", "kind": "binary", "column": "liked"},
        {"name": "watch", "column": "watch_time", "score_weight": 0.001},
    ]
    return from_values(
        {
            "data": {"source": source},
            "retrieval": {"embedding_dimension": 4, "factorisation": "none", "user_id": False},
            "ranking": {"targets": targets, "prior_rank": 2, "layers": [4], "embedding_dimension": 4},
            "export": {"cascade": {"deep_weight": 0}},
        }
    )


@pytest.fixture(scope="module")
def prepared(config: Config) -> Prepared:
    return prepare(load_dataset(config.data), config.data)


@pytest.fixture(scope="module")
def cascade(config: Config, prepared: Prepared) -> Cascade:
    return Cascade(build_ranking(config, prepared, Reporter()).model.network, config.export.cascade)


def is_good(prepared: Prepared, rows: np.ndarray) -> np.ndarray:
    return np.array([name != "" and int(name[1:]) < GOOD for name in prepared.items.decode(rows)])


def test_the_light_stage_of_clicks_orders_by_what_is_liked(prepared: Prepared, cascade: Cascade) -> None:
    assert cascade.has_light
    rows = np.arange(len(prepared.items) - 1, 0, -1, dtype=np.int32)[None]  # the rarest first
    request = Request(tf.constant([1]), tf.RaggedTensor.from_row_lengths(tf.constant([], tf.int32), [0]), {})
    plain = tf.constant(rows), tf.zeros(rows.shape)
    cascade.weights = Weights(light=1.0)
    ordered = cascade.order(request, plain)[0].numpy()[0]
    assert not is_good(prepared, rows[0, :GOOD]).any()
    assert is_good(prepared, ordered[:GOOD]).mean() > 0.9


def test_validation_chooses_the_weight_of_the_light_stage(
    config: Config, prepared: Prepared, cascade: Cascade, tmp_path: Path
) -> None:
    """Retrieval is untrained here: what is liked tells more of what comes next."""
    retriever = build_retrieval(config, prepared).model.retriever
    chosen = choose(retriever, cascade, config, prepared, tmp_path)
    assert chosen.light > 0 and chosen.deep == 0
    found = Retrieved.of(retriever, prepared, prepared.test, ITEMS)
    better = found.reordered(found.scores(cascade.light, ITEMS), chosen.light)
    assert np.nanmean(better.ndcg()) > 1.3 * np.nanmean(found.ndcg())
