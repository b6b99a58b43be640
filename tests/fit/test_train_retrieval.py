"""The fit of the real towers on the tiny world: it repeats, it resumes to the same weights, and it says what went wrong."""

import copy
import dataclasses
import json
from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import with_settings
from trainer.errors import UserError
from trainer.evaluation.retrieval import measure
from trainer.retrieval.inference import scorer
from trainer.retrieval.train import build_retrieval, train_retrieval


@pytest.fixture(scope="module")
def config(tiny_config):
    return with_settings(tiny_config, {"train.epochs": 3, "train.batch_size": 512})


@pytest.fixture
def stopped_at(quiet):
    """Makes a reporter that presses Ctrl-C when so many training steps are done."""

    def make(step):
        @contextmanager
        def stopping(name, total=None):
            def advance(done, note=""):
                if done >= step:  # several steps make a call
                    raise KeyboardInterrupt

            yield advance

        reporter = copy.copy(quiet)
        reporter.step = stopping
        return reporter

    return make


@pytest.mark.slow
def test_interrupted_in_the_middle_of_an_epoch_it_ends_as_an_unbroken_run(
    config, tiny_prepared, tmp_path, quiet, stopped_at
):
    """One comparison for two promises: the same seed gives the same model, and a resumed run is no other."""
    whole = train_retrieval(config, tiny_prepared, tmp_path / "whole", quiet)
    with pytest.raises(KeyboardInterrupt):
        train_retrieval(config, tiny_prepared, tmp_path / "broken", stopped_at(13))
    half = json.loads((tmp_path / "broken" / "retrieval" / "checkpoint" / "epochs.json").read_text())
    assert len(half) == 3  # before training, and two epochs of five steps
    resumed = train_retrieval(config, tiny_prepared, tmp_path / "broken", quiet)

    read = [
        json.loads((tmp_path / name / "retrieval/checkpoint/epochs.json").read_text())
        for name in ("whole", "broken")
    ]
    assert read[0] == read[1]
    assert len(read[0]) == 4
    for one, other in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)
    for metric in ("ndcg@10", "recall@20"):
        ours, theirs = (
            measure(scorer(model.retriever, tiny_prepared), tiny_prepared.test, tiny_prepared, metric)
            for model in (whole, resumed)
        )
        assert ours == theirs
    assert {path.name for path in (tmp_path / "whole" / "retrieval").iterdir()} == {
        "checkpoint",
        "epochs.csv",
        "tensorboard",
    }


def test_training_finds_more_than_an_untrained_model(config, tiny_prepared, tmp_path, quiet):
    train_retrieval(config, tiny_prepared, tmp_path, quiet)
    history = json.loads((tmp_path / "retrieval/checkpoint/epochs.json").read_text())
    losses = [entry["loss"] for entry in history[1:]]
    assert losses == sorted(losses, reverse=True)
    assert max(entry["val_ndcg@10"] for entry in history) > 1.5 * history[0]["val_ndcg@10"]


def test_a_weight_that_breaks_the_loss_is_found(config, tiny_prepared, tmp_path, quiet):
    weight = tiny_prepared.train.weight.copy()
    weight[100] = np.nan
    broken = dataclasses.replace(tiny_prepared, train=dataclasses.replace(tiny_prepared.train, weight=weight))
    with pytest.raises(
        UserError, match=r"loss became (inf|nan) at training step \d+ .*user 'u\d+' item 'i\d+'.* to nan"
    ):
        train_retrieval(config, broken, tmp_path, quiet)


def test_an_unknown_objective_is_one_clear_line(config, tiny_prepared, tmp_path, quiet):
    wrong = with_settings(config, {"train.objective": "ndgc@10"})
    with pytest.raises(UserError, match=r"'ndgc@10'.*ndcg@k") as found:
        train_retrieval(wrong, tiny_prepared, tmp_path, quiet)
    assert "\n" not in str(found.value)


def test_the_sampler_counts_the_events_that_are_trained(tiny_config, tiny_prepared):
    """Without an order repeats of a pair are not drawn, and an item does not weigh by them."""
    train = tiny_prepared.train
    again = train.take(np.sort(np.concatenate([np.arange(len(train)), np.full(5_000, 7)])))
    settings = with_settings(tiny_config, {"retrieval.negatives": {"name": "in_batch"}})

    def share(events):
        prepared = dataclasses.replace(tiny_prepared, train=events, ordered=False)
        model = build_retrieval(settings, prepared).model
        return model.sampler.probability(tf.constant(train.item[7:8]), 1).numpy()

    np.testing.assert_allclose(share(again), share(train))
