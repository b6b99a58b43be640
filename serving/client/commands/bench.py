"""`python -m serving bench`: latency and throughput under a bounded load."""

import argparse
import ipaddress
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from serving.client import InvalidArgument, Recommender, RecommenderError
from serving.client.checks import at_least
from serving.client.commands.common import (
    add_client_options,
    id_list,
    open_client,
    print_json,
    print_table,
)
from serving.client.comparison import latency_ms

_WARM_UP = 10  # requests that do not count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--requests", type=int, default=1000, metavar="N", help="in all (default: 1000)")
    parser.add_argument("--clients", type=int, default=4, metavar="N", help="at a time (default: 4)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="stop after this (default: 30)"
    )
    parser.add_argument("--k", type=int, default=10, metavar="N", help="how many items each (default: 10)")
    parser.add_argument(
        "--user",
        type=id_list,
        action="extend",
        default=[],
        metavar="ID,ID",
        help="users to ask for, in turn (default: ids the model has not seen)",
    )
    parser.add_argument("--allow-remote", action="store_true", help="load a server on another machine")
    add_client_options(parser)


def main(options: argparse.Namespace) -> int:
    """Prints the figures; 0 if every request was answered, else 1."""
    for name in ("requests", "clients"):
        if getattr(options, name) < 1:
            raise InvalidArgument(f"--{name}", f"must be at least 1, got {getattr(options, name)}")
    at_least("--seconds", options.seconds, 0.001)
    if not options.allow_remote and not _is_here(options.url):
        raise InvalidArgument("--url", f"is not on this machine, which needs --allow-remote: {options.url}")
    users = options.user or [f"bench-{number}" for number in range(1000)]
    with open_client(options) as recommender:
        for user in users[:_WARM_UP]:
            recommender.recommend(user, options.k)
        load = _Load(recommender, users, options.k, options.requests, options.seconds)
        report = load.run(options.clients)
    if options.json:
        print_json(report)
    else:
        _print(options, report)
    return 1 if load.errors else 0


class _Load:
    """A fixed number of requests, shared out among threads that each wait for their answer."""

    def __init__(
        self, recommender: Recommender, users: list[str], k: int, requests: int, seconds: float
    ) -> None:
        self._recommender, self._users, self._k = recommender, users, k
        self._requests, self._seconds = requests, seconds
        self._tickets = itertools.count()
        self._deadline = 0.0
        self._lock = threading.Lock()
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()

    def run(self, clients: int) -> dict[str, object]:
        began = time.perf_counter()
        self._deadline = began + self._seconds
        with ThreadPoolExecutor(clients) as threads:
            for running in [threads.submit(self._client) for _ in range(clients)]:
                running.result()
        seconds = time.perf_counter() - began
        return {
            "requests": len(self.latencies) + self.errors.total(),
            "clients": clients,
            "seconds": seconds,
            "requests_per_second": len(self.latencies) / seconds,
            "latency_ms": latency_ms(self.latencies) if self.latencies else {},
            "errors": dict(self.errors),
        }

    def _client(self) -> None:
        latencies: list[float] = []
        while (ticket := next(self._tickets)) < self._requests and time.perf_counter() < self._deadline:
            began = time.perf_counter()
            try:
                self._recommender.recommend(self._users[ticket % len(self._users)], self._k)
            except RecommenderError as error:
                with self._lock:
                    self.errors[f"{type(error).__name__}: {error}"] += 1
            else:
                latencies.append(time.perf_counter() - began)
        with self._lock:
            self.latencies += latencies


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _print(options: argparse.Namespace, report: dict[str, object]) -> None:
    latency, errors = report["latency_ms"], report["errors"]
    assert isinstance(latency, dict) and isinstance(errors, dict)
    title = f"{report['requests']} requests of {options.clients} clients to {options.url}"
    print_table(
        title, [{"requests/s": report["requests_per_second"]} | {f"{n} ms": v for n, v in latency.items()}]
    )
    if errors:
        print_table("Errors", [{"count": count, "error": error} for error, count in errors.items()])
