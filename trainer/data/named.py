"""Roles told by the words of a column's name, where none goes by a usual one: `household_id`, `USER_UUID`, `Book-Rating`, `clicked`."""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from trainer.data.columns import as_text, readable
from trainer.data.interactions import FeatureKind
from trainer.data.kinds import kind_of
from trainer.data.table import usual_name

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
ID_WORDS = ("id", "uuid", "guid", "key", "code", "hash")
SIDES = {
    "user": (
        *(
            "user",
            "customer",
            "client",
            "member",
            "visitor",
            "household",
            "account",
            "buyer",
            "shopper",
            "person",
        ),
        *("player", "reader", "listener", "viewer", "subscriber", "reviewer", "guest", "student", "email"),
    ),
    "item": (
        *(
            "item",
            "product",
            "content",
            "article",
            "movie",
            "film",
            "book",
            "video",
            "track",
            "song",
            "artist",
            "game",
        ),
        *(
            "app",
            "recipe",
            "course",
            "listing",
            "offer",
            "post",
            "news",
            "document",
            "doc",
            "restaurant",
            "business",
        ),
        *("place", "hotel", "job", "show", "series", "podcast", "episode", "anime", "sku"),
    ),
}
RATINGS = ("rating", "score", "stars")
OF_MANY = ("avg", "average", "mean", "total", "count", "num")  # of all users together: no user's own rating
TITLES = ("title", "name", "item_name", "product_name", "headline")
OUTCOMES = (  # of a row that may be no interaction, but was shown: what came of it
    *(
        "click",
        "clicked",
        "is_click",
        "purchase",
        "purchased",
        "bought",
        "ordered",
        "converted",
        "conversion",
    ),
    *("watched", "played", "liked", "like", "label", "target", "is_positive"),
)


def words(name: str) -> tuple[str, ...]:
    """Returns the words of a name in lower case: `userId`, `USER-ID` and `user_id` are all `("user", "id")`."""
    return tuple(word.lower() for word in WORD.findall(name))


def is_id(name: str) -> bool:
    """Returns whether a name says that its values are ids, whose size means nothing."""
    return words(name)[-1:] in {(word,) for word in ID_WORDS}


def by_words(sample: pl.DataFrame, roles: Mapping[str, str]) -> dict[str, str]:
    """Returns columns for the roles user, item and rating that nothing has yet, each where just one column may be it."""
    free = [name for name in sample.columns if name not in roles.values()]
    found = {}
    for role in ("user", "item"):
        ids = [name for name in free if is_id(name) and words(name)[:-1] in {(word,) for word in SIDES[role]}]
        bare = [name for name in free if words(name) in {(word,) for word in SIDES[role]}]
        found[role] = ids or bare
    found["rating"] = [
        name
        for name in free
        if words(name)[-1:] in {(word,) for word in RATINGS}
        and not set(words(name)) & set(OF_MANY)
        and _numbers(sample[name])
    ]
    return {role: names[0] for role, names in found.items() if role not in roles and len(names) == 1}


def outcomes(sample: pl.DataFrame, taken: Mapping[str, str]) -> list[str]:
    """Returns the columns that are 1 where the user did what the row is of, and 0 where not: of a log of what was shown."""
    return [name for name in sample.columns if name not in taken.values() and _is_outcome(sample[name])]


def _is_outcome(column: pl.Series) -> bool:
    if words(column.name) not in {words(one) for one in OUTCOMES} or not readable(column.dtype, "rating"):
        return False
    values = as_text(column).drop_nulls().cast(pl.Float64, strict=False)
    return set(values.unique().to_list()) == {0.0, 1.0}


def title_of(names: Sequence[str]) -> str | None:
    """Returns the column that people read: a usual one, or a name or title of what items are (`movie_title`)."""
    named = (name for name in names if words(name)[-1:] in {("name",), ("title",)})
    of_items = (name for name in named if words(name)[:-1] in {(word,) for word in SIDES["item"]})
    return usual_name(names, TITLES) or next(of_items, None)


def kind_of_named(column: pl.Series) -> tuple[FeatureKind | None, str]:
    """Returns what `kind_of` does, but of numbers that are ids by their name a category, or none where they hardly repeat."""
    kind, separator = kind_of(column)
    if kind in ("number", "count") and is_id(column.name):
        known = column.drop_nulls()
        repeated = known.n_unique() <= len(known) / 2 or len(known) < 20
        kind = "category" if repeated else None
    return kind, separator


def _numbers(column: pl.Series) -> bool:
    known = (
        as_text(column).drop_nulls() if not isinstance(column.dtype, pl.List | pl.Array) else column.head(0)
    )
    return bool(len(known)) and not known.cast(pl.Float64, strict=False).null_count()
