"""The table and the picture of a comparison."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from trainer import compare_report


def metric(mean, verdict=None, deviation=0.01, best_reachable=None):
    return {
        "mean": mean,
        "deviation": deviation,
        "values": [mean - 0.01, mean + 0.01],
        "interval": [mean - 0.05, mean + 0.05],
        "against": {"verdict": verdict} if verdict else None,
        "best_reachable": best_reachable,
    }


def row(name, metrics, baseline=False):
    return {"name": name, "baseline": baseline, "metrics": metrics, "seconds": 2.25, "parameters": 1_000}


ROWS = [
    row("low", {"ndcg@10": metric(0.1, "worse", best_reachable=0.9), "recall@10": metric(0.5, "unsure")}),
    row("high", {"ndcg@10": metric(0.3, "better", None), "recall@10": metric(0.4, "unsure")}),
    row("popularity", {"ndcg@10": metric(0.05), "recall@10": metric(0.1)}, baseline=True),
    row("ease", {"ndcg@10": metric(0.2), "recall@10": metric(0.45)}, baseline=True),
]


def test_rows_are_sorted_and_only_the_best_baseline_is_shown():
    assert [row["name"] for row in compare_report.best_first(ROWS)] == ["high", "ease", "low"]


def test_errors_are_sorted_upwards():
    rows = [row("worse", {"rmse": metric(0.9)}), row("better", {"rmse": metric(0.8)})]
    assert [row["name"] for row in compare_report.best_first(rows)] == ["better", "worse"]
    baselines = [row | {"baseline": True} for row in rows]
    assert compare_report.leader(baselines, "rmse") == "better"


def test_the_table():
    lines = compare_report.markdown(compare_report.best_first(ROWS)).splitlines()
    assert lines[:6] == [
        "|  | recall@10 | NDCG@10 | seconds | weights |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| high | 0.4000 ± 0.0100 ≈ | 0.3000 ▲ | 2.2 | 1,000 |",
        "| *ease* | 0.4500 ± 0.0100 | 0.2000 ± 0.0100 | 2.2 |  |",
        "| low | 0.5000 ± 0.0100 ≈ | 0.1000 ± 0.0100 ▼ | 2.2 | 1,000 |",
        "| *best reachable* |  | 0.9000 |  |  |",
    ]


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_every_figure_whole(width, tmp_path):
    screen = io.StringIO()
    compare_report.write(ROWS, tmp_path, Console(file=screen, width=width))
    assert "0.3000 ▲" in screen.getvalue()
    assert ("0.1000 ± 0.0100 ▼" in screen.getvalue()) == (width == 160)
    assert json.loads((tmp_path / "compare.json").read_text()) == ROWS


def test_the_picture_has_a_bar_a_figure_in_the_colour_of_its_mark(tmp_path):
    from matplotlib import image
    from matplotlib.colors import to_rgb

    compare_report.picture(compare_report.best_first(ROWS), tmp_path / "compare.png")
    pixels = np.round(255 * image.imread(tmp_path / "compare.png")[..., :3]).reshape(-1, 3)

    def area(colour):
        return (np.abs(pixels - 255 * np.array(to_rgb(colour))).max(1) <= 1).sum()

    areas = {name: area(colour) for name, colour in compare_report.COLOURS.items()}
    assert areas["better"] > areas["worse"] > 1_000  # NDCG .3 and .1
    assert areas["unsure"] > areas["better"]  # recall .5 and .4
    assert areas[None] < 100
    assert area(compare_report.GREY) > 1_000
    assert list(tmp_path.iterdir()) == [tmp_path / "compare.png"]


def test_a_picture_without_baselines(tmp_path):
    compare_report.picture([row("only", {"rmse": metric(0.8)})], tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 5_000
