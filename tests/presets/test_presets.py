"""Every preset there is loads, says what it is, and comes to a bundle on data of a few lines."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import registry
from trainer.__main__ import main
from trainer.config import PRESETS, Config, load, preset_names

PATHS = sorted(PRESETS.rglob("*.toml"))
NAMES = [path.relative_to(PRESETS).with_suffix("").as_posix() for path in PATHS]
USERS, EVENTS, ITEMS, START = 30, 12, 40, 1_600_000_000
# Two training steps of each model, in the smallest size.
SMALL = {
    "retrieval.embedding_dimension": 8,
    "retrieval.factorisation_rank": 8,
    "ranking.embedding_dimension": 4,
    "ranking.prior_rank": 2,
    "ranking.prior_sweeps": 2,
    "ranking.epochs": 1,
    "ranking.batch_size": USERS * EVENTS // 2,
    "train.epochs": 1,
    "train.batch_size": USERS * EVENTS // 2,
    "evaluate.bootstrap": 0,
}


def events() -> list[tuple[int, int, int, int]]:
    """Returns user, item, rating and second of all events; users go through the items in steps of their own."""
    return [
        (
            user + 1,
            (user + event * (1 + user % 3)) % ITEMS + 1,
            1 + (user * event) % 5,
            START + 100 * event + user,
        )
        for user in range(USERS)
        for event in range(EVENTS)
    ]


def table(folder: Path) -> Path:
    rows = [f"u{user},i{item},{rating},{second}" for user, item, rating, second in events()]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]) + "\n")
    return folder / "events.csv"


def movielens(folder: Path, version: str) -> Path:
    """Writes the files of a version as they are unpacked."""
    ratings = [(str(user), str(item), str(rating), str(second)) for user, item, rating, second in events()]
    genres = ["Action|Comedy", "Drama", "(no genres listed)"]
    if version == "100k":
        flags = "|".join(str(int(number in (1, 5))) for number in range(19))
        write(folder / "u.data", ["\t".join(row) for row in ratings])
        write(
            folder / "u.item", [f"{n}|Film {n} (1995)|01-Jan-1995||url|{flags}" for n in range(1, ITEMS + 1)]
        )
        write(folder / "u.user", [f"{n}|{20 + n}|{'MF'[n % 2]}|artist|9{n:04}" for n in range(1, USERS + 1)])
    elif version == "1m":
        write(folder / "ratings.dat", ["::".join(row) for row in ratings])
        write(folder / "movies.dat", [f"{n}::Film {n} (1995)::Drama|War" for n in range(1, ITEMS + 1)])
        write(
            folder / "users.dat", [f"{n}::{'MF'[n % 2]}::25::{n % 21}::9{n:04}" for n in range(1, USERS + 1)]
        )
    else:
        write(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *map(",".join, ratings)])
        films = [f"{n},Film {n} (19{50 + n}),{genres[n % 3]}" for n in range(1, ITEMS + 1)]
        write(folder / "movies.csv", ["movieId,title,genres", *films])
    return folder


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def source(config: Config, folder: Path) -> dict[str, object]:
    """Returns the settings that put few lines in place of the preset's data."""
    part = config.data.source
    if part.name == "synthetic":
        return {
            "data.source.interactions": USERS * EVENTS,
            "data.source.users": USERS,
            "data.source.items": ITEMS + 20,
        }
    if part.name in ("chain", "two_tastes", "communities"):
        return {"data.source.users": USERS}
    if part.name == "movielens":
        return {"data.source.path": movielens(folder, part.settings.get("version", "latest-small"))}
    return {"data.source.path": table(folder)}


@pytest.fixture
def small(tmp_path) -> Callable[[str], tuple[Config, list[str]]]:
    """Returns a preset's own settings, and the words that shrink it."""

    def words(name: str) -> tuple[Config, list[str]]:
        config = load(name)
        return config, [f"{key}={value}" for key, value in (SMALL | source(config, tmp_path)).items()]

    return words


def test_all_are_found():
    assert sorted(NAMES) == list(preset_names()) and "demo" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_keeps_its_name_and_differences(name):
    config, values = load(name), tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8"))
    assert config.name == values.pop("name", name)
    assert config.data.source.name == values["data"]["source"]["name"]
    dumped = config.model_dump(mode="json", exclude_none=True)
    assert holds(dumped, values)
    assert len(PATHS[NAMES.index(name)].read_text().splitlines()) <= 60, "a preset holds only differences"


@pytest.mark.parametrize("name", NAMES)
def test_names_only_parts_that_exist(name):
    from trainer import checks

    config = load(name)
    needed = ["data.source.path=somewhere"] if config.data.source.name == "table" else []
    checks.check(load(name, None, needed))


@pytest.mark.parametrize("name", ["movielens-latest-small", "movielens-latest-small-random"])
def test_real_data_is_measured_beside_every_baseline(name):
    config = load(name)
    assert sorted(config.evaluate.baselines) == sorted(registry.names("baseline"))
    if config.ranking.enabled:
        assert sorted(config.evaluate.ranking_baselines) == sorted(registry.names("rating_baseline"))


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_it_is(name):
    lines = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    header = lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]
    assert header and len(header[0]) > 20
    for command in re.findall(r"-m trainer train --preset (\S+)", "\n".join(header)):
        assert command == name
    for others in re.findall(r"-m trainer compare --presets (\S+)", "\n".join(header)):
        assert {name, *others.split(",")} <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_to_a_bundle(small, name, tmp_path, capsys):
    config, words = small(name)
    run = tmp_path / "run"
    code = main(["train", "--preset", name, "--workdir", str(run), "--allow-below-baseline", *words])
    assert code == 0, capsys.readouterr().err
    metrics = json.loads((run / "metrics.json").read_text())
    assert load(None, run / "config.toml").name == config.name
    if config.ranking.enabled:
        assert metrics["ranking"]["test"]["rmse"] > 0 or metrics["ranking"]["test"]["auc"] > 0
        assert set(metrics["ranking"]["baselines"]) == set(config.evaluate.ranking_baselines)
    if config.retrieval.enabled:
        assert 0 <= metrics["retrieval"]["test"]["recall@10"] <= 1
        assert set(metrics["retrieval"]["baselines"]) == set(config.evaluate.baselines)
        assert answers(run / "bundle")
    else:
        assert not (run / "bundle").exists()


def answers(bundle: Path) -> bool:
    """Asks the recommending signatures their examples, as a server does when it warms up; returns whether an item was named."""
    import tensorflow as tf

    manifest = json.loads((bundle / "manifest.json").read_text())
    model = tf.saved_model.load(str(bundle / "models" / manifest["model"] / "1"))
    found = {}
    for name in ("recommend", "recommend_with"):
        function = model.signatures[name]
        specs = function.structured_input_signature[1]
        example = manifest["signatures"][name]["example"]
        found[name] = function(
            **{key: tf.constant(value, specs[key].dtype) for key, value in example.items()}
        )
    return bool((found["recommend"]["item_id"] != b"").numpy().any())


def holds(whole: object, part: object) -> bool:
    """Returns whether every value of a nested table stands in another."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and holds(whole[key], part[key]) for key in part)
    return whole == part
