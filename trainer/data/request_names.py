"""What a context column may be called: it is an input of the signatures of a bundle, beside their own."""

import keyword
import re
from collections.abc import Sequence

CONTEXT = "context_"  # before the name of a context column that a wish of a request has already
ALONE = ("user_id", "k", "exclude")  # what a request with a context has besides
WISHED = (*ALONE, "history", "allow", "category", "diversity", "popularity")  # and one with wishes
FAULTLESS = re.compile(r"[A-Za-z0-9.]([A-Za-z0-9_.\\/>-]*[A-Za-z0-9_.\\>-])?")
WORDS = ("self", "function")  # parameters of what makes the signatures
RIGHT = f"letters, digits and _, and not the name of another input ({', '.join(WISHED)})"


def fits_request(name: str, others: Sequence[str]) -> bool:
    """Returns whether TensorFlow takes a column's name as that of an input, beside the columns `others`."""
    if not FAULTLESS.fullmatch(name) or name in WORDS or keyword.iskeyword(_spelt(name)):
        return False
    alone = {_spelt(other).lower() for other in (*ALONE, *others)}
    wished = {_spelt(other).lower() for other in (*WISHED, *map(beside_wishes, others))}
    return _spelt(name).lower() not in alone and _spelt(beside_wishes(name)).lower() not in wished


def beside_wishes(name: str) -> str:
    """Returns what a column is called where a request has wishes."""
    return f"{CONTEXT}{name}" if name in WISHED else name


def _spelt(name: str) -> str:
    """Returns a name as TensorFlow spells a parameter."""
    spelt = re.sub(r"[^A-Za-z0-9]", "_", name)
    return spelt if spelt[0].isalpha() else f"arg_{spelt}"
