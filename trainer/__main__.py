"""The command line: `python -m trainer VERB`. One function a verb; TensorFlow loads only once a verb needs it."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.errors import UserError

Command = Callable[[argparse.Namespace], None]


LONGEST = 1_000  # characters of an error that nobody wrote for a person


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb and returns the exit code: 0, 1 for an error told in one line, 130 after Ctrl-C."""
    parsed = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    hush_libraries()
    try:
        parsed.command(parsed)
    except UserError as error:
        if parsed.debug:
            raise
        print(f"error: {_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from where it was", file=sys.stderr)
        return 130
    except Exception as error:
        if parsed.debug:
            raise
        print(
            f"error: {type(error).__name__}: {_line(error)[:LONGEST]} (--debug shows where)", file=sys.stderr
        )
        return 1
    return 0


def hush_libraries() -> None:
    """Lets of what libraries log only errors through: a filter, for TensorFlow sets its logger's level when it loads."""
    for noisy in ("absl", "tensorflow", "httpx"):
        logging.getLogger(noisy).addFilter(lambda record: record.levelno >= logging.ERROR)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _train(parsed: argparse.Namespace) -> None:
    from trainer.config import load

    config = load(
        parsed.preset, parsed.config, parsed.overrides
    )  # what is wrong in it is told before TensorFlow loads
    from trainer import experiment

    workdir = parsed.workdir or Path("runs") / config.name
    experiment.run(config, workdir, restart=parsed.restart, allow_below_baseline=parsed.allow_below_baseline)


def _evaluate(parsed: argparse.Namespace) -> None:
    from trainer import experiment

    if parsed.bundle is not None or parsed.url is not None:
        experiment.evaluate_served(parsed.workdir, parsed.overrides, parsed.bundle, parsed.url)
    else:
        experiment.evaluate(parsed.workdir, parsed.overrides, all_baselines=parsed.baselines)


def _export(parsed: argparse.Namespace) -> None:
    from trainer import experiment

    experiment.export(parsed.workdir, parsed.overrides, allow_below_baseline=parsed.allow_below_baseline)


def _tune(parsed: argparse.Namespace) -> None:
    from trainer.config import load

    overrides = [*parsed.overrides, *([f"tune.trials={parsed.trials}"] if parsed.trials is not None else [])]
    config = load(parsed.preset, parsed.config, overrides)
    from trainer import tune

    config = tune.sweep(config, parsed.sweep) if parsed.sweep else config
    tune.run(config, parsed.workdir or Path("runs") / f"{config.name}-tune")


def _compare(parsed: argparse.Namespace) -> None:
    from trainer import compare
    from trainer.config import apart

    compare.run(apart(parsed.presets), parsed.seeds, parsed.config, parsed.workdir, parsed.overrides)


def _describe(parsed: argparse.Namespace) -> None:
    from trainer.data.describe.draft import describe

    columns = {role: name for role in ("user", "item", "timestamp") if (name := getattr(parsed, role))}
    print(describe(str(parsed.file), parsed.users, parsed.items, columns))


def _presets(parsed: argparse.Namespace) -> None:
    from trainer.config import PRESETS, preset_names

    del parsed
    for name in preset_names():
        header = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        print(f"{name:<34}{header}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed arguments; settings may stand before and after options, which argparse alone refuses."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(parsed, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer", description="Interactions in, a measured and exported recommender out."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = _verb(verbs, "train", _train, "prepare, train, evaluate and export one experiment")
    _settings(verb)
    verb.add_argument(
        "--restart",
        action="store_true",
        help="throw away what an earlier run learned and measured there; what its bundle published stays",
    )
    _gate(verb)

    verb = _verb(
        verbs,
        "tune",
        _tune,
        "search settings with Keras Tuner (default: embedding dimension and temperature)",
    )
    _settings(verb)
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--trials", type=int, help="number of trials (default: tune.trials)")
    how.add_argument(
        "--sweep",
        action="append",
        metavar="SETTING=VALUES",
        help="try every value, e.g. retrieval.embedding_dimension=8,16,32,64; given again: every combination",
    )

    verb = _verb(
        verbs,
        "evaluate",
        _evaluate,
        "measure a trained run again, beside baselines, and write its leaderboard",
    )
    _of_run(verb)
    _measured(verb)

    verb = _verb(verbs, "export", _export, "publish a trained run as a new version of its bundle")
    _of_run(verb)
    _gate(verb)

    verb = _verb(
        verbs,
        "compare",
        _compare,
        "train several presets on the same data and seeds, in one table and picture",
    )
    _compared(verb)

    verb = _verb(
        verbs, "describe", _describe, "infer a table's columns and print settings to paste into a TOML file"
    )
    verb.add_argument(
        "file", type=Path, help="CSV, TSV, Parquet or JSON lines file of interactions, or a folder of them"
    )
    for side in ("users", "items"):
        verb.add_argument(f"--{side}", metavar="FILE", help=f"table of {side} with their features")
    for role in ("user", "item", "timestamp"):
        verb.add_argument(
            f"--{role}", metavar="COLUMN", help=f"the {role}'s column, where its name does not say so"
        )

    _verb(verbs, "presets", _presets, "list the presets")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    verb.set_defaults(command=command)
    return verb


def _settings(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--preset", help="name of a preset (see `python -m trainer presets`)")
    verb.add_argument("--config", type=Path, help="TOML file of settings, laid over the preset")
    verb.add_argument("--workdir", type=Path, help="where the run is kept (default: runs/<name>)")
    _overrides(verb)


def _of_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--workdir", type=Path, required=True, help="the run's work directory")
    _overrides(verb)


def _measured(verb: argparse.ArgumentParser) -> None:
    what = verb.add_mutually_exclusive_group()
    what.add_argument(
        "--baselines", action="store_true", help="fit every registered baseline, not only the preset's"
    )
    what.add_argument(
        "--bundle", type=Path, help="measure an exported bundle on the run's test cases instead"
    )
    what.add_argument(
        "--url",
        help="measure a running server, e.g. http://127.0.0.1:8501 (REST; its API key in RECOMMENDER_API_KEY)",
    )


def _compared(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--presets",
        required=True,
        help="names with commas between, each with settings of its own behind +, "
        "e.g. history-mean,history-mean+retrieval.encoder.name=decay",
    )
    verb.add_argument(
        "--seeds", type=int, default=3, help="seeds that each preset is trained with (default: 3)"
    )
    verb.add_argument("--config", type=Path, help="TOML file of settings, laid over every preset")
    verb.add_argument(
        "--workdir",
        type=Path,
        default=Path("runs/compare"),
        help="where the runs are kept (default: runs/compare)",
    )
    _overrides(verb)


def _overrides(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "overrides", nargs="*", metavar="SETTING=VALUE", help="e.g. retrieval.temperature=0.2 train.epochs=5"
    )


def _gate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--allow-below-baseline",
        action="store_true",
        help="export even a model that is significantly below a baseline",
    )


if __name__ == "__main__":
    sys.exit(main())
