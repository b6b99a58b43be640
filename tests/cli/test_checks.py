"""Settings that cannot be are told before data is read."""

import pytest

from trainer.checks import check
from trainer.config import load
from trainer.errors import UserError


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["data.history_length=60"],
            r"'transformer' reads the last 50 events; set retrieval.encoder.length=60 too",
        ),
        (["retrieval.encoder.heads=0"], r"retrieval.encoder.heads is 0; it must be at least 1"),
        (
            ["retrieval.encoder.lenght=9"],
            r"unknown setting retrieval.encoder.lenght; did you mean 'length'\?",
        ),
    ],
)
def test_an_encoder_is_checked_before_data_is_read(settings, told):
    with pytest.raises(UserError, match=told):
        check(load("sequence-transformer", None, settings))


def test_an_encoder_that_nothing_reads_is_not_checked():
    check(load("sequence-transformer", None, ["data.history_length=60", "retrieval.history=false"]))


def test_an_encoder_that_reads_more_than_histories_hold_is_fine():
    check(load("sequence-transformer", None, ["data.history_length=60", "retrieval.encoder.length=60"]))
    check(load("sequence-gru", None, ["data.history_length=200"]))
