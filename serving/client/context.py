"""The context of a request (device, place, time): which columns a model reads, and given values as those columns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from serving.client.calls import Column, Inputs, InputSpec, Outputs
from serving.client.errors import InvalidArgument

Context: TypeAlias = Mapping[str, object]
"""Column -> value of one request; None, and a column left out, say nothing. Several labels of one column are a list."""

_PLAIN, _WITH_WISHES = "recommend_in_context", "recommend_with_context"
_SIGNATURES = {
    "recommend": _PLAIN,
    "recommend_history": _WITH_WISHES,
    "recommend_with": _WITH_WISHES,
    "rank_with": "rank_with_context",
}
_REQUEST = {"user_id", "k", "exclude"}
_NO_WISHES = {"allow": (), "category": (), "diversity": 0.0, "popularity": 0.0}
_NOBODY = {"user_id": "", **_NO_WISHES}
_TAKEN = {*_REQUEST, "history", *_NO_WISHES}  # a context column of such a name has a prefix beside wishes


class ContextColumns:
    """The context columns that a model's signatures declare."""

    def __init__(self, metadata: Outputs) -> None:
        rows = zip(*(metadata[name] for name in InputSpec._fields), strict=True)
        inputs = [InputSpec(*row) for row in rows]
        self.specs = {one.name: one for one in inputs if one.signature == _PLAIN and one.name not in _REQUEST}

    def request(
        self, signature: str, inputs: Mapping[str, Column], contexts: Sequence[Context]
    ) -> tuple[str, Inputs, frozenset[str]]:
        """The signature that takes context in place of `signature`, its inputs with a context per row, and which are float64.

        Raises `InvalidArgument` for a column that the model does not have, and for a value of the wrong type.
        """
        self._check(contexts)
        chosen, columns = _SIGNATURES[signature], {**inputs}
        if signature == "recommend_history":
            columns |= {name: [nothing] * len(contexts) for name, nothing in _NOBODY.items()}
        doubles = set()
        for name, spec in self.specs.items():
            sent = f"context_{name}" if chosen != _PLAIN and name in _TAKEN else name
            columns[sent] = [_value(spec, context.get(name)) for context in contexts]
            doubles |= {sent} if spec.dtype == "DT_DOUBLE" else set()
        return chosen, columns, frozenset(doubles)

    def _check(self, contexts: Sequence[Context]) -> None:
        for name in {name for context in contexts for name in context}:
            if name not in self.specs:
                have = f"only {', '.join(sorted(self.specs))}" if self.specs else "no context columns"
                raise InvalidArgument("context", f"has {name!r}, and the model has {have}")


def each(context: Context | Sequence[Context] | None, count: int) -> list[Context] | None:
    """The context of each of `count` requests, from one for all or one each; None where there is none."""
    if context is None or isinstance(context, Mapping):
        return [context] * count if context else None
    if len(context) != count or not all(isinstance(one, Mapping) for one in context):
        raise InvalidArgument(
            "context", f"must be one mapping, or one per user of {count} users, got {len(context)} entries"
        )
    return list(context) if any(context) else None


def _value(spec: InputSpec, value: Any) -> str | float | Column:
    """A value as the model's type has it; what is missing is "" or NaN."""
    try:
        if spec.dtype == "DT_STRING":
            labels = [value or ""] if value is None or isinstance(value, str) else list(value)
            return "|".join(labels)
        if spec.width:
            numbers = [math.nan] * spec.width if value is None else [float(number) for number in value]
            if len(numbers) != spec.width:
                raise ValueError
            return numbers
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        wanted = (
            "a string" if spec.dtype == "DT_STRING" else f"{spec.width} numbers" if spec.width else "a number"
        )
        raise InvalidArgument("context", f"column {spec.name} must be {wanted}, got {value!r}") from None
