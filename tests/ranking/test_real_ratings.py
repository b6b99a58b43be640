from pathlib import Path

import numpy as np
import pytest
from ranking_world import LATEST_SMALL

from trainer import registry
from trainer.config import load
from trainer.data.prepare import prepare
from trainer.progress import Reporter
from trainer.ranking.train import predict, train_ranking


@pytest.mark.slow
@pytest.mark.skipif(not LATEST_SMALL.exists(), reason=f"MovieLens latest-small is not in {LATEST_SMALL}")
@pytest.mark.parametrize("seed", [42, 1])
def test_ratings_of_movielens(seed: int, reporter: Reporter, tmp_path: Path) -> None:
    chosen = [f"data.source.path={LATEST_SMALL}", f"data.split.seed={seed}", f"train.seed={seed}"]
    config = load("movielens-latest-small-ratings", None, chosen)
    source = config.data.source
    dataset = registry.build("source", source.name, source.settings, "data.source").load()
    prepared = prepare(dataset, config.data)
    model = train_ranking(config, prepared, tmp_path, reporter)
    test = prepared.rated_test
    error = float(np.sqrt(np.mean((predict(model, test)[:, 0] - test.rating) ** 2)))
    assert error < 0.82  # user + item bias: .88; measured: .807
