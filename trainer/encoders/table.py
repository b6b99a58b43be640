"""Id embeddings as they are: each id has a vector of its own, and nothing passes between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from trainer.registry import register


@register("embedding", "table")
class Table(tf.Module):
    """Plain tables. Other id embeddings have the same three methods, and put `instead` into the tables."""

    def __init__(self, users: Any, items: Any, pairs: Any) -> None:
        super().__init__()
        del users, items, pairs

    @contextmanager
    def step(self) -> Iterator[None]:
        """Surrounds the loss of a training step."""
        yield

    def refresh(self, pairs: Any = None) -> None:
        """Makes what inference reads from the weights as they are now, and from `pairs` of user and item rows where given."""
        del pairs
