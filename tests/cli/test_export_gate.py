"""A model that is significantly below a baseline is trained and measured, but not exported unless told to."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

PEOPLE, HITS = 40, 6
# Every user has some rare items, then all the hits but one, and last the one that is left: popularity alone finds it.
EVENTS = tuple(
    f"u{user},{item},{1_600_000_000 + 1_000 * event + user}"
    for user in range(PEOPLE)
    for event, item in enumerate(
        [
            *(f"rare{(7 * user + n * n) % 50}" for n in range(5)),
            *(f"hit{(user + n) % HITS}" for n in range(HITS)),
        ]
    )
)
# Towers that learn nothing, and nothing beside.
BLIND = ("retrieval.factorisation=none", "train.learning_rate=1e-9")


@pytest.fixture
def blind(table, train) -> Callable[..., object]:
    """Trains a model that knows nothing, on the test cases that popularity answers."""
    path = table(*EVENTS, header="user_id,item_id,timestamp")
    return lambda *words: train(path, *BLIND, *words, allow=False)


def versions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("bundle/models/recommender/*"))


@pytest.mark.slow
def test_below_a_baseline_nothing_is_exported_until_allowed(trainer, blind, tmp_path):
    """Also where the objective's k is none of the cutoffs, and where the baseline is no longer asked for, by neither verb."""
    run = tmp_path / "run"
    line = blind("evaluate.cutoffs=[5]", "train.objective=ndcg@7").error
    assert line.startswith("not exported: test ndcg@7 ") and "baseline popularity, 1.0000" in line
    assert "--allow-below-baseline" in line
    assert {"ndcg@5", "ndcg@7"} <= set(json.loads((run / "metrics.json").read_text())["retrieval"]["test"])
    assert json.loads((run / "leaderboard.json").read_text())["retrieval"][0]["name"] == "popularity"
    assert trainer("evaluate", "--workdir", str(run), "evaluate.baselines=[]").code == 0
    assert trainer("export", "--workdir", str(run), "evaluate.baselines=[]").error == line
    assert versions(run) == []
    assert trainer("export", "--workdir", str(run), "--allow-below-baseline").code == 0
    assert versions(run) == ["1"]
