"""A block's weights and queries by hand, and the graph's against NumPy's."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.blocks.block import Block, BlockLayer
from trainer.data.examples import Lists

HISTORY = np.array([[0, 0], [1, 0], [0, 1], [10, 100]], np.float32)
CANDIDATES = np.array([[0, 0], [3, 0], [0, 5], [1, 1]], np.float32)


def ragged(lists: Lists) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_splits(tf.constant(lists.items), tf.constant(lists.offsets))


def test_queries_sum_the_history_by_age(make_lists):
    block = Block("b", HISTORY, CANDIDATES, half_life=1.0, scale=2.0)
    found = block.queries(make_lists([[1, 2, 3], [], [2], [1, 1]]))
    wanted = [
        [2 * (0.25 + 10), 2 * (0.5 + 100)],  # ages 2, 1, 0
        [0, 0],
        [0, 2],
        [2 * 1.5, 0],  # the same item twice: ages 1 and 0
    ]
    np.testing.assert_allclose(found, wanted)
    np.testing.assert_allclose(found @ CANDIDATES.T, np.array(wanted) @ CANDIDATES.T)


def test_without_half_life_every_event_weighs_the_same(make_lists):
    found = Block("b", HISTORY, CANDIDATES).queries(make_lists([[3, 1, 2, 1]]))
    np.testing.assert_array_equal(found, [[12, 101]])


def test_an_unknown_item_of_a_history_counts_for_nothing(make_lists):
    table = HISTORY.copy()
    table[0] = 99  # even where the table would say something
    np.testing.assert_array_equal(Block("b", table, CANDIDATES).queries(make_lists([[0, 1]])), [[1, 0]])


def test_a_constant_block_asks_the_same_for_everybody(make_lists):
    prior = Block("prior", HISTORY[:, :1], CANDIDATES[:, :1], scale=0.5, constant=True)
    lists = make_lists([[1, 2], []])
    np.testing.assert_array_equal(prior.queries(lists), [[0.5], [0.5]])
    np.testing.assert_array_equal(BlockLayer(prior).queries(ragged(lists)), [[0.5], [0.5]])


@given(
    st.lists(st.lists(st.integers(1, 3), max_size=6), min_size=1, max_size=5),
    st.sampled_from([0.5, 3.0, float("inf")]),
)
@settings(max_examples=30, deadline=None)
def test_the_graph_gives_what_numpy_gives(rows, half_life):
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    items = np.array([item for row in rows for item in row], np.int32)
    lists = Lists(offsets, items, np.zeros(len(items), np.int64))
    block = Block("b", HISTORY, CANDIDATES, half_life=half_life, scale=0.7)
    found = BlockLayer(block).queries(ragged(lists))
    np.testing.assert_allclose(found, block.queries(lists), rtol=1e-5)


def test_candidates_are_the_rows_of_the_table():
    layer = BlockLayer(Block("b", HISTORY, CANDIDATES, scale=3.0))
    np.testing.assert_array_equal(layer.candidates(tf.constant([3, 1])), CANDIDATES[[3, 1]])


@pytest.mark.parametrize("constant", [False, True])
def test_a_block_reloads_with_its_table(tmp_path, make_lists, constant):
    layer = BlockLayer(Block("b", HISTORY[:, :1], CANDIDATES[:, :1], half_life=2.0, constant=constant))
    module = tf.Module()
    module.layer = layer
    spec = tf.RaggedTensorSpec([None, None], tf.int32, row_splits_dtype=tf.int64)
    module.ask = tf.function(layer.queries, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    asked = ragged(make_lists([[1, 3], [], [2]]))
    reloaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_array_equal(reloaded.ask(asked), layer.queries(asked))
