"""`python -m serving similar`: the items most like one."""

import argparse

from serving.client.commands.common import (
    add_client_options,
    open_client,
    print_json,
    print_table,
    ranked_rows,
    titles_of,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--item", metavar="ID", required=True, help="an item's id")
    parser.add_argument("--k", type=int, default=10, metavar="N", help="how many items (default: 10)")
    add_client_options(parser)


def main(options: argparse.Namespace) -> int:
    """Prints the similar items."""
    with open_client(options) as recommender:
        found = recommender.similar_items(options.item, options.k)
        title, *titles = titles_of(recommender, [options.item, *(item.item_id for item in found)])
    rows = ranked_rows(found, titles)
    if options.json:
        print_json({"item_id": options.item, "title": title, "similar": rows})
    else:
        print_table(f"Most like {options.item} {title}".rstrip(), rows)
    return 0
