"""One experiment's settings: a preset, then a file, then the command line, each over the last; a TOML preset holds only the differences."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError, model_validator

from trainer.errors import UserError
from trainer.registry import did_you_mean, explained
from trainer.settings import (
    DataSettings,
    EvaluateSettings,
    ExportSettings,
    Part,
    RankingSettings,
    RetrievalSettings,
    Settings,
    TrainSettings,
    TuneSettings,
)

PRESETS = Path(__file__).parent / "presets"


class Config(Settings):
    """One experiment."""

    name: str = "experiment"
    data: DataSettings = DataSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    ranking: RankingSettings = RankingSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    export: ExportSettings = ExportSettings()
    tune: TuneSettings = TuneSettings()

    @model_validator(mode="after")
    def _something_to_train(self) -> "Config":
        if not (self.retrieval.enabled or self.ranking.enabled):
            raise ValueError("retrieval.enabled and ranking.enabled are both false: nothing would be trained")
        return self


def preset_names() -> tuple[str, ...]:
    """Returns the names of the presets that come with the project, sorted."""
    return tuple(
        sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.toml"))
    )


def load(preset: str | None, file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Returns the settings of a preset, then a TOML file's, then `a.b=value` overrides, each over the last.

    Raises `UserError` naming the preset or setting and its nearest valid neighbour.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise UserError(f"unknown preset {preset!r}{did_you_mean(preset, preset_names())}")
        values = _read(PRESETS / f"{preset}.toml")
        values.setdefault("name", preset)
    if file is not None:
        values = _merge(values, _read(file))
    given: dict[str, Any] = {}
    for override in overrides:  # among themselves in any order: a part's settings may stand before its name
        parsed = _parse(override)
        values, given = _emptied(values, parsed), _merge(_emptied(given, parsed), parsed, afresh=False)
    return from_values(_merge(values, given))


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Returns the settings with some of them, by dotted name, set to other values."""
    values: dict[str, Any] = _plain(config)
    given: dict[str, Any] = {}
    for name, value in settings.items():  # among themselves in any order, as in `load`
        nested = _nest(name, value)
        values, given = _emptied(values, nested), _merge(given, nested, afresh=False)
    return from_values(_merge(values, given))


def from_values(values: Mapping[str, Any]) -> Config:
    """Returns the typed settings, or raises `UserError` about the first wrong one."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(explained(error, "", Config)) from None


def to_toml(config: Config) -> str:
    """Returns the resolved settings as TOML that `load` reads back to an equal `Config`."""
    return tomli_w.dumps(_plain(config))


def _plain(value: Any) -> Any:
    """Returns settings as TOML holds them; pydantic's own JSON would lose an infinite half-life."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(exclude_none=True))
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def value_of(text: str) -> Any:
    """Returns what stands behind `SETTING=`: a value as TOML has it, else the bare word or path itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no settings file at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None


def _parse(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{override!r} is not a setting; write it as data.source.path=FILE")
    return _nest(key.strip(), value_of(text))


def _nest(name: str, value: Any) -> dict[str, Any]:
    for step in reversed(name.split(".")):
        value = {step: value}
    return dict(value)


def apart(words: str) -> list[str]:
    """Returns the parts of a text between its commas; a comma inside brackets parts nothing."""
    parts, depth = [""], 0
    for letter in words:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _emptied(values: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values without what stands where an override says `{}`, which laid over it would change nothing."""
    ((key, inner),) = override.items()
    rest = dict(values)
    if inner == {}:
        rest.pop(key, None)
    elif isinstance(inner, Mapping) and len(inner) == 1 and isinstance(rest.get(key), Mapping):
        rest[key] = _emptied(rest[key], inner)
    return rest


def _merge(
    below: Mapping[str, Any], above: Mapping[str, Any], afresh: bool = True, kind: Any = Config
) -> dict[str, Any]:
    """Returns `above` laid over `below`, table by table; a part given another name starts `afresh`."""
    merged, fields = dict(below), getattr(kind, "model_fields", {})
    for key, value in above.items():
        inner, own = merged.get(key), fields[key].annotation if key in fields else None
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            renamed = afresh and own is Part and value.get("name", inner.get("name")) != inner.get("name")
            value = dict(value) if renamed else _merge(inner, value, afresh, own)
        merged[key] = value
    return merged
