"""What curation counted stands in the report: survival, removals, published rules, identifiers."""

import json
import re
from pathlib import Path

import pytest

from data_curation.curate import main as curate
from evaluation.report.main import main as report
from meditron.config import CleanConfig, CurateConfig, FilterConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve

TEXT = (
    "Give {n} mg of aspirin if BP is <140 mmHg, and measure the HbA1c (>7%) of those that have diabetes. "
    "See https://x.org/{n} or write to a{n}@clinic.org about the genotype {{A, B}} that was found with it, "
    "which two of the seven centres had not been told of before they were asked to enter their results here."
)


@pytest.fixture
def page(tmp_path: Path) -> str:
    lines = [json.dumps({"id": str(n), "text": TEXT.format(n=n)}) for n in range(5)]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    config = CurateConfig(
        sources={"notes": SourceConfig(path="notes.jsonl", reader="jsonl")},
        clean=CleanConfig(audit=True),
        filters=FilterConfig(quality="medical"),
    )
    config.dedup.near = False
    recipe = resolve(Recipe(work_dir=str(tmp_path / "work"), data_root=str(tmp_path), curate=config))
    curate(recipe)
    report(recipe)
    return Path(str(recipe.report.output)).read_text(encoding="utf-8")


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """First cell to the others, of the table under a heading."""
    table = page.split(f"<h3>{heading}</h3>")[1].split("</table>")[0]
    cells = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tbody>")[1].split("</tr>")
    ]
    return {row[0]: row[1:] for row in cells if row}


def test_survival_and_removals_are_shown_by_rule_and_source(page: str) -> None:
    removed = rows(page, "Taken out of kept documents, by rule")
    assert removed == {"urls": ["5", "75", "5"]}
    (survived,) = rows(page, "Numbers, comparators and units through cleaning").values()
    assert survived[1:] == ["5", "0", "100.000\xa0%"]


def test_what_published_rules_and_patterns_found_is_shown_without_showing_it(page: str) -> None:
    heading = "Let pass, though the rules for general web text would have dropped them"
    assert rows(page, heading) == {"c4: braces": ["5", "5"]}
    assert rows(page, "Passages that may identify a person, by class") == {"EMAIL": ["5", "5"]}
    excerpts = page.split("Excerpts of what was dropped, removed or found")[1]
    assert "write to [EMAIL] about" in excerpts.split("phi: EMAIL")[1]


def test_the_cost_of_each_step_is_shown(page: str) -> None:
    table = page.split("What each step of curating cost")[1].split("</table>")[0]
    steps = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td[^>]*>([\d.]+)</td>", table)
    assert {f"{stage}: {step}" for stage, step, _ in steps} >= {"extract: clean", "publish: publish chunk"}
    assert all(float(seconds) >= 0 for *_, seconds in steps)
