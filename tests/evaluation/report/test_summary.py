import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from evaluation.report.build import build
from evaluation.report.summary import Card, cards
from meditron.config import Recipe
from meditron.manifest import write_manifest

RecipeOf = Callable[[Path], Recipe]


def by_heading(recipe: Recipe) -> dict[str, Card]:
    return {card.heading: card for card in cards(build(recipe))}


def record_documents(folder: Path, factors: list[float]) -> None:
    """Add the losses of each held-out document: the source's own loss times a factor, 300 tokens each."""
    content = json.loads((folder / "results.json").read_text())
    for entry in content["perplexity"]:
        entry["document_losses"] = [[factor * entry["loss"] * 300, 300] for factor in factors]
    (folder / "results.json").write_text(json.dumps(content))
    write_manifest(folder, kind="results", config={}, inputs={}, counts={})


def test_before_and_after(work: Path, recipe_of: RecipeOf) -> None:
    found = by_heading(recipe_of(work))
    medical = found["Perplexity, held-out medical text"]
    assert (medical.before, medical.after) == ("25.8", "17.3")
    assert medical.text.replace("\N{NO-BREAK SPACE}", " ") == (
        "−33.0 % from base to pretrained; lower in 3 of 3 sources."
    )
    assert found["Accuracy: differences beyond chance"].after == "0 of 3"
    assert found["Pretraining"].after.replace("\N{NO-BREAK SPACE}", " ") == "246 k tokens"


def test_recorded_documents_give_an_interval_of_the_change(work: Path, recipe_of: RecipeOf) -> None:
    for label in ("base", "pretrained"):
        record_documents(work / "results" / label, [0.9, 1.0, 1.1])
    text = by_heading(recipe_of(work))["Perplexity, held-out medical text"].text
    assert "over the same 9 documents" in text
    assert "(95 % interval −3" in text


def test_one_model_alone_is_no_comparison(work: Path, recipe_of: RecipeOf) -> None:
    shutil.rmtree(work / "results" / "pretrained")
    found = by_heading(recipe_of(work))
    assert found["Perplexity, held-out general text"].before == ""
    assert "no other model was measured" in found["Perplexity, held-out general text"].text
    assert "Accuracy: differences beyond chance" not in found


def test_without_evaluation_the_validations_of_the_training_speak(work: Path, recipe_of: RecipeOf) -> None:
    shutil.rmtree(work / "results")
    general = by_heading(recipe_of(work))["Perplexity, held-out general text"]
    assert general.before == f"{math.exp(3.55 - 0.05 * (1 - math.exp(-20 / 50))):.1f}"
    assert "during pretraining" in general.text
    assert "there is no evaluation" in general.text


def test_an_empty_run_has_no_card(tmp_path: Path, recipe_of: RecipeOf) -> None:
    assert cards(build(recipe_of(tmp_path))) == []
