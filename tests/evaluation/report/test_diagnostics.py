"""What explains an accuracy, on the page and in its JSON."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.report.compare import Score, compare_accuracies
from evaluation.report.diagnostics import diagnose, reliability_plot
from evaluation.report.main import main
from evaluation.statistics import paired_difference
from meditron.config import Recipe


def test_an_entry_without_diagnostics_leaves_all_open() -> None:
    found = diagnose({"accuracy": 0.5})
    assert (found.ece, found.consistent, found.std, found.flagged, found.clean) == (None,) * 5
    assert (found.orders, list(found.chosen), list(found.lengths)) == (1, [], [])
    assert reliability_plot("medqa, letter", {"base": found}, ["base"]) is None


def test_the_reliability_diagram_has_each_model_and_the_diagonal() -> None:
    bins = [
        {"from": 0.2, "n": 8, "confidence": 0.25, "accuracy": 0.5},
        {"from": 0.8, "n": 2, "confidence": 0.85, "accuracy": 0.5},
    ]
    models = {label: diagnose({"calibration": {"ece": 0.25, "bins": bins}}) for label in ("base", "tuned")}
    plot = reliability_plot("medqa, letter", models, ["base", "tuned"])
    assert plot is not None
    assert [line.name for line in plot.lines] == ["as sure as right", "base", "tuned"]
    assert plot.lines[0].path == "0.0,1000.0 1000.0,56.6"
    assert [label.name for label in plot.labels] == ["base", "tuned"]


def test_the_difference_has_its_own_interval() -> None:
    before = {str(number): number % 3 == 0 for number in range(90)}
    after = {key: right or int(key) % 5 == 0 for key, right in before.items()}
    scores = [Score(value=sum(own.values()) / 90, bounds=None, count=90) for own in (before, after)]
    change = compare_accuracies(*scores, before, after)
    expected = paired_difference(list(before.values()), list(after.values()), 10_000, 1234)
    assert expected is not None
    assert change.paired == pytest.approx((100 * expected[0], 100 * expected[1]))
    assert change.paired is not None
    assert change.paired[0] < change.difference < change.paired[1]
    often = {key: 2 / 3 if right else 0.0 for key, right in after.items()}  # of three seeds
    seldom = compare_accuracies(*scores, before, often)
    assert (seldom.gained, seldom.lost) == (change.gained, sum(before.values()))
    assert seldom.paired is not None
    assert seldom.paired[1] < change.paired[1]
    unpaired = compare_accuracies(*scores, before, {**after, "x": True})
    assert unpaired.paired is None


def test_the_page_shows_them(work: Path, recipe_of: Callable[[Path], Recipe]) -> None:
    main(recipe_of(work))
    page = (work / "report.html").read_text()
    start = page.index('id="diagnostics"')
    text = " ".join(re.sub("<[^>]+>", " ", page[start : page.index("</details>", start)]).split())
    assert "70/10/10/10 over 4 orders" in text
    assert "12.5 % 25.0 % right" in text
    assert "std 3.1 %" in text
    assert "of 3 none" in text
    assert "one order" in text
    assert "as sure as right" in page
    accuracy = json.loads((work / "report.json").read_text())["accuracy"]
    assert accuracy[0]["diagnoses"]["base"]["orders"] == 4
    assert 0 <= accuracy[1]["diagnoses"]["base"]["ece"] <= 1
    change = accuracy[0]["changes"]["pretrained"]
    assert change["paired"][0] <= change["difference"] <= change["paired"][1]
    header, *rows = (work / "report.csv").read_text().splitlines()
    changed = next(
        dict(zip(header.split(","), row.split(","), strict=True))
        for row in rows
        if "medqa" in row and "pretrained" in row
    )
    assert float(changed["change_low"]) == pytest.approx(change["paired"][0])
