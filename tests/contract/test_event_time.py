"""The time of the event as context of the request: from the table to the answer."""

from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf

from trainer.config import from_values
from trainer.data.prepare import load_dataset, prepare
from trainer.export.serving_model import ServingModel
from trainer.index.brute_force import BruteForce
from trainer.progress import Reporter
from trainer.ranking.cascade import Cascade
from trainer.ranking.train import build_ranking
from trainer.retrieval.train import build_retrieval
from trainer.settings import CascadeSettings, ExportSettings

HOUR, BEGIN = 3600, 1_600_000_000


def test_a_request_brings_the_time_that_training_read(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "user": [f"u{number}" for number in range(8) for _ in range(6)],
            "item": [f"i{(3 * number + step) % 12}" for number in range(8) for step in range(6)],
            "rating": [1.0 + step % 5 for step in range(48)],
            "timestamp": [BEGIN + HOUR * step for step in range(48)],
        }
    )
    table.write_csv(tmp_path / "events.csv")
    source = {"name": "table", "path": str(tmp_path / "events.csv"), "context": {"timestamp": "time"}}
    config = from_values(
        {
            "data": {"source": source},
            "retrieval": {"embedding_dimension": 4},
            "ranking": {"embedding_dimension": 4, "prior": "none"},
        }
    )
    prepared = prepare(load_dataset(config.data), config.data)
    np.testing.assert_array_equal(prepared.rated_train.context["timestamp"], prepared.rated_train.timestamp)
    np.testing.assert_array_equal(prepared.test.context["timestamp"], prepared.test.timestamp)
    assert set(build_ranking(config, prepared, Reporter()).model.network.context.towers) == {"timestamp"}
    retriever = build_retrieval(config, prepared).model.retriever
    histories = prepared.before_test.by_user(len(prepared.users))
    cascade = Cascade(None, CascadeSettings())
    serving = ServingModel(retriever, prepared, histories, BruteForce(), cascade, ExportSettings())
    asked = serving.signatures["recommend_in_context"]
    assert asked.structured_input_signature[1]["timestamp"].dtype == tf.float64

    def scores(moment: float) -> np.ndarray:
        given = {"user_id": tf.constant(["u1"]), "k": tf.constant([5]), "exclude": tf.constant([[""]])}
        return asked(**given, timestamp=tf.constant([moment], tf.float64))["score"].numpy()

    morning, evening, unknown = scores(BEGIN), scores(BEGIN + 12 * HOUR), scores(np.nan)
    assert np.isfinite([morning, evening, unknown]).all()
    assert np.abs(morning - evening).max() > 1e-3 and np.abs(morning - unknown).max() > 1e-3
    np.testing.assert_allclose(scores(BEGIN), morning)
