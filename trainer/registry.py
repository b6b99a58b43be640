"""Names to parts: whatever a setting chooses by name registers here, and is found by it.

A new part is one file in the package of its kind, or one function in the module of its kind (`_HOMES`), with a `@register` line.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from trainer.errors import UserError

# Where the parts of a kind live. A package is searched file by file, and only when a name is asked for.
_HOMES = {
    "source": "trainer.data",
    "encoder": "trainer.encoders",
    "embedding": "trainer.encoders",
    "fusion": "trainer.towers.fusion",
    "start": "trainer.towers.starts",
    "loss": "trainer.retrieval.losses",
    "negatives": "trainer.retrieval.negatives",
    "baseline": "trainer.baselines",
    "rating_baseline": "trainer.baselines",
    "index": "trainer.index",
    "ranking_network": "trainer.rankers",
    "ranking_history": "trainer.rankers",
    "ranking_heads": "trainer.rankers",
}
_PARTS: dict[str, dict[str, Callable[..., Any]]] = {kind: {} for kind in _HOMES}
_SEARCHED: set[str] = set()

_Made = TypeVar("_Made", bound=Callable[..., Any])


def register(kind: str, name: str) -> Callable[[_Made], _Made]:
    """Returns a decorator that files a class or function under `name`; its keyword arguments are its settings."""

    def decorate(part: _Made) -> _Made:
        present = _PARTS[kind].setdefault(name, part)
        if (present.__module__, present.__qualname__) != (part.__module__, part.__qualname__):
            raise ValueError(f"two parts of kind {kind!r} are named {name!r}: {present} and {part}")
        return part

    return decorate


def names(kind: str) -> tuple[str, ...]:
    """Returns the registered names of a kind, sorted."""
    _search(kind)
    return tuple(sorted(_PARTS[kind]))


def get(kind: str, name: str) -> Callable[..., Any]:
    """Returns the part filed under `name`; raises `UserError` with the nearest name otherwise."""
    _search(kind)
    if name not in _PARTS[kind]:
        raise UserError(f"unknown {kind} {name!r}{did_you_mean(name, names(kind))}")
    return _PARTS[kind][name]


def build(kind: str, name: str, settings: Mapping[str, Any], where: str = "", **given: Any) -> Any:
    """Returns the part `name` made with its checked `settings` and the arguments `given` by the program.

    `where` is the dotted place of the settings, named in errors.
    """
    part = get(kind, name)
    checked = check_settings(part, settings, where or kind, hidden=tuple(given))
    try:
        return part(**given, **checked)
    except ValidationError as error:
        raise UserError(explained(error, where or kind, part)) from None


def check_settings(
    part: Callable[..., Any], settings: Mapping[str, Any], where: str, hidden: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns `settings` converted to the types of the part's keyword arguments; raises `UserError` by name."""
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(part).parameters.items()
        if key not in {"self", *hidden} and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    made_by = part.__init__ if inspect.isclass(part) and not _is_model(part) else part
    hints = get_type_hints(made_by, include_extras=True)
    checked = {}
    for key, value in settings.items():
        if key not in parameters:
            hint = _elsewhere(part, key, where) or did_you_mean(key, parameters)
            raise UserError(f"unknown setting {where}.{key}{hint}")
        annotation = hints.get(key, parameters[key].annotation)
        checked[key] = _convert(annotation, value, f"{where}.{key}")
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in settings
    ]
    if missing:
        raise UserError(f"setting {where}.{missing[0]} is needed and has no default")
    return checked


def _elsewhere(part: Callable[..., Any], key: str, where: str) -> str:
    """Returns the tail of an error line: which parts of the same kind have a setting that `part` lacks; empty if none."""
    kinds = [(kind, name) for kind, parts in _PARTS.items() for name, one in parts.items() if one is part]
    for kind, own in kinds:
        others = [name for name in names(kind) if key in inspect.signature(get(kind, name)).parameters]
        if others:
            return f": {where}.name is {own!r}, and it belongs to {' and '.join(map(repr, others))}"
    return ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the tail of an error line: the nearest known word, else all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; nothing can be set here"


def _convert(annotation: Any, value: Any, where: str) -> Any:
    if annotation is inspect.Parameter.empty:
        return value
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise UserError(explained(error, where, annotation)) from None


def explained(error: ValidationError, where: str, kind: Any) -> str:
    """Returns a line about the first wrong setting: its place in `kind`, the settings at `where`, and the nearest name."""
    # a wrong name before what it leaves out
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    steps = [where] if where else []
    for step in first["loc"]:
        if (inner := _below(kind, step)) is not None:  # else it says which alternative of a type was tried
            steps.append(str(step))
            kind = inner
    if first["type"] == "extra_forbidden":
        name, known = str(first["loc"][-1]), [name for one in _alternatives(kind) for name in _settings(one)]
        return f"unknown setting {'.'.join([*steps, name])}{did_you_mean(name, known)}"
    if not steps:
        return first["msg"].removeprefix("Value error, ")
    return f"setting {'.'.join(steps)}={first['input']!r}: {first['msg']}"


def _below(kind: Any, step: str | int) -> Any:
    """Returns the type of what stands at one step of a place in a type, or None where it has no such step."""
    for one in _alternatives(kind):
        many = get_origin(one)
        if step in _settings(one):
            return _settings(one)[step].annotation
        if inspect.isclass(many) and issubclass(many, Mapping if isinstance(step, str) else Sequence):
            return get_args(one)[-1 if isinstance(step, str) else 0]
    return None


def _alternatives(kind: Any) -> list[Any]:
    """Returns the types that a union, or what is annotated, consists of."""
    if get_origin(kind) in (Union, UnionType):
        return [one for member in get_args(kind) for one in _alternatives(member)]
    return _alternatives(get_args(kind)[0]) if get_origin(kind) is Annotated else [kind]


def _settings(kind: Any) -> Mapping[Any, Any]:
    return getattr(kind, "model_fields", {})


def _is_model(part: Callable[..., Any]) -> bool:
    return hasattr(part, "model_fields")


def _search(kind: str) -> None:
    if kind in _SEARCHED:
        return
    home = importlib.import_module(_HOMES[kind])
    for found in pkgutil.walk_packages(getattr(home, "__path__", []), f"{_HOMES[kind]}."):
        importlib.import_module(found.name)
    _SEARCHED.add(kind)
