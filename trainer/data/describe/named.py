"""Roles told by the words of a column's name, where none goes by a usual one: `household_id`, `USER_UUID`, `Book-Rating`, `clicked`."""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from trainer.data.interactions import FeatureKind
from trainer.data.reading.columns import convert, readable
from trainer.data.reading.kinds import kind_of
from trainer.data.reading.roles import usual_name
from trainer.data.reading.texts import as_text

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _set(words_of_it: str) -> frozenset[str]:
    return frozenset(words_of_it.split())


ID_WORDS = _set("id uuid guid key code hash number no nr ean gtin upc barcode phone index")
SIDES = {
    "user": _set(
        "user customer client member visitor household account buyer shopper person player reader listener viewer "
        "subscriber reviewer guest student email"
    ),
    "item": _set(
        "item product content article movie film book video track song artist game app recipe course listing offer post "
        "news document doc restaurant business place hotel job show series podcast episode anime sku poi venue attraction "
        "clip page repo question exercise dish ad property"
    ),
}
RATINGS = _set("rating score stars")
OF_MANY = _set("avg average mean total count num")  # of all users together: no user's own rating
TITLES = ("title", "name", "item_name", "product_name", "headline")
OUTCOMES = _set(  # of a row that may be no interaction, but was shown: what came of it
    "click clicked isclick purchase purchased bought ordered converted conversion watched played liked like label target "
    "ispositive"
)


REVIEWS = _set(  # what is said of an item afterwards, and of what was said
    "review reviews comment comments feedback remark remarks complaint summary helpful helpfulness vote votes"
)


def words(name: str) -> tuple[str, ...]:
    """Returns the words of a name in lower case: `userId`, `USER-ID` and `user_id` are all `("user", "id")`."""
    return tuple(word.lower() for word in WORD.findall(name))


def is_id(name: str) -> bool:
    """Returns whether a name says that its values are ids, whose size means nothing."""
    return bool(ID_WORDS.intersection(words(name)[-1:]))


def side_by_words(names: Sequence[str], side: str) -> str | None:
    """Returns the one column whose name says that it holds the ids of a side, `user` or `item`; None where it is not sure."""
    ids = [name for name in names if is_id(name) and "".join(words(name)[:-1]) in SIDES[side]]
    bare = [name for name in names if "".join(words(name)) in SIDES[side]]
    found = ids or bare
    return found[0] if len(found) == 1 else None


def by_words(sample: pl.DataFrame, roles: Mapping[str, str]) -> dict[str, str]:
    """Returns columns for the roles user, item and rating that nothing has yet, each where just one column may be it."""
    free = [name for name in sample.columns if name not in roles.values()]
    ratings = [name for name in free if _is_rating(sample[name])]
    found = {side: side_by_words(free, side) for side in SIDES}
    found["rating"] = ratings[0] if len(ratings) == 1 else None
    return {role: name for role, name in found.items() if name is not None and role not in roles}


def _is_rating(column: pl.Series) -> bool:
    said = words(column.name)
    if (
        not RATINGS.intersection(said[-1:])
        or OF_MANY.intersection(said)
        or not readable(column.dtype, "rating")
    ):
        return False
    known = as_text(column).drop_nulls()
    return bool(len(known)) and not known.cast(pl.Float64, strict=False).null_count()


def outcomes(sample: pl.DataFrame, taken: Mapping[str, str]) -> list[str]:
    """Returns the columns, of a log of what was shown, that are 1 where the user acted on it and 0 where not."""
    return [name for name in sample.columns if name not in taken.values() and _is_outcome(sample[name])]


def _is_outcome(column: pl.Series) -> bool:
    if "".join(words(column.name)) not in OUTCOMES or not readable(column.dtype, "rating"):
        return False
    said = convert(column, "rating")
    return not said.bad.any() and set(said.values.drop_nulls().unique().to_list()) == {0.0, 1.0}


def whole_numbers(column: pl.Series) -> bool:
    """Returns whether all values are whole numbers, as numbers or as texts."""
    known = as_text(column).drop_nulls()
    return bool(known.str.contains(r"^\s*-?\d+\s*$").all())


def title_of(names: Sequence[str]) -> str | None:
    """Returns the column that people read: a usual one, or a name or title of what items are (`movie_title`)."""
    named = (name for name in names if words(name)[-1:] in (("name",), ("title",)))
    of_items = (name for name in named if "".join(words(name)[:-1]) in SIDES["item"])
    return usual_name(names, TITLES) or next(of_items, None)


def kind_of_named(column: pl.Series) -> tuple[FeatureKind | None, str]:
    """Returns what `kind_of` does, but numbers whose name says id are a category, or nothing where they hardly repeat."""
    kind, separator = kind_of(column)
    if is_id(column.name) and (kind in ("number", "count") or (kind == "time" and whole_numbers(column))):
        known = column.drop_nulls()
        repeated = known.n_unique() <= len(known) / 2 or len(known) < 20
        kind = "category" if repeated else None
    return kind, separator
