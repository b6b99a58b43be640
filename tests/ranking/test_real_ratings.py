from pathlib import Path

import numpy as np
import pytest

from trainer.config import load
from trainer.data.prepare import load_dataset, prepare
from trainer.progress import Reporter
from trainer.ranking.train import predict, train_ranking


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1])
def test_ratings_of_movielens(seed: int, movielens_folder: Path, reporter: Reporter, tmp_path: Path) -> None:
    chosen = [f"data.source.path={movielens_folder}", f"data.split.seed={seed}", f"train.seed={seed}"]
    config = load("movielens-latest-small-ratings", None, chosen)
    prepared = prepare(load_dataset(config.data), config.data)
    model = train_ranking(config, prepared, tmp_path, reporter)
    test = prepared.rated_test
    error = float(np.sqrt(np.mean((predict(model, test)[:, 0] - test.rating) ** 2)))
    assert error < 0.82  # user + item bias: .88; measured: .807
