"""The table of evidence: its ranks, its cells, and one small run of it."""

import evidence
import numpy as np
import pytest

WORDS = ("data.source.users=60", "retrieval.embedding_dimension=4", "train.epochs=1")


def test_ranks_share_places_and_put_failures_last():
    found = evidence.ranks({"a": 0.3, "b": 0.5, "c": 0.3, "d": float("nan")})
    assert found == {"a": 2.5, "b": 1.0, "c": 2.5, "d": 4.0}


def test_rows_are_sorted_by_mean_rank_and_the_best_of_a_world_is_bold(monkeypatch):
    monkeypatch.setattr(evidence, "SETTINGS", {"default": (), "one": ("a=1",), "two": ("b=2",)})
    table = {
        "first": {"default": 0.2, "one": 0.1, "two": float("nan")},
        "second": {"default": 0.2, "one": 0.3, "two": 0.1},
        "third": {"default": 0.2, "one": 0.1, "two": 0.1},
    }
    lines = evidence.markdown(table, {"first": 0.01, "second": 0.02, "third": 0.03}, "1 seed").splitlines()
    start = lines.index("|  | first | second | third | mean rank |")
    assert lines[start + 2 : start + 6] == [
        "| **default** | **0.2000** | 0.2000 | **0.2000** | 1.3 |",
        "| one | 0.1000 | **0.3000** | 0.1000 | 1.8 |",
        "| two | - | 0.1000 | 0.1000 | 2.8 |",
        "| standard error over users | 0.0100 | 0.0200 | 0.0300 |  |",
    ]
    assert "one: `a=1`; two: `b=2`" in lines[-1]


def test_every_row_is_a_setting_that_exists():
    from trainer import checks
    from trainer.config import load

    for words in evidence.SETTINGS.values():
        checks.check(load(None, None, [*evidence.WORLDS["chain"], *evidence.COMMON, *words]))
    assert all(set(words).isdisjoint(evidence.COMMON) for words in evidence.SETTINGS.values())


@pytest.mark.slow
@pytest.mark.long
def test_a_run_writes_the_table_and_keeps_what_it_measured(tmp_path, monkeypatch):
    some = {name: evidence.SETTINGS[name] for name in ("default", "loss bpr")}
    monkeypatch.setattr(evidence, "SETTINGS", some)
    words = [
        "--worlds",
        "chain,communities",
        "--workdir",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "E.md"),
    ]
    assert evidence.main([*words, *WORDS]) == 0
    first = (tmp_path / "E.md").read_text()
    rows = [
        line.split("|")[1:-1] for line in first.splitlines() if line.startswith(("| **default", "| loss bpr"))
    ]
    assert len(rows) == 2
    for row in rows:
        figures = [float(cell.strip(" *")) for cell in row[1:]]
        assert all(0 <= figure <= 1 for figure in figures[:-1])
        assert 1 <= figures[-1] <= 2

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(evidence, "measured", never)
    assert evidence.main([*words, *WORDS]) == 0
    kept = [line for line in (tmp_path / "E.md").read_text().splitlines() if "|" in line]
    assert kept == [line for line in first.splitlines() if "|" in line]
    assert np.isfinite(float(kept[-1].split("|")[2]))
