import io

import pytest
from rich.console import Console

from trainer import progress, tables
from trainer.progress import Reporter


@pytest.mark.parametrize("terminal", [False, True], ids=["log", "terminal"])
def test_a_log_gets_a_line_now_and_then_and_a_terminal_its_bar_alone(monkeypatch, terminal):
    monkeypatch.setattr(progress, "TOLD_EVERY", -1.0)
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=120, force_terminal=terminal))
    with reporter.step("train", 2_000) as advance:
        advance(1_000, "loss 0.5")
    lines = out.getvalue().splitlines()
    assert any("train 1,000 of 2,000 0:00:00 loss 0.5" in line for line in lines) is not terminal


def test_a_log_is_not_flooded():
    out = io.StringIO()
    with Reporter(Console(file=out, width=120)).step("train", 1_000) as advance:
        for done in range(1_000):
            advance(done, "")
    assert len(out.getvalue().splitlines()) == 1


def test_brackets_are_no_markup():
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=120))
    reporter.say("runs/[mine]/bundle: column 'price [/kg]'")
    table = tables.figures_table("test", ["", "seen [bold]"])
    tables.add_row(table, ["history-mean+evaluate.cutoffs=[5]", "[/]"])
    reporter.console.print(table)
    for text in ("runs/[mine]/bundle: column 'price [/kg]'", "seen [bold]", "cutoffs=[5]", "[/]"):
        assert text in out.getvalue()


def test_where_there_is_no_room_names_fold_and_figures_stay_whole():
    console = Console(file=io.StringIO(), width=40)
    table = tables.figures_table("test", ["", "recall@10", "NDCG@10"])
    tables.add_row(table, ["history-mean+retrieval.encoder.name=attention", "0.9423 ▲", "0.8397 ▲"])
    console.print(table)
    for text in ("recall@10", "NDCG@10", "0.9423 ▲", "0.8397 ▲", "history-mean"):
        assert text in console.file.getvalue()


def test_a_bar_in_a_name_parts_no_cells_in_markdown():
    text = tables.markdown(["", "NDCG@10"], [["a|b", "0.5"], ["c", ""]])
    assert text.splitlines() == ["|  | NDCG@10 |", "| --- | ---: |", r"| a\|b | 0.5 |", "| c |  |"]
