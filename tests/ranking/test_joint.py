import json
from pathlib import Path

import numpy as np
import pytest
from ranking_world import quick

from trainer.config import with_settings
from trainer.data.examples import Prepared
from trainer.joint import train_joint
from trainer.progress import Reporter
from trainer.ranking.train import predict

JOINT = {"train.joint": True, "train.epochs": 2, "train.batch_size": 256, "train.objective": "ndcg@10"}


@pytest.mark.slow
def test_both_models_from_one_fit(devices: Prepared, reporter: Reporter, tmp_path: Path) -> None:
    config = with_settings(quick(), JOINT)
    retrieval, ranking = train_joint(config, devices, tmp_path, reporter)
    assert ranking.network.item_ids is retrieval.candidate_tower.ids
    assert ranking.network.user_ids is retrieval.query_tower.ids
    found = json.loads((tmp_path / "joint" / "checkpoint" / "epochs.json").read_text())
    assert len(found) == 3
    for entry in found:
        assert np.isfinite([entry["val_ndcg@10"], entry["val_ranking_loss"]]).all()
    assert all(np.isfinite(entry["regularization_loss"]) for entry in found[1:])
    assert int(retrieval.step) == int(ranking.step)
    assert predict(ranking, devices.rated_test).shape == (len(devices.rated_test), 1)
    again = train_joint(config, devices, tmp_path, reporter)  # finished: loads, trains no more
    np.testing.assert_array_equal(predict(again[1], devices.rated_test), predict(ranking, devices.rated_test))
