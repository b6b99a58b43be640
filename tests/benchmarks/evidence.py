"""`make evidence`: the defaults of the towers against alternatives, over several worlds, to `EVIDENCE.md` beside this file.

Each alternative is the default with one thing changed. Blocks are off, so that towers are compared. Figures are of
the validation part, for that is what settings may be chosen by: no test part is read here. What is measured is kept in
the work directory, and an interrupted run goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

import trainer  # noqa: F401  selects Keras 2, before anything loads TensorFlow
from trainer import tables
from trainer.config import Config, load, to_toml
from trainer.data.examples import Prepared
from trainer.data.prepare import load_dataset, prepare
from trainer.errors import UserError
from trainer.progress import Reporter
from trainer.workdir import replace

HERE = Path(__file__).parent
METRIC = "ndcg@10"
DEFAULT = "default"
# About 20,000 events each, so that the whole takes a quarter of an hour.
WORLDS: dict[str, tuple[str, ...]] = {
    "synthetic": ("data.source.name=synthetic", "data.source.interactions=20000"),
    "chain": ("data.source.name=chain", "data.source.users=700", "data.source.items=300"),
    "two_tastes": ("data.source.name=two_tastes", "data.source.users=1000"),
    "communities": ("data.source.name=communities", "data.source.users=4000"),
    "movielens": ("data.source.name=movielens", "data.source.version=latest-small"),
}
COMMON = ("retrieval.factorisation=none", "ranking.enabled=false", "train.epochs=10", "evaluate.bootstrap=0")
SETTINGS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "negatives in_batch": ("retrieval.negatives.name=in_batch",),
    "negatives uniform": ("retrieval.negatives.name=uniform",),
    "negatives popularity": ("retrieval.negatives.name=popularity",),
    "negatives memory": ("retrieval.negatives.name=memory",),
    "negatives hard": ("retrieval.negatives.name=hard",),
    "temperature 0.05": ("retrieval.temperature=0.05",),
    "temperature 0.2": ("retrieval.temperature=0.2",),
    "temperature learned": ("retrieval.learn_temperature=true",),
    "similarity dot": ("retrieval.similarity=dot", "retrieval.temperature=1.0"),
    "loss bpr": ("retrieval.loss.name=bpr",),
    "loss hinge": ("retrieval.loss.name=hinge",),
    "loss binary cross-entropy": ("retrieval.loss.name=binary_cross_entropy",),
    "half-life 1 event": ("retrieval.encoder.half_life=1",),
    "half-life 5 events": ("retrieval.encoder.half_life=5",),
    "half-life 20 events": ("retrieval.encoder.half_life=20",),
    "mean of the history": ("retrieval.encoder.name=mean",),
    "messages once trained": (
        "retrieval.embedding.name=lightgcn",
        "retrieval.embedding.when=inference",
        "retrieval.embedding.layers=1",
    ),
}
Figures = dict[str, float]  # setting -> the mean of the metric over seeds; NaN where it failed


def main(words: Sequence[str] | None = None) -> int:
    """Measures what is missing, writes the table and returns 0."""
    parsed = _parse(words)
    reporter = Reporter()
    table: dict[str, Figures] = {}
    errors: Figures = {}
    for world in parsed.worlds.split(","):
        common = [*WORLDS[world], *COMMON]
        if world == "movielens":
            if not (parsed.movielens / "ratings.csv").exists():
                reporter.say(f"movielens is left out: there is no {parsed.movielens / 'ratings.csv'}")
                continue
            common.append(f"data.source.path={parsed.movielens}")
        settings = {name: [*common, *SETTINGS[name], *parsed.overrides] for name in SETTINGS}
        table[world], errors[world] = measure_world(world, settings, parsed.seeds, parsed.workdir, reporter)
    command = f"--worlds {','.join(table)} --seeds {parsed.seeds}"
    about = f'`make evidence ARGS="{command}"`, {os.cpu_count()} cores'
    replace(parsed.out, markdown(table, errors, about))
    Console().print(parsed.out.read_text(encoding="utf-8"), highlight=False, markup=False)
    return 0


def measure_world(
    world: str, settings: Mapping[str, Sequence[str]], seeds: int, workdir: Path, reporter: Reporter
) -> tuple[Figures, float]:
    """Returns the figure of each of the `settings`, and the default's standard error over users."""
    figures: Figures = {}
    error = float("nan")
    for name, words in settings.items():
        found = []
        for seed in range(1, seeds + 1):
            config = load(None, None, [*words, f"train.seed={seed}"])
            reporter.say(f"{world}: {name}, seed {seed} of {seeds}")
            found.append(_kept(config, workdir / world, reporter))
        figures[name] = float(np.mean([value for value, _ in found]))
        if name == DEFAULT:
            error = float(np.mean([spread for _, spread in found]))
    return figures, error


def _kept(config: Config, workdir: Path, reporter: Reporter) -> tuple[float, float]:
    """Returns a measured figure and its standard error; NaN, and a line, where the settings do not go together."""
    digest = hashlib.sha256(to_toml(config).encode()).hexdigest()[:12]
    done = workdir / f"{digest}.json"
    if not done.exists():
        try:
            value, error = measured(config, workdir / digest, reporter)
        except UserError as wrong:
            reporter.say(f"left out: {wrong}")
            return float("nan"), float("nan")
        replace(done, json.dumps({METRIC: value, "error": error}))
    kept = json.loads(done.read_text(encoding="utf-8"))
    return kept[METRIC], kept["error"]


def measured(config: Config, home: Path, reporter: Reporter) -> tuple[float, float]:
    """Trains the towers and returns their figure on the validation part, and its standard error over users."""
    import tensorflow as tf

    from trainer.evaluation.retrieval import evaluate_retrieval
    from trainer.fit import forget
    from trainer.retrieval.inference import scorer
    from trainer.retrieval.train import train_retrieval

    prepared = read(config)
    model = train_retrieval(config, prepared, home, reporter)
    report = evaluate_retrieval(
        scorer(model.retriever, prepared), prepared.validation, prepared, config.evaluate
    )
    forget(home / "retrieval")
    tf.keras.backend.clear_session()
    values = report.samples[METRIC].part
    return report.values[METRIC], float(values.std() / np.sqrt(len(values)))


def read(config: Config) -> Prepared:
    """Returns the data that the settings name."""
    return prepare(load_dataset(config.data), config.data)


def ranks(figures: Figures) -> Figures:
    """Returns each setting's place in a world, 1 the best; equals share the mean of their places, failures the last."""
    values = np.array([figures[name] for name in figures])
    values[np.isnan(values)] = -np.inf
    better = (values[None] > values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return dict(zip(figures, (better + (equal + 1) / 2).tolist(), strict=True))


def markdown(table: Mapping[str, Figures], errors: Figures, about: str) -> str:
    """Returns the table: a row a setting by mean rank over the worlds, a column a world, the best of each in bold."""
    places = {world: ranks(figures) for world, figures in table.items()}
    mean = {name: float(np.mean([places[world][name] for world in table])) for name in SETTINGS}
    lines = []
    for name in sorted(mean, key=lambda one: mean[one]):
        cells = [_figure(table[world], name) for world in table]
        label = f"**{name}**" if name == DEFAULT else name
        lines.append([label, *cells, f"{mean[name]:.1f}"])
    lines.append(["standard error over users", *(f"{errors[world]:.4f}" for world in table), ""])
    return f"""# The defaults beside their alternatives

Validation {METRIC} of the towers alone (`retrieval.factorisation=none`), each row the default with one thing changed.
A default gives way to what is better by more than two standard errors in most of the worlds.
Written by {about}.

{tables.markdown(["", *table, "mean rank"], lines)}
Settings of a row: {"; ".join(f"{name}: `{' '.join(words)}`" for name, words in SETTINGS.items() if words)}.
"""


def _figure(figures: Figures, name: str) -> str:
    if np.isnan(figures[name]):
        return "-"
    best = figures[name] == np.nanmax(list(figures.values()))
    return f"**{figures[name]:.4f}**" if best else f"{figures[name]:.4f}"


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make evidence", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--worlds", default=",".join(WORLDS), help="names with commas between (default: all)")
    parser.add_argument(
        "--movielens", type=Path, default=HERE.parents[2] / "shared" / "data" / "ml-latest-small"
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--out", type=Path, default=HERE / "EVIDENCE.md")
    parser.add_argument(
        "overrides", nargs="*", metavar="SETTING=VALUE", help="for every row, e.g. train.epochs=2"
    )
    parsed = parser.parse_args(words)
    unknown = [name for name in parsed.worlds.split(",") if name not in WORLDS]
    if unknown:
        parser.error(f"unknown world {unknown[0]!r}; known: {', '.join(WORLDS)}")
    return parsed


if __name__ == "__main__":
    sys.exit(main())
