"""Id embeddings that pass over the graph of users and items (LightGCN, He et al. 2020)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from trainer.encoders.sparse import product
from trainer.errors import UserError
from trainer.registry import register


@register("embedding", "lightgcn")
class LightGCN(tf.Module):
    """Both tables averaged with what `layers` rounds of messages between users and items make of them.

    A message is divided by the square roots of both degrees; a node without edges keeps its own vector, shortened. `when`: "training"
    passes them once a step, so that the vectors are trained through them; "inference" trains plain tables and passes messages only over
    the result, which costs nothing while training. What inference reads is cached by `refresh`, over the events that are `known` by then:
    later ones of trained users and items count without more training. `over` "trained" leaves them out, to compare with models that
    would have to be trained anew.
    """

    def __init__(
        self,
        users: Any,
        items: Any,
        pairs: Any,
        layers: int = 3,
        when: Literal["training", "inference"] = "training",
        over: Literal["known", "trained"] = "known",
    ) -> None:
        super().__init__()
        if layers < 1:
            raise UserError(f"retrieval.embedding.layers={layers}; messages pass at least once, or use table")
        self.tables, self.layers, self.when, self.over = (users, items), layers, when, over
        for table in self.tables:
            table.embedding.build(None)
        self.graph = self._graph(pairs)
        self.made = [tf.Variable(table.embedding.embeddings, trainable=False) for table in self.tables]
        self.refresh()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Surrounds the loss of a training step: the towers read vectors that messages have passed through."""
        self._show(self._passed(self.graph) if self.when == "training" else [None, None])
        try:
            yield
        finally:
            self._show(self.made)

    def refresh(self, pairs: Any = None) -> None:
        """Makes what inference reads from the weights as they are now, over user and item rows `pairs` where given, else the trained."""
        graph = self.graph if pairs is None or self.over == "trained" else self._graph(pairs)
        for variable, table in zip(self.made, self._passed(graph), strict=True):
            variable.assign(table)
        self._show(self.made)

    def _graph(self, pairs: Any) -> tf.SparseTensor:
        """Returns the edges `[users, items]` between trained rows, each over the roots of both degrees."""
        sizes = np.array([table.trained + 1 for table in self.tables])
        edges = np.unique(np.stack(pairs, axis=1).astype(np.int64), axis=0)
        edges = edges[((edges > 0) & (edges < sizes)).all(axis=1)]
        degrees = [np.bincount(edges[:, side], minlength=sizes[side]) for side in (0, 1)]
        weights = 1 / np.sqrt(degrees[0][edges[:, 0]] * degrees[1][edges[:, 1]])
        return tf.SparseTensor(edges, weights.astype(np.float32), sizes)

    def _passed(self, graph: tf.SparseTensor) -> list[tf.Tensor]:
        """Returns both tables `[rows, dimension]` after all rounds, the average of every round and the start."""
        now = [table.limited(tf.convert_to_tensor(table.embedding.embeddings)) for table in self.tables]
        total = now
        for _ in range(self.layers):
            now = [product(graph, now[1]), product(graph, now[0], transposed=True)]
            total = [before + message for before, message in zip(total, now, strict=True)]
        return [table / (self.layers + 1) for table in total]

    def _show(self, tables: Any) -> None:
        for table, made in zip(self.tables, tables, strict=True):
            table.instead = made
