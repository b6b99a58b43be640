"""`python -m serving status`: which versions the server has, and whether they answer."""

import argparse

from serving.client.commands.common import add_client_options, open_client, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--wait", type=float, metavar="SECONDS", help="wait until the model can answer, at most this long"
    )
    add_client_options(parser)


def main(options: argparse.Namespace) -> int:
    """Prints the versions; 0 if one of them is available, else 1."""
    with open_client(options) as recommender:
        if options.wait is not None:
            recommender.wait_until_ready(options.wait)
        versions = recommender.status()
    rows = [version._asdict() for version in versions]
    if options.json:
        print_json({"model": options.model, "versions": rows})
    else:
        print_table(f"Model {options.model} at {options.url}", rows)
    return 0 if any(version.state == "AVAILABLE" for version in versions) else 1
