"""Features that say something only together: networks that take each apart learn it, also after export."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from ranking_world import make_dataset, quick
from sklearn.metrics import roc_auc_score

from trainer.config import from_values
from trainer.data.examples import Prepared
from trainer.data.interactions import Feature, Interactions, Schema
from trainer.data.prepare import prepare
from trainer.progress import Reporter
from trainer.ranking.train import build_ranking, predict, train_ranking

TOGETHER = ("dot", "cross")


@pytest.fixture(scope="module")
def odd() -> Prepared:
    """A phone is liked in the afternoon, a desk in the morning; neither device nor half of the day says anything alone."""
    schema = Schema(context=(Feature(name="device", kind="category"), Feature(name="half", kind="category")))
    dataset = make_dataset(schema)
    late = pl.col("hour") >= 12
    frame = dataset.interactions.frame.with_columns(
        half=pl.when(late).then(pl.lit("late")).otherwise(pl.lit("early")),
        rating=pl.when((pl.col("device") == "phone") == late).then(5.0).otherwise(1.0).cast(pl.Float32),
    ).drop("hour")
    data = from_values({"data": {"split": {"method": "random"}}}).data
    return prepare(dataclasses.replace(dataset, interactions=Interactions(frame)), data)


@pytest.mark.parametrize(("network", "learned"), [("dot", True), ("mlp", False)])
def test_two_features_of_the_request_meet(
    network: str, learned: bool, odd: Prepared, reporter: Reporter, tmp_path: Path
) -> None:
    """Without dense layers: a linear head tells only what a product of the two holds."""
    quiet = {"dropout": 0, "id_dropout": 0, "prior": "none", "layers": [], "l2": 0.0}
    config = quick(network={"name": network}, epochs=15, batch_size=64, learning_rate=0.2, **quiet)
    model = train_ranking(config, odd, tmp_path, reporter)
    found = predict(model, odd.rated_test)[:, 0]
    assert (roc_auc_score(odd.rated_test.rating > 3, found) > 0.95) == learned


@pytest.mark.parametrize("network", TOGETHER)
def test_each_feature_is_a_part(network: str, world: Prepared, reporter: Reporter) -> None:
    ready = build_ranking(quick(network={"name": network}), world, reporter)
    batch = next(iter(ready.batches(0, 1)))
    found = ready.model.network._parts(batch, batch["prior"], None)
    named = ["user_features.city", *(f"item_features.{name}" for name in ("genres", "year", "title"))]
    assert set(found) == {"user", "item", "prior", *named, "context.device", "context.hour"}
    assert {part.shape[1] for name, part in found.items() if name != "prior"} == {4}
    sums = ready.model.network.item_features(batch["item"])
    np.testing.assert_allclose(tf.add_n([found[name] for name in named[1:]]), sums, rtol=1e-6)


@pytest.mark.parametrize("network", TOGETHER)
def test_features_apart_are_exported(
    network: str, world: Prepared, reporter: Reporter, tmp_path: Path
) -> None:
    config = quick(network={"name": network}, history={"name": "attention"})
    net = build_ranking(config, world, reporter).model.network
    user, item = (tf.constant(column[:9]) for column in (world.rated_test.user, world.rated_test.item))
    expected = net.serve(user, item).numpy()
    rows = [tf.TensorSpec([None], tf.int32, name=name) for name in ("user", "item")]
    serve = tf.function(net.serve).get_concrete_function(*rows)
    tf.saved_model.save(net, str(tmp_path / "saved"), signatures={"serve": serve})
    loaded = tf.saved_model.load(str(tmp_path / "saved")).signatures["serve"]
    np.testing.assert_allclose(next(iter(loaded(user=user, item=item).values())), expected, rtol=1e-5)
