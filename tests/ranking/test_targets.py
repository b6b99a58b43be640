"""Several targets: what each is measured by, what is an input and what is not, and settings that will not do."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from ranking_world import make_dataset, quick, with_events

from trainer import checks
from trainer.config import Config, from_values, load, with_settings
from trainer.data.examples import Events, Prepared
from trainer.data.interactions import Interactions
from trainer.data.prepare import prepare
from trainer.errors import UserError
from trainer.export.serving_model import ServingModel
from trainer.index.brute_force import BruteForce
from trainer.measurement import objectives
from trainer.progress import Reporter
from trainer.ranking.cascade import Cascade, Weights
from trainer.ranking.train import (
    RankingFit,
    build_ranking,
    evaluate_targets,
    predict,
    train_ranking,
    validator,
)
from trainer.retrieval.retriever import Retriever
from trainer.retrieval.train import build_retrieval
from trainer.settings import CascadeSettings, EvaluateSettings, ExportSettings

RATING = {"name": "rating"}
LIKED = {"name": "liked", "kind": "binary", "threshold": 4.0}
HOUR = {"name": "hour", "column": "hour", "weight": 0.01}


def test_each_target_has_its_metric(world: Prepared, reporter: Reporter, tmp_path: Path) -> None:
    model = train_ranking(quick(targets=[RATING, LIKED, HOUR], epochs=2), world, tmp_path, reporter)
    epochs = json.loads((tmp_path / "ranking" / "checkpoint" / "epochs.json").read_text())
    validation = world.rated_validation
    error = np.sqrt(np.mean((validation.rating - 3.5) ** 2))
    for entry in epochs:
        assert {"val_rmse_rating", "val_rmse_hour", "val_auc_liked", "val_log_loss_liked"} <= set(entry)
        assert 0 < entry["val_rmse_rating"] < error
        assert 0.5 < entry["val_auc_liked"] < 1
    reports = evaluate_targets(model, world, EvaluateSettings(bootstrap=0))
    assert list(reports) == ["rating", "liked", "hour"]
    predicted = predict(model, world.rated_test)
    for column, name, actual in (
        (0, "rating", world.rated_test.rating),
        (2, "hour", world.rated_test.context["hour"]),
    ):
        wanted = np.sqrt(np.mean((predicted[:, column] - actual) ** 2))
        assert reports[name].values["rmse"] == pytest.approx(wanted, rel=1e-5)
    assert {"auc", "log_loss"} <= set(reports["liked"].values)
    assert "log_loss" not in reports["rating"].values


def test_the_first_target_orders_the_leaderboard() -> None:
    assert objectives(quick(targets=[RATING, LIKED]))["ranking"] == "rmse"
    assert objectives(quick(targets=[LIKED, RATING]))["ranking"] == "log_loss"


def test_a_target_that_no_event_carries_is_not_measured(world: Prepared, reporter: Reporter) -> None:
    ready = build_ranking(quick(targets=[LIKED, HOUR]), world, reporter)
    events = world.rated_validation
    assert set(validator(ready.model, events)()) == {"loss", "auc_liked", "log_loss_liked", "rmse_hour"}
    unrated = dataclasses.replace(events, rating=np.full(len(events), np.nan, np.float32))
    found = validator(ready.model, unrated)()
    assert set(found) == {"loss", "rmse_hour"}
    assert np.isfinite(found["loss"])
    assert set(validator(ready.model, events.take(np.zeros(0, np.int64)))()) == {"loss"}


def test_what_is_to_be_predicted_is_no_input(world: Prepared, reporter: Reporter) -> None:
    plain, asking = (
        build_ranking(quick(targets=targets), world, reporter).model.network
        for targets in ([RATING], [RATING, HOUR])
    )
    assert set(plain.context.towers) == {"device", "hour"}
    assert set(asking.context.towers) == {"device"}


@pytest.mark.slow
def test_what_is_to_be_predicted_is_no_input_of_a_query_either(world: Prepared) -> None:
    """Nor of a signature: a request cannot bring what only its event will tell."""

    def retriever(*targets: dict[str, object]) -> Retriever:
        return build_retrieval(quick(targets=list(targets)), world).model.retriever

    assert set(retriever(RATING).query_tower.context.towers) == {"device", "hour"}
    assert retriever(HOUR, HOUR | {"name": "device", "column": "device"}).query_tower.context is None
    asking, cascade = retriever(RATING, HOUR), Cascade(None, CascadeSettings())
    assert set(asking.encode_context(world.test.context)) == {"device"}
    histories = world.before_test.by_user(len(world.users))
    serving = ServingModel(asking, world, histories, BruteForce(), cascade, ExportSettings())
    assert set(serving.signatures["recommend_in_context"].structured_input_signature[1]) == {"device"}


@pytest.mark.slow
def test_a_context_that_the_ranking_model_alone_reads_can_be_sent(
    world: Prepared, reporter: Reporter
) -> None:
    config = with_settings(quick(), {"retrieval.features": False})
    retriever = build_retrieval(config, world).model.retriever
    network = build_ranking(config, world, reporter).model.network
    assert retriever.query_tower.context is None
    network.serve(
        tf.constant([1]), tf.constant([1])
    )  # makes the weights; untrained, every score is the prior's
    for number, weight in enumerate(network.trainable_variables):
        weight.assign(tf.random.stateless_normal(weight.shape, [number, 1]))
    histories = world.before_test.by_user(len(world.users))
    cascade = Cascade(network, CascadeSettings(), Weights(deep=1.0))
    serving = ServingModel(retriever, world, histories, BruteForce(), cascade, ExportSettings())
    user, item = world.users.values[0], list(world.items.values[:5])
    asked = {"user_id": [user], "history": [[""]], "item_id": [item], "hour": [12.0]}

    def scores(device: str) -> np.ndarray:
        rank = serving.signatures["rank_with_context"]
        positional, named = rank.structured_input_signature
        specs = {spec.name: spec for spec in (*positional, *named.values())}
        given = {
            name: tf.constant(value, specs[name].dtype)
            for name, value in (asked | {"device": [device]}).items()
        }
        return rank(**given)["score"].numpy()

    assert np.abs(scores("phone") - scores("desk")).max() > 1e-3
    assert set(serving.signatures["recommend_in_context"].structured_input_signature[1]) >= {"device", "hour"}


def test_the_loss_is_the_weighted_sum(world: Prepared, reporter: Reporter) -> None:
    quiet = {"dropout": 0.0, "id_dropout": 0.0, "l2": 0.0, "prior": "none"}

    def loss(*targets: dict[str, object]) -> float:
        ready = build_ranking(quick(targets=list(targets), **quiet), world, reporter)
        return float(ready.model.compute_loss(next(iter(ready.batches(0, 1)))))

    both = loss(RATING | {"weight": 3.0}, LIKED | {"weight": 0.5})
    assert both == pytest.approx(3 * loss(RATING) + 0.5 * loss(LIKED), rel=1e-5)


def test_a_loss_is_of_labelled_events_and_in_the_targets_spread(world: Prepared, reporter: Reporter) -> None:
    """Two of eight events tell seconds, errors of 1 and 3 spreads that weigh 1 and 3; a half is the chance of a like."""
    seconds = np.where(np.arange(len(world.rated_train)) % 2, 500.0, 100.0).astype(np.float32)  # spread 200
    told = with_events(world, context={**world.rated_train.context, "hour": seconds})
    model = build_ranking(quick(targets=[HOUR | {"weight": 2.0}, LIKED], prior="none"), told, reporter).model
    spread = model.network.starts[0].scale
    assert spread == pytest.approx(200, abs=1)
    nothing = np.nan
    inputs = {
        "weight": tf.constant([1.0, 3, 9, 9, 9, 9, 9, 9]),
        "label_hour": tf.constant([300 + spread, 300 - 3 * spread, *[nothing] * 6], tf.float32),
        "label_liked": tf.constant([nothing, 1, 1, 0, 0, 0, nothing, nothing], tf.float32),
    }
    outputs = tf.constant([[300.0, 0.0]] * 8)
    sums = model.sums(inputs, outputs)
    np.testing.assert_allclose(sums, [[1 * 1 + 3 * 9, 4], [39 * np.log(2), 39]], rtol=1e-5)
    assert float(model.mixed([sums])) == pytest.approx(2 * 28 / 4 + np.log(2), rel=1e-5)
    unlabelled = {name: column[6:] for name, column in inputs.items()}
    np.testing.assert_array_equal(model.sums(unlabelled, outputs[6:]), np.zeros((2, 2)))
    assert float(model.mixed([model.sums(unlabelled, outputs[6:])])) == 0
    halves = [
        model.sums({k: v[part] for k, v in inputs.items()}, outputs[:4]) for part in (slice(4), slice(4, 8))
    ]
    assert float(model.mixed(halves)) == pytest.approx(float(model.mixed([sums])))


def test_the_unit_of_a_target_does_not_matter_to_the_loss(world: Prepared, reporter: Reporter) -> None:
    def losses(unit: float) -> tuple[float, float]:
        told = dataclasses.replace(
            world,
            **{
                part: dataclasses.replace(
                    events, context={**events.context, "hour": events.context["hour"] * unit}
                )
                for part, events in (
                    ("rated_train", world.rated_train),
                    ("rated_validation", world.rated_validation),
                )
            },
        )
        ready = build_ranking(quick(targets=[LIKED, HOUR], id_dropout=0, dropout=0), told, reporter)
        training = float(ready.model.compute_loss(next(iter(ready.batches(0, 1)))))
        return training, validator(ready.model, told.rated_validation)()["loss"]

    assert losses(3600.0) == pytest.approx(losses(1.0), rel=1e-4)


def test_validation_weighs_labels_and_not_events(world: Prepared, reporter: Reporter) -> None:
    """Twenty unlabelled events more, and the loss is as before; of none that is labelled it is not a number."""
    ready = build_ranking(quick(targets=[RATING]), world, reporter)
    events = world.rated_validation
    half = np.where(np.arange(len(events)) % 2, events.rating, np.nan).astype(np.float32)
    some = dataclasses.replace(events, rating=half)
    found = validator(ready.model, some)()
    assert found["loss"] == pytest.approx(validator(ready.model, some.take(np.isfinite(half)))()["loss"])
    scale = ready.model.network.starts[0].scale
    raw = ready.model.network({"user": some.user, "item": some.item} | encoded_context(ready, some))[
        :, 0
    ].numpy()
    assert found["loss"] == pytest.approx(np.nanmean((raw - half) ** 2) / scale**2, rel=1e-4)
    unrated = dataclasses.replace(events, rating=np.full(len(events), np.nan, np.float32))
    assert np.isnan(validator(ready.model, unrated)()["loss"])


def encoded_context(ready: RankingFit, events: Events) -> dict[str, tf.Tensor]:
    return ready.model.network.encode_context({name: tf.constant(c) for name, c in events.context.items()})


def test_a_dislike_weighs_much_and_is_no_like(reporter: Reporter, tmp_path: Path) -> None:
    """Every fourth item is reported by all who meet it, and reports weigh as much as purchases."""
    dataset = make_dataset()
    bad = pl.col("item_id").str.slice(1).cast(pl.Int32) % 4 == 0
    frame = dataset.interactions.frame.with_columns(
        behaviour=pl.when(bad).then(pl.lit("report")).otherwise(pl.lit("like"))
    )
    behaviours = {"like": 3.0, "report": -5.0}
    data = from_values({"data": {"split": {"method": "random"}, "behaviours": behaviours}}).data
    prepared = prepare(dataclasses.replace(dataset, interactions=Interactions(frame)), data)
    target = {"name": "dear", "column": "weight", "kind": "binary", "threshold": 3.0}
    ready = build_ranking(quick(targets=[target]), prepared, reporter)
    assert set(np.unique(ready.columns["weight"])) == {3.0, 5.0}
    model = train_ranking(
        quick(targets=[target], epochs=10, batch_size=64, learning_rate=0.3), prepared, tmp_path, reporter
    )
    events = prepared.rated_test
    scores = model.network.serve(tf.constant(events.user), tf.constant(events.item)).numpy()
    assert scores[events.weight < 0].mean() + 0.2 < scores[events.weight > 0].mean()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"network": {"name": "mpl"}}, "unknown ranking_network 'mpl'; did you mean 'mlp'"),
        ({"network": {"name": "cross", "depth": 2}}, r"unknown setting ranking\.network\.depth"),
        ({"network": {"name": "cross", "crosses": 0}}, r"ranking\.network\.crosses=0: .*greater than 0"),
        ({"network": {"name": "cross", "projection": 0}}, r"ranking\.network\.projection=0"),
        ({"network": {"name": "cross", "structure": "deep"}}, r"ranking\.network\.structure='deep'"),
        ({"history": {"name": "din"}}, "unknown ranking_history 'din'"),
        ({"history": {"name": "attention", "interests": 0}}, r"ranking\.history\.interests=0"),
        ({"history": {"name": "attention", "units": [0]}}, r"ranking\.history\.units\.0=0"),
        ({"history": {"name": "none", "interests": 2}}, r"unknown setting ranking\.history\.interests"),
        (
            {"heads": {"name": "experts"}},
            "unknown ranking_heads 'experts'; did you mean 'mixture_of_experts'",
        ),
        ({"heads": {"name": "mixture_of_experts", "experts": -1}}, r"ranking\.heads\.experts=-1"),
        ({"heads": {"name": "shared_bottom", "targets": 3}}, r"unknown setting ranking\.heads\.targets"),
    ],
)
def test_parts_and_settings_that_do_not_exist(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        checks.check(from_values({"ranking": settings}))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"targets": []}, r"ranking\.targets.*at least 1"),
        ({"targets": [RATING, RATING]}, "two targets are named 'rating'; give each"),
        ({"targets": [RATING | {"score_weight": 0.0}]}, "score_weight is 0 in all of"),
        ({"targets": [RATING | {"score_weight": float("nan")}]}, r"score_weight=nan"),
        ({"targets": [RATING | {"weight": 0}]}, r"ranking\.targets\.0\.weight=0"),
        ({"targets": [RATING | {"kind": "binry"}]}, r"ranking\.targets\.0\.kind='binry'"),
        ({"layers": [64, 0]}, r"ranking\.layers\.1=0"),
    ],
)
def test_settings_that_will_not_do(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        from_values({"ranking": settings})


def test_settings_of_parts_from_the_command_line() -> None:
    chosen = ["ranking.network.name=cross", "ranking.network.crosses=3", "ranking.history.name=attention"]
    config = load(None, None, [*chosen, "ranking.heads.tower=[8]"])
    assert config.ranking.network.settings == {"crosses": 3}
    assert config.ranking.heads.name == "shared_bottom"
    checks.check(config)
    assert with_settings(config, {}) == config
    assert isinstance(config, Config)
