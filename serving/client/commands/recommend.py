"""`python -m serving recommend`: the best items for a user or for a history."""

import argparse

from serving.client import BadRequest, InvalidArgument, NotFound, Recommender
from serving.client.commands.common import (
    add_client_options,
    id_list,
    name_and_value,
    open_client,
    print_json,
    print_table,
    ranked_rows,
    titles_of,
)

_SHOWN = 10  # items of the history that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--user", metavar="ID", help="a user's id; one the model has never seen is welcome")
    parser.add_argument(
        "--history",
        type=id_list,
        action="extend",
        metavar="ID,ID",
        help="item ids, oldest first, in place of what the model remembers of the user",
    )
    parser.add_argument("--k", type=int, default=10, metavar="N", help="how many items (default: 10)")
    for flag, told in (
        ("exclude", "item ids that must not come"),
        ("allow", "item ids, beside which none may come"),
    ):
        parser.add_argument(
            f"--{flag}", type=id_list, action="extend", default=[], metavar="ID,ID", help=told
        )
    parser.add_argument(
        "--category",
        action="append",
        default=[],
        metavar="NAME",
        help="a category, beside which none may come; may be given several times",
    )
    for flag, told in (
        ("diversity", "from 0 to 1: how much less the list repeats itself (default: 0)"),
        ("popularity", "how much the popular gain; below 0 they lose (default: 0)"),
    ):
        parser.add_argument(f"--{flag}", type=float, default=0.0, metavar="X", help=told)
    parser.add_argument(
        "--context",
        type=name_and_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the request brings, such as device=phone; may be given several times",
    )
    add_client_options(parser)


def main(options: argparse.Namespace) -> int:
    """Prints the history and the recommendations."""
    if options.user is None and options.history is None:
        raise InvalidArgument("--user", "or --history must be given")
    with open_client(options) as recommender:
        found = recommender.recommend(
            options.user,
            options.k,
            exclude=options.exclude,
            history=options.history,
            allow=options.allow,
            categories=options.category,
            diversity=options.diversity,
            popularity=options.popularity,
            context=dict(options.context),
        )
        rows = ranked_rows(found, titles_of(recommender, [item.item_id for item in found]))
        history = _history(recommender, options.user, options.history)
        past = [
            {"item_id": item, "title": title}
            for item, title in zip(history, titles_of(recommender, history), strict=True)
        ]
    whom = f"user {options.user}" if options.user is not None else "this history"
    if options.json:
        print_json({"user_id": options.user, "path": found.path, "history": past, "recommendations": rows})
        return 0
    if past:
        print_table(f"History of {whom}, newest first" if options.user else "The history, newest first", past)
    elif options.user is not None:
        print(f"The model remembers nothing of user {options.user}.")
    short = "" if len(rows) == options.k else f"{len(rows)} of {options.k}: the corpus has no more to offer"
    print_table(f"Recommended for {whom}", rows, short)
    return 0


def _history(recommender: Recommender, user: str | None, given: list[str] | None) -> list[str]:
    """The items to show as the user's past, newest first."""
    if given or user is None:
        return list(reversed(given or []))[:_SHOWN]
    try:
        return recommender.history(user, _SHOWN)
    except (BadRequest, NotFound):  # a model without that signature
        return []
