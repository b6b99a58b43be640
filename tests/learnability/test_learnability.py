"""That figures come from learning: with shuffled labels the model is at chance, with true ones far above popularity.

Shuffled, every event gets an item drawn blindly from all: who likes what, what follows what and what is popular are
gone, and nothing else, so that no model can do better than a random ranking.
"""

import dataclasses

import numpy as np
import pytest

from trainer import registry
from trainer.config import with_settings
from trainer.data.interactions import Interactions
from trainer.data.prepare import load_dataset, prepare
from trainer.evaluation.retrieval import measure
from trainer.retrieval import blending
from trainer.retrieval.inference import scorer
from trainer.retrieval.train import train_retrieval

K = 20
WORLD = {"data.source.interactions": 3_000, "data.source.users": 300, "data.source.items": 200}


@pytest.fixture(scope="module")
def config(tiny_config):
    settings = {"train.epochs": 6, "retrieval.embedding_dimension": 16, "retrieval.factorisation_rank": 32}
    return with_settings(tiny_config, WORLD | settings)


@pytest.fixture(scope="module", params=["true", "shuffled"])
def world(request, config, tmp_path_factory):
    """Which world, its data, and the trained towers' and the blended model's recall."""
    from rich.console import Console

    from trainer.progress import Reporter

    quiet = Reporter(Console(quiet=True))
    dataset = load_dataset(config.data)
    if request.param == "shuffled":
        frame = dataset.interactions.frame
        blind = np.random.default_rng(0).integers(0, dataset.items.frame.height, len(frame))
        shuffled = frame.with_columns(dataset.items.frame["item_id"].gather(blind))
        dataset = dataclasses.replace(dataset, interactions=Interactions(shuffled))
    prepared = prepare(dataset, config.data)
    workdir = tmp_path_factory.mktemp("run")
    model = train_retrieval(config, prepared, workdir, quiet)
    found = {"towers": recall(scorer(model.retriever, prepared), prepared)}
    blending.attach(model.retriever, config, prepared, workdir, quiet)
    found["blended"] = recall(scorer(model.retriever, prepared), prepared)
    popularity = registry.build("baseline", "popularity", {}).fit(prepared)
    found["popularity"] = recall(popularity, prepared)
    return request.param, prepared, found


def recall(model, prepared):
    return measure(model, prepared.test, prepared, f"recall@{K}")


def chance(prepared):
    """Returns the recall of a random ranking of the items that are not in the history, and its standard error."""
    open_to = len(prepared.items) - 1 - prepared.test.history.lengths
    hit = np.minimum(K / open_to, 1)
    return hit.mean(), np.sqrt((hit * (1 - hit)).sum()) / len(hit)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["towers", "blended"])
def test_shuffled_labels_leave_chance_and_true_ones_far_more(world, model):
    name, prepared, found = world
    expected, error = chance(prepared)
    if name == "shuffled":
        assert found[model] == pytest.approx(expected, abs=4 * error), found
    else:
        assert found[model] > expected + 8 * error, found
        assert found[model] > 1.3 * found["popularity"], found
