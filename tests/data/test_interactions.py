import numpy as np
import polars as pl
import pytest

from trainer.data.examples import Events, Lists
from trainer.data.interactions import Corpus, Interactions
from trainer.data.vocabulary import Vocabulary
from trainer.errors import UserError

COLUMNS = {
    "user_id": ["A", "B"],
    "item_id": ["a", "b"],
    "timestamp": [1, 2],
    "rating": [1.0, None],
    "weight": [1.0, 2.0],
}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", ["A", ""], "row 2 of the interactions has an empty user_id"),
        ("item_id", [None, "b"], "row 1 of the interactions has an empty item_id"),
        ("weight", [1.0, -1.0], "row 2 has weight -1.0"),
        ("weight", [float("nan"), 1.0], "row 1 has weight nan"),
        ("timestamp", [1, None], "row 2 has no timestamp"),
    ],
)
def test_interactions_check_themselves(column, values, message):
    with pytest.raises(UserError, match=message):
        Interactions(pl.DataFrame(COLUMNS | {column: values}, strict=False))


def test_a_corpus_has_each_id_once():
    with pytest.raises(UserError, match="'a' stands in two rows"):
        Corpus(pl.DataFrame({"item_id": ["a", "b", "a"]}), "item_id")


def test_a_vocabulary_puts_the_frequent_first_and_0_is_the_unknown():
    vocabulary = Vocabulary.fit(pl.Series(["b", "c", "a", "c", None]), catalogue=["z", "c", "d"])
    assert vocabulary.values == ("c", "a", "b", "d", "z")
    assert vocabulary.trained == 3
    assert len(vocabulary) == 6
    assert vocabulary.encode(pl.Series(["d", None, "never", "c"])).tolist() == [4, 0, 0, 1]
    assert vocabulary.decode(np.array([1, 0, 5])) == ["c", "", "z"]


def test_the_order_of_lists_outlives_their_matrix():
    lists = Lists(np.array([0, 3, 4]), np.array([3, 1, 3, 0], np.int32), np.arange(4))
    matrix = lists.matrix(5)
    assert matrix.toarray().tolist() == [[0, 1, 0, 2, 0], [0] * 5]
    assert lists.items.tolist() == [3, 1, 3, 0]


def test_lists_are_padded_right_and_keep_the_latest():
    lists = Lists(np.array([0, 3, 3, 4]), np.array([3, 1, 2, 5], np.int32), np.array([10, 20, 30, 40]))
    items, times = lists.padded(2)
    assert items.tolist() == [[1, 2], [0, 0], [5, 0]]
    assert times.tolist() == [[20, 30], [0, 0], [40, 0]]
    taken = lists.take(np.array([2, 0]))
    assert taken.offsets.tolist() == [0, 1, 4]
    assert taken.items.tolist() == [5, 3, 1, 2]


def test_events_by_user():
    floats = np.ones(3, np.float32)
    events = Events(
        np.array([1, 1, 3], np.int32), np.array([4, 5, 6], np.int32), np.arange(3), floats, floats
    )
    lists = events.by_user(5)
    assert lists.lengths.tolist() == [0, 2, 0, 1, 0]
    assert lists.items.tolist() == [4, 5, 6]
