"""Long inputs on the page: hidden facts by length and depth, perplexity by window."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.report.build import build
from evaluation.report.long_plots import heat_map, long_plots
from evaluation.report.main import main
from meditron.config import Recipe
from meditron.manifest import write_manifest
from tests.evaluation.report.conftest import write_results

LENGTHS = (512, 4096)


def place(length: int, part: int, correct: int) -> dict[str, Any]:
    share = correct / 4
    figures = {"n": 4, "correct": correct, "accuracy": share, "ci": [share / 2, share]}
    return {"length": length, "depth": [part / 5, (part + 1) / 5], **figures}


def context(window: int, perplexity: float) -> dict[str, Any]:
    return {"context": window, "documents": 2, "tokens": 9000, "loss": 1.0, "perplexity": perplexity}


@pytest.fixture
def long_run(tmp_path: Path) -> Path:
    """Two models: the first finds facts in short texts alone and has half of the context."""
    for label, longest in (("base", 512), ("pretrained", 4096)):
        write_results(tmp_path / "results", label, accuracy_seed=1, gain=0.0)
        folder = tmp_path / "results" / label
        content = json.loads((folder / "results.json").read_text())
        content["tasks"][0]["by_place"] = [
            place(length, part, 4 if length <= longest else part) for length in LENGTHS for part in (0, 2)
        ]
        windows = [window for window in (256, 512, 4096) if window <= longest]
        content["perplexity"][0]["by_context"] = [context(window, 20 - window / 500) for window in windows]
        (folder / "results.json").write_text(json.dumps(content))
        write_manifest(folder, kind="results", config={}, inputs={}, counts={})
    return tmp_path


def test_curves_and_cells_are_those_of_the_results(
    long_run: Path, recipe_of: Callable[[Path], Recipe]
) -> None:
    page = build(recipe_of(long_run))
    found, window = long_plots(page.tasks, page.perplexity, page.labels)
    assert [(s.name, s.points) for s in found.chart.series] == [
        ("base", [(512.0, 100.0), (4096.0, 25.0)]),
        ("pretrained", [(512.0, 100.0), (4096.0, 100.0)]),
    ]
    assert [tick.text for tick in found.x_ticks] == ["512", "4,096"]
    assert [len(series.points) for series in window.chart.series] == [2, 3]
    assert [tick.at for tick in window.x_ticks] == [0.0, 25.0, 100.0]  # 256, 512, 4096: two and eight times
    cells = heat_map(page.tasks[0]).cells["base"]
    assert cells[4096, (0.4, 0.6)].score.value == 0.5
    assert (4096, (0.2, 0.4)) not in cells


def test_the_page_has_them(long_run: Path, recipe_of: Callable[[Path], Recipe]) -> None:
    main(recipe_of(long_run))
    text = (long_run / "report.html").read_text()
    assert "hidden facts found" in text
    assert 'data-x-scale="log"' in text
    assert '<td class="n" style="--share:50%">' in text
    data = json.loads((long_run / "report.json").read_text())
    assert data["accuracy"][0]["places"]["base"][3]["score"]["correct"] == 2
    (row,) = (row for row in data["perplexity"] if row["contexts"])
    assert row["contexts"]["pretrained"][2][0] == 4096


def test_a_run_without_them_has_no_section(work: Path, recipe_of: Callable[[Path], Recipe]) -> None:
    main(recipe_of(work))
    assert "Long inputs" not in (work / "report.html").read_text()
