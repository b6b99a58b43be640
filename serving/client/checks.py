"""Arguments that could not work, refused by name before anything is sent."""

import math
from collections.abc import Sequence

from serving.client.errors import InvalidArgument

_MAX_K = 2**31 - 1
_DIALS = {
    "diversity": (0.0, 1.0),
    "popularity": (-1000.0, 1000.0),  # far beyond any use, and a score that it is in stays finite
}


def an_id(argument: str, value: str) -> str:
    """The id itself, if it is a string."""
    if not isinstance(value, str):
        raise InvalidArgument(argument, f"must be a string, got {value!r}")
    return value


def ids(argument: str, values: Sequence[str]) -> list[str]:
    """A list of ids; a single string is a slip, not a list of letters."""
    if isinstance(values, str):
        raise InvalidArgument(argument, f"must be a list of ids, got the single string {values!r}")
    return [an_id(argument, value) for value in values]


def id_lists(argument: str, rows: Sequence[Sequence[str]], count: int) -> list[list[str]]:
    """One list of ids for each of `count` users."""
    if len(rows) != count:
        raise InvalidArgument(
            argument, f"must hold one list per user, got {len(rows)} lists for {count} users"
        )
    return [ids(argument, row) for row in rows]


def a_count(argument: str, value: int) -> int:
    """A number of items that fits the wire's int32."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(argument, f"must be a whole number, got {value!r}")
    if not 1 <= value <= _MAX_K:
        raise InvalidArgument(argument, f"must be from 1 to {_MAX_K}, got {value}")
    return value


def at_least(argument: str, value: float, least: float) -> None:
    """Refuses a setting below `least`, infinity and NaN."""
    if not least <= value < math.inf:
        raise InvalidArgument(argument, f"must be a number of at least {least:g}, got {value}")


def a_dial(argument: str, value: float) -> float:
    """A number from where the dial begins to where it ends."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InvalidArgument(argument, f"must be a number, got {value!r}")
    least, most = _DIALS[argument]
    if not least <= value <= most:
        raise InvalidArgument(argument, f"must be from {least:g} to {most:g}, got {value}")
    return float(value)


def an_api_key(value: str | None) -> None:
    """Refuses a key that no header can carry, such as one with its file's newline, without showing it."""
    if value is not None and not (value.isascii() and value.isprintable() and value.strip() == value != ""):
        raise InvalidArgument("api_key", "must be printable ASCII without spaces around it")
