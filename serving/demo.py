"""`python -m serving demo`: start a server on a bundle, ask it through the client for three users, and stop it."""

import argparse
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.client import Recommendation, Recommender, RecommenderError

STRANGER = "somebody-new"
LISTED = 10  # recommendations, and events of the history, that are shown
START_SECONDS = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="a bundle that `python -m trainer` wrote"
    )


def main(options: argparse.Namespace) -> int:
    """Shows three users, one of whom the model has never seen."""
    console = Console()
    manifest = json.loads((options.bundle / "manifest.json").read_text(encoding="utf-8"))
    users = json.loads((options.bundle / "vocabularies.json").read_text(encoding="utf-8"))["users"]
    with served(options.bundle) as url, Recommender(url, manifest["model"]) as recommender:
        with console.status("starting the server ..."):
            wait(recommender, options.bundle)
        console.print(f"serving version {manifest['version']} at {url}", highlight=False)
        for user in (users[0], users[len(users) // 2], STRANGER):
            console.print(beside(recommender, user))
    workdir = options.bundle.parent
    console.print("[green]✓[/] the server is stopped. What was made:", highlight=False)
    console.print(
        f"  bundle   {options.bundle}\n  figures  {workdir / 'leaderboard.md'}\n  log      {server_log(options.bundle)}",
        highlight=False,
    )
    console.print("[bold]Next:[/]", highlight=False)
    console.print(
        f"  make serve WORKDIR={workdir}\n  make recommend USER_ID={users[0]}   (in another terminal)",
        highlight=False,
    )
    return 0


def wait(recommender: Recommender, bundle: Path) -> None:
    """Waits for the server; raises with the last line of its log where it does not come."""
    try:
        recommender.wait_until_ready(START_SECONDS)
    except RecommenderError as error:
        said = server_log(bundle).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RuntimeError(
            f"the server did not start: {said[-1] if said else error} (see {server_log(bundle)})"
        ) from error


@contextmanager
def served(bundle: Path) -> Iterator[str]:
    """Yields the URL of a server process on free loopback ports; it is stopped at the end, whatever happens.

    What the server says goes into `server.log` beside the bundle.
    """
    rest, grpc = free_ports(2)
    command = [sys.executable, "-m", "serving", "serve", "--bundle", str(bundle)]
    command += ["--rest_api_port", str(rest), "--port", str(grpc)]
    with (
        server_log(bundle).open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file) as process,
    ):
        try:
            yield f"http://127.0.0.1:{rest}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()


def server_log(bundle: Path) -> Path:
    """Returns the file that takes what the server says."""
    return bundle.parent / "server.log"


def free_ports(count: int) -> list[int]:
    """Returns loopback ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def beside(recommender: Recommender, user: str) -> Table:
    """Returns a user's recommendations beside their history, with titles."""
    found: Sequence[Recommendation] = recommender.recommend(user, LISTED)
    history = recommender.history(user, LISTED)
    titles = recommender.titles([item.item_id for item in found])
    past = recommender.titles(history) if history else ["(nothing remembered)"]
    table = Table(title=f"user {user}", title_justify="left", title_style="bold")
    table.add_column("history, newest first", style="dim")
    table.add_column("recommended")
    table.add_column("score", justify="right")
    for row in range(max(len(past), len(found))):
        cells = (titles[row], f"{found[row].score:#.4g}") if row < len(found) else ("", "")
        table.add_row(escape(past[row]) if row < len(past) else "", escape(cells[0]), cells[1])
    return table
