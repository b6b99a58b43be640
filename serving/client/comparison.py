"""Two versions side by side over the same requests: how far apart their answers are, and which is better."""

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from serving.client.calls import Recommendation
from serving.client.checks import a_count, a_dial, an_id, ids
from serving.client.context import Context
from serving.client.errors import InvalidArgument
from serving.client.recommender import Recommender

_RESAMPLES = 1000
Metric: TypeAlias = Callable[[Sequence[str], Sequence[str], int], float]


@dataclass(frozen=True)
class Replay:
    """One recorded request, of `k` items or as many as all; `relevant` is what the user went on to choose, where that is known."""

    user_id: str | None = None
    history: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    allow: Sequence[str] = ()
    categories: Sequence[str] = ()
    diversity: float = 0.0
    popularity: float = 0.0
    relevant: Sequence[str] = ()
    context: Context | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        if self.user_id is not None:
            an_id("user_id", self.user_id)
        elif self.history is None:
            raise InvalidArgument("user_id", "or history must be given")
        for name in ("history", "exclude", "allow", "categories", "relevant"):
            ids(name, getattr(self, name) or ())
        for name in ("diversity", "popularity"):
            a_dial(name, getattr(self, name))
        if self.k is not None:
            a_count("k", self.k)
        if not isinstance(self.context, dict | None):
            raise InvalidArgument(
                "context", f'must be an object such as {{"device": "phone"}}, got {self.context!r}'
            )


def read_replays(path: Path) -> Iterator[Replay]:
    """Requests from JSON lines whose keys are the fields of `Replay`; a line that is none raises `InvalidArgument` with its number."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _replay(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(str(path), f"cannot be read: {error}") from error


def _replay(line: str, where: str) -> Replay:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(where, f"is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidArgument(where, f"must be a JSON object, got {values!r}")
    fields = list(Replay.__annotations__)
    for name in values:
        if name not in fields:
            raise InvalidArgument(where, f"has the unknown key {name!r}; a request has {', '.join(fields)}")
    try:
        return Replay(**values)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(where, f"is no request: {error}") from error


@dataclass(frozen=True)
class Pair:
    """What both versions answered to one request, and in how many seconds."""

    replay: Replay
    answers: tuple[list[Recommendation], list[Recommendation]]
    seconds: tuple[float, float]


def replay_both(
    clients: tuple[Recommender, Recommender], replays: Iterable[Replay], k: int
) -> Iterator[Pair]:
    """Both answers to every request; who is asked first alternates, so that caches favour neither.

    The connections are opened before, and count for no request.
    """
    for client in clients:
        client.status()
    for number, replay in enumerate(replays):
        answers: list[list[Recommendation]] = [[], []]
        seconds = [0.0, 0.0]
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            answers[side] = clients[side].recommend(
                replay.user_id,
                replay.k or k,
                exclude=replay.exclude,
                history=replay.history,
                allow=replay.allow,
                categories=replay.categories,
                diversity=replay.diversity,
                popularity=replay.popularity,
                context=replay.context,
            )
            seconds[side] = time.perf_counter() - began
        yield Pair(replay, (answers[0], answers[1]), (seconds[0], seconds[1]))


def compare(pairs: Sequence[Pair], k: int) -> dict[str, object]:
    """Means over the requests; `k` is their depth, None where they differ in it.

    `overlap` is the share of items that both lists hold; `rank_shift` by how many places a shared item moves;
    `same` the share of equal lists. Recall and NDCG, at a request's own depth or `k`, count the requests that say what was
    relevant; the difference is b - a with its 95 % interval, a bootstrap over the requests.
    """
    lists = [([item for item, _ in pair.answers[0]], [item for item, _ in pair.answers[1]]) for pair in pairs]
    shifts = [abs(a.index(item) - b.index(item)) for a, b in lists for item in set(a) & set(b)]
    report: dict[str, object] = {
        "requests": len(pairs),
        "k": k if all(pair.replay.k in (None, k) for pair in pairs) else None,
        "overlap": statistics.fmean(_overlap(a, b) for a, b in lists),
        "same": statistics.fmean(a == b for a, b in lists),
        "rank_shift": statistics.fmean(shifts) if shifts else None,
        "latency_ms": {side: latency_ms([pair.seconds[n] for pair in pairs]) for n, side in enumerate("ab")},
    }
    judged = [(found, pair.replay) for found, pair in zip(lists, pairs, strict=True) if pair.replay.relevant]
    report["judged"] = len(judged)
    if judged:
        metrics: dict[str, Metric] = {"recall": recall, "ndcg": ndcg}
        for name, metric in metrics.items():
            a, b = (
                [metric(found[n], replay.relevant, replay.k or k) for found, replay in judged] for n in (0, 1)
            )
            report[name] = {"a": statistics.fmean(a), "b": statistics.fmean(b), **_difference(a, b)}
    return report


def recall(found: Sequence[str], relevant: Sequence[str], k: int) -> float:
    """The share of the relevant items that stands in the first `k` places."""
    wanted = set(relevant)
    return len(wanted & set(found[:k])) / len(wanted)


def ndcg(found: Sequence[str], relevant: Sequence[str], k: int) -> float:
    """Discounted gain of binary relevance over the best order's (Järvelin and Kekäläinen, 2002)."""
    wanted = set(relevant)
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(found[:k]) if item in wanted)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))


def latency_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles and mean, in milliseconds."""
    ordered = sorted(seconds)
    shown = {
        f"p{share}": ordered[math.ceil(len(ordered) * share / 100) - 1] * 1e3 for share in (50, 90, 95, 99)
    }
    return {**shown, "max": ordered[-1] * 1e3, "mean": statistics.fmean(ordered) * 1e3}


def _overlap(a: Sequence[str], b: Sequence[str]) -> float:
    return len(set(a) & set(b)) / (max(len(a), len(b)) or 1) if a or b else 1.0


def _difference(a: Sequence[float], b: Sequence[float]) -> dict[str, float | None]:
    """The mean of b - a, and the bounds that hold 95 % of its means over requests drawn again (Efron, 1979)."""
    differences = [after - before for before, after in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"difference": mean, "low": None, "high": None}
    draw = random.Random(0)
    means = [statistics.fmean(draw.choices(differences, k=len(differences))) for _ in range(_RESAMPLES)]
    cuts = statistics.quantiles(means, n=40, method="inclusive")
    return {"difference": mean, "low": cuts[0], "high": cuts[-1]}
