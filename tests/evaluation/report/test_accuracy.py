"""What stands beside an accuracy: on the page, in its JSON and in its CSV."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluation.report.main import main
from meditron.config import Recipe
from meditron.manifest import write_manifest

RecipeOf = Callable[[Path], Recipe]


def change_entries(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the tasks of a model's results."""
    content = json.loads((folder / "results.json").read_text())
    change(content["tasks"])
    (folder / "results.json").write_text(json.dumps(content))
    write_manifest(folder, kind="results", config={}, inputs={}, counts={})


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", html).split())


def section(work: Path) -> str:
    """The words of the page's section on evaluation."""
    page = (work / "report.html").read_text()
    return text_of(page[page.index('<section id="evaluation">') : page.index('<section id="questions">')])


def csv_rows(work: Path, name: str, protocol: str) -> list[dict[str, str]]:
    with open(work / "report.csv", newline="") as handle:
        return [row for row in csv.DictReader(handle) if (row["name"], row["protocol"]) == (name, protocol)]


def test_ties_of_a_vote_are_stated(work: Path, recipe_of: RecipeOf) -> None:
    def vote(tasks: list[dict[str, Any]]) -> None:
        tasks[0]["ties"], tasks[1]["ties"] = 7, 0

    change_entries(work / "results" / "base", vote)
    main(recipe_of(work))
    assert "7 tied" in section(work)
    assert "0 tied" in section(work)
    assert [row["ties"] for row in csv_rows(work, "medqa", "letter")] == ["7", ""]
    assert json.loads((work / "report.json").read_text())["accuracy"][0]["scores"]["base"]["ties"] == 7
