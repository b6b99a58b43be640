"""`python -m serving VERB`: serve a bundle, and talk to a server."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from serving.client.errors import ConnectionFailed, InvalidArgument

VERBS = {
    "serve": ("serving.server", "serve a bundle on this machine, over REST and gRPC"),
    "recommend": ("serving.client.commands.recommend", "print the best items for a user or a history"),
    "similar": ("serving.client.commands.similar", "print the items most like one"),
    "status": ("serving.client.commands.status", "print the versions of the model and their state"),
    "bench": ("serving.client.commands.bench", "measure latency and throughput under a bounded load"),
    "demo": ("serving.demo", "start a server on a bundle, ask it for three users and stop it"),
    "compare": ("serving.client.commands.compare", "replay requests against two versions and compare"),
}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; what goes wrong is one line on standard error and an exit code other than 0."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    try:
        options = _parse(words)
        code = int(options.main(options))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        hint = "; `python -m serving serve` starts a server" if isinstance(error, ConnectionFailed) else ""
        print(f"error: {text}{hint}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The options of the verb in `words`; only that verb's module is imported, so that `--help` is quick."""
    parser = _Parser(prog="python -m serving", description=__doc__, allow_abbrev=False)
    _add_debug(parser)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, (module_name, summary) in VERBS.items():
        about = f"{summary[0].upper()}{summary[1:]}."
        verb = verbs.add_parser(name, help=summary, description=about, allow_abbrev=False)
        _add_debug(verb)
        if name == chosen:
            module = importlib.import_module(module_name)
            module.add_arguments(verb)
            verb.set_defaults(main=module.main)
    return parser.parse_args(words)


class _Parser(argparse.ArgumentParser):
    """A parser, as are those of its verbs, whose errors are one line too."""

    def error(self, message: str) -> NoReturn:
        """Names the flag and where its help is, and exits with 2."""
        self.exit(2, f"error: {' '.join(message.split())}; see `{self.prog} --help`\n")


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show where an error came from")


if __name__ == "__main__":
    sys.exit(main())
