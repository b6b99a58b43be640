import io

import pytest
from ranking_world import make_world
from rich.console import Console

from trainer.data.examples import Prepared
from trainer.data.interactions import Feature, Schema
from trainer.progress import Reporter


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def world() -> Prepared:
    return make_world()


@pytest.fixture(scope="session")
def devices() -> Prepared:
    """The world described by the device of each event alone."""
    return make_world(schema=Schema(context=(Feature(name="device", kind="category"),)))
