"""`python -m serving compare`: replay requests against two versions."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.client import InvalidArgument
from serving.client.commands.common import (
    add_client_options,
    id_list,
    open_client,
    print_json,
    print_table,
)
from serving.client.comparison import Replay, compare, read_replays, replay_both


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    for side, example in (("a", "stable"), ("b", "canary")):
        parser.add_argument(
            f"--{side}",
            required=True,
            metavar="NAME",
            help=f"a label, such as {example}, or a version number",
        )
    parser.add_argument(
        "--requests",
        type=Path,
        metavar="FILE",
        help='JSON lines such as {"user_id": "42", "relevant": ["7"]}; also "history", "exclude", "allow", "categories", '
        '"diversity", "popularity", "context" and "k"; '
        '"relevant" is what the user went on to choose, and makes the metrics possible',
    )
    parser.add_argument(
        "--user", type=id_list, action="extend", default=[], metavar="ID,ID", help="or: these users"
    )
    parser.add_argument(
        "--k", type=int, default=10, metavar="N", help="how many items per request (default: 10)"
    )
    add_client_options(parser, choose_version=False)
    parser.epilog = (
        "The server must hold both versions: serving/deploy/config/models.config keeps two, and labels them."
    )


def main(options: argparse.Namespace) -> int:
    """Replays, then prints the report."""
    replays = list(read_replays(options.requests)) if options.requests else []
    replays += [Replay(user) for user in options.user]
    if not replays:
        raise InvalidArgument("--requests", "or --user must give at least one request")
    with open_client(options, **_choice(options.a)) as a, open_client(options, **_choice(options.b)) as b:
        report = compare(list(replay_both((a, b), replays, options.k)), options.k)
    if options.json:
        print_json({"a": options.a, "b": options.b, **report})
        return 0
    _print(options.a, options.b, report)
    return 0


def _choice(text: str) -> dict[str, Any]:
    return {"version": int(text)} if text.isdecimal() else {"label": text}


def _print(a: str, b: str, report: Mapping[str, Any]) -> None:
    print_table(
        f"{a} against {b}, {report['requests']} requests",
        [
            {"what": name, "value": "no item in common" if report[name] is None else report[name]}
            for name in ("overlap", "same", "rank_shift")
        ],
    )
    latency = report["latency_ms"]
    print_table(
        "Latency in milliseconds",
        [{"which": name, **latency[side]} for side, name in (("a", a), ("b", b))],
    )
    rows = [
        {
            "metric": f"{name}@{report['k'] or 'k'}",
            a: report[name]["a"],
            f"{b} ": report[name]["b"],
            "difference": report[name]["difference"],
            "95 % interval": _interval(report[name]),
        }
        for name in ("recall", "ndcg")
        if name in report
    ]
    if rows:
        print_table(f"On {report['judged']} requests whose outcome is known", rows)


def _interval(metric: Mapping[str, float | None]) -> str:
    low, high = metric["low"], metric["high"]
    return "needs two requests" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"
