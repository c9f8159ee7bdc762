"""`meditron report`: what a run's stages left on disk, as one HTML page, and its numbers as JSON and CSV."""

from pathlib import Path

from evaluation.report.build import build
from evaluation.report.render import render
from evaluation.report.tables import as_csv, as_json
from meditron.config import Recipe
from meditron.files import atomic_write_json, atomic_write_text
from meditron.progress import console


def main(recipe: Recipe) -> None:
    """Write a recipe's report; parts of the run that are missing or damaged are named on it.

    Raises:
        DiskFullError: the page does not fit.
    """
    assert recipe.report.output is not None, "resolve() fills the paths"
    output = Path(recipe.report.output)
    page = build(recipe)
    html = render(page, output)
    atomic_write_json(output.with_suffix(".json"), as_json(page))
    atomic_write_text(output.with_suffix(".csv"), as_csv(page))
    atomic_write_text(output, html)
    for note in page.notes.found:
        console().print(f"report: {note.part}: {note.text}", markup=False, soft_wrap=True)
    print(output)
