import polars as pl
import pytest

from trainer.data.describe.named import by_words, is_id, kind_of_named, outcomes, title_of, words


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("userId", ("user", "id")),
        ("USER_UUID", ("user", "uuid")),
        ("Book-Rating", ("book", "rating")),
        ("householdKEY", ("household", "key")),
        ("category_0_id", ("category", "0", "id")),
        ("", ()),
    ],
)
def test_words(name, parts):
    assert words(name) == parts


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("household_id", "CONTENT_ID"), {"user": "household_id", "item": "CONTENT_ID"}),
        (("email", "Film"), {"user": "email", "item": "Film"}),
        (("player", "player_id", "game_name", "game_id"), {"user": "player_id", "item": "game_id"}),
        (("member_id", "buyer_id", "CONTENT_OWN_ID"), {}),  # which of the two?
        (("Book-Rating",), {"rating": "Book-Rating"}),
        (("avg_rating", "rating_count"), {}),  # of all users together
        (("taste_rating", "price_rating"), {}),
    ],
)
def test_roles_by_the_words_of_a_name(columns, found):
    assert by_words(pl.DataFrame({name: [1, 2, 5] for name in columns}), {}) == found


def test_a_role_that_is_there_is_not_taken_again():
    sample = pl.DataFrame({"user_id": [1], "member_id": [2], "item_rating": ["good"]})
    assert by_words(sample, {"user": "user_id", "item": "x"}) == {}


def test_outcomes_hold_both_0_and_1():
    sample = pl.DataFrame(
        {
            "click": [0, 1, 1],
            "is_click": [1, 1, 1],
            "purchased": ["1", "0", None],
            "like": [0, 1, 2],
            "device": [0, 1, 0],
        }
    )
    assert outcomes(sample, {}) == ["click", "purchased"]
    assert outcomes(sample, {"rating": "click"}) == ["purchased"]


def test_numbers_that_are_ids_have_no_size():
    assert is_id("brand_id") and is_id("brandId") and not is_id("paid")
    brands, once = [7, 8000, 7, 7] * 10, list(range(40))
    assert kind_of_named(pl.Series("brand_id", brands)) == ("category", "|")
    assert kind_of_named(pl.Series("order_id", once)) == (None, "|")
    assert kind_of_named(pl.Series("price", once)) == ("number", "|")


@pytest.mark.parametrize(
    ("columns", "title"),
    [
        (("brand_name", "movie_title"), "movie_title"),
        (("CONTENT_NAME",), "CONTENT_NAME"),
        (("title", "movie_title"), "title"),
        (("brand_name",), None),
    ],
)
def test_the_title_is_the_name_of_what_items_are(columns, title):
    assert title_of(columns) == title
