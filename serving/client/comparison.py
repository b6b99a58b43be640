"""Two versions side by side over the same requests: how far apart their answers are, and which is better."""

import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.client.calls import Recommendation
from serving.client.checks import an_id, ids
from serving.client.errors import InvalidArgument
from serving.client.recommender import Recommender

_TWO_SIDED_95 = statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Replay:
    """One recorded request; `relevant` holds what the user went on to choose, where that is known."""

    user_id: str | None = None
    history: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    relevant: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.user_id is not None:
            an_id("user_id", self.user_id)
        elif self.history is None:
            raise InvalidArgument("user_id", "or history must be given")
        for name in ("history", "exclude", "relevant"):
            ids(name, getattr(self, name) or ())


def read_replays(path: Path) -> Iterator[Replay]:
    """Requests from JSON lines whose keys are the fields of `Replay`."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield Replay(**json.loads(line))
            except (ValueError, TypeError) as error:
                fields = ", ".join(Replay.__annotations__)
                problem = f"is not a JSON object with keys among {fields}: {error}"
                raise InvalidArgument(f"{path}:{number}", problem) from error


@dataclass(frozen=True)
class Pair:
    """What both versions answered to one request, and in how many seconds."""

    replay: Replay
    answers: tuple[list[Recommendation], list[Recommendation]]
    seconds: tuple[float, float]


def replay_both(
    clients: tuple[Recommender, Recommender], replays: Iterable[Replay], k: int
) -> Iterator[Pair]:
    """Both answers to every request; who is asked first alternates, so that caches favour neither."""
    for number, replay in enumerate(replays):
        answers: list[list[Recommendation]] = [[], []]
        seconds = [0.0, 0.0]
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            answers[side] = clients[side].recommend(
                replay.user_id, k, exclude=replay.exclude, history=replay.history
            )
            seconds[side] = time.perf_counter() - began
        yield Pair(replay, (answers[0], answers[1]), (seconds[0], seconds[1]))


def compare(pairs: Sequence[Pair], k: int) -> dict[str, object]:
    """Means over the requests.

    `overlap` is the share of items that both lists hold; `rank_shift` by how many places a shared item moves;
    `same` the share of equal lists. Recall and NDCG at `k` count the requests that say what was relevant; the
    difference is b - a with its 95 % interval, paired by request (normal approximation).
    """
    lists = [([item for item, _ in pair.answers[0]], [item for item, _ in pair.answers[1]]) for pair in pairs]
    shifts = [abs(a.index(item) - b.index(item)) for a, b in lists for item in set(a) & set(b)]
    report: dict[str, object] = {
        "requests": len(pairs),
        "k": k,
        "overlap": statistics.fmean(_overlap(a, b) for a, b in lists),
        "same": statistics.fmean(a == b for a, b in lists),
        "rank_shift": statistics.fmean(shifts) if shifts else None,
        "latency_ms": {side: latency_ms([pair.seconds[n] for pair in pairs]) for n, side in enumerate("ab")},
    }
    judged = [
        (found, pair.replay.relevant)
        for found, pair in zip(lists, pairs, strict=True)
        if pair.replay.relevant
    ]
    report["judged"] = len(judged)
    if judged:
        for name, metric in (("recall", recall), ("ndcg", ndcg)):
            a, b = ([metric(found[n], relevant, k) for found, relevant in judged] for n in (0, 1))
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
    differences = [after - before for before, after in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"difference": mean, "low": None, "high": None}
    half = _TWO_SIDED_95 * statistics.stdev(differences) / math.sqrt(len(differences))
    return {"difference": mean, "low": mean - half, "high": mean + half}
