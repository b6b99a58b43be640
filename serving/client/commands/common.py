"""Options and output that the verbs share."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.client import BadRequest, NotFound, Recommendation, Recommender

API_KEY_VARIABLE = "RECOMMENDER_API_KEY"


def add_client_options(parser: argparse.ArgumentParser, choose_version: bool = True) -> None:
    """The options that say which server, which model and maybe which version of it, and `--json`."""
    group = parser.add_argument_group(
        "server",
        f"A server that wants an API key is given the one in the environment variable {API_KEY_VARIABLE}.",
    )
    group.add_argument(
        "--url",
        default="http://127.0.0.1:8501",
        help="http://, https://, grpc:// or grpcs:// with host and port (default: %(default)s)",
    )
    group.add_argument("--model", default="recommender", metavar="NAME", help="default: %(default)s")
    if choose_version:
        which = group.add_mutually_exclusive_group()
        which.add_argument("--version", type=int, metavar="N", help="this version instead of the newest")
        which.add_argument("--label", metavar="NAME", help="the version with this label, such as canary")
    group.add_argument(
        "--timeout",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="for a request with its retries (default: 5)",
    )
    group.add_argument("--ca-file", metavar="FILE", help="certificates to trust instead of the system's")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def open_client(
    options: argparse.Namespace, version: int | None = None, label: str | None = None
) -> Recommender:
    """A client as the options want it; `version` and `label` are for verbs whose options have none."""
    return Recommender(
        options.url,
        options.model,
        getattr(options, "version", version),
        getattr(options, "label", label),
        timeout=options.timeout,
        ca_file=options.ca_file,
        api_key=os.environ.get(API_KEY_VARIABLE),
    )


def id_list(text: str) -> list[str]:
    """Comma-separated ids; spaces around them do not count."""
    return [part.strip() for part in text.split(",") if part.strip()]


def name_and_value(text: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must look like device=phone, got {text!r}")
    return name, value


def titles_of(recommender: Recommender, item_ids: Sequence[str]) -> list[str]:
    """Titles where the model has them, "" where not."""
    try:
        return recommender.titles(item_ids)
    except (BadRequest, NotFound):  # a model without that signature
        return [""] * len(item_ids)


def ranked_rows(found: Sequence[Recommendation], titles: Sequence[str]) -> list[dict[str, object]]:
    """Recommendations as rows to print."""
    return [
        {"rank": place, "item_id": item.item_id, "title": title, "score": item.score}
        for place, (item, title) in enumerate(zip(found, titles, strict=True), 1)
    ]


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False, indent=2))


def print_table(title: str, rows: Sequence[Mapping[str, object]], note: str = "") -> None:
    """Rows under a title as a table with one column per key; numbers stand on the right."""
    console = Console()
    if not rows:
        console.print(f"{title}: nothing found", markup=False, highlight=False)
        return
    table = Table()
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else escape(str(v)) for v in row.values()))
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(table)
    if note:
        console.print(note, markup=False, highlight=False)
