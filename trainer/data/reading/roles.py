"""Which column of a table has which role: told by the settings, else by the usual names, in any spelling."""

import re
from collections.abc import Sequence
from pathlib import Path

from trainer.data.reading.columns import Kind
from trainer.data.reading.layout import Layout
from trainer.errors import UserError
from trainer.registry import did_you_mean

# What the columns are usually called, in any spelling; the first that is there is taken where `columns` does not say.
USUAL: dict[str, tuple[str, ...]] = {
    "user": (
        *(
            "user_id",
            "user",
            "userid",
            "uid",
            "customer_id",
            "customer",
            "visitor_id",
            "visitorid",
            "client_id",
        ),
        *("reviewer_id", "user_pseudo_id", "anonymous_id", "session_id", "session", "sessionid"),
    ),
    "item": (
        *("item_id", "item", "itemid", "iid", "product_id", "productid", "product", "movieid", "movie_id"),
        *("article_id", "sku", "asin", "parent_asin", "track_id", "business_id", "book_id", "song_id"),
        *("stock_code", "isbn", "article", "track", "song", "movie"),
    ),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "date", "event_time", "event_timestamp", "created_at"),
        *("occurred_at", "t_dat", "unixreviewtime", "invoice_date", "purchase_date", "order_date"),
    ),
    "rating": ("rating", "score", "stars", "overall"),
    "weight": ("weight", "count", "quantity"),
}
KINDS: dict[str, Kind] = {
    "user": "id",
    "item": "id",
    "timestamp": "timestamp",
    "rating": "rating",
    "weight": "weight",
}
TARGETS = {"user": "user_id", "item": "item_id"}
Name = str | int


def usual_column(there: Sequence[str], role: str) -> str | None:
    """Returns the first column that goes by a usual name of a role."""
    return usual_name(there, USUAL[role])


def usual_name(there: Sequence[str], usual: Sequence[str]) -> str | None:
    """Returns the column that goes by the first possible of some names: `user_id` before `User ID` or `userId`."""
    lower = {name.strip().lower(): name for name in reversed(there)}
    plain = {_plain(name): name for name in reversed(there)}
    found = (lower.get(name) or plain.get(_plain(name)) for name in usual)
    return next((name for name in found if name is not None), None)


def _plain(name: str) -> str:
    """Returns a name without what differs between `user_id`, `User ID`, `user-id`, `userId` and RecBole's `user_id:token`."""
    return re.sub(r"[\s_-]|:(token|float)(_seq)?$", "", name).lower()


def find_column(
    path: Path, layout: Layout, there: Sequence[str], role: str, asked: Name | None, where: str = ""
) -> str | None:
    """Returns the name of a role's column; None where an optional one is not there."""
    where = where or f"data.source.columns.{role}"
    needed = role in TARGETS
    if asked == "" and not needed:
        return None
    if isinstance(asked, int):
        if not 1 <= asked <= len(there):
            raise UserError(f"{where}={asked}, but {path} has {len(there)} columns, counted from 1")
        return there[asked - 1]
    if asked:
        return present(path, there, asked, where)
    if not layout.has_header and needed:
        return there[list(TARGETS).index(role)] if len(there) > 1 else None
    found = usual_column(there, role)
    if found is None and needed:
        header = where.removesuffix(f".columns.{role}").removesuffix(".id")
        hint = (
            f"; is the first line no header? ({header}.has_header=false)" if layout.of(path) == "csv" else ""
        )
        raise UserError(
            f"{path} has no column that looks like the {role}; set {where} to one of: {', '.join(there)}{hint}. "
            f"python -m trainer describe {path} writes such settings"
        )
    return None if found is None else _once(path, there, found, where)


def present(path: Path, there: Sequence[str], name: str, where: str) -> str:
    """Returns the name of a column that is there; raises `UserError` with the nearest one and the setting `where` it stands."""
    if name in there:
        return _once(path, there, name, where)
    near = did_you_mean(name, there)
    listed = "" if near.startswith("; known") else f" (there are: {', '.join(there)})"
    raise UserError(f"{path} has no column {name!r} ({where}){near.replace('known', 'there are')}{listed}")


def _once(path: Path, there: Sequence[str], name: str, where: str) -> str:
    """Returns the name; raises `UserError` where two columns have it, of which polars renames the second."""
    places = [there.index(one) + 1 for one in (name, f"{name}_duplicated_0") if one in there]
    if len(places) > 1:
        raise UserError(
            f"{path} has two columns {name!r}, number {places[0]} and {places[1]} ({where}): rename one; that of a user, "
            "an item, a time, a rating or a weight may also be told by its number"
        )
    return name
