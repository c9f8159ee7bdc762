"""Evaluation in parts on several machines, and what joins them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.main import main
from evaluation.team import join
from meditron.config import EvaluateConfig, GenerationConfig, Recipe
from meditron.errors import ConfigError


def results(recipe: Recipe) -> dict[str, Any]:
    found = json.loads((Path(str(recipe.evaluate.output)) / "base" / "results.json").read_text())
    assert isinstance(found, dict)
    return found


def predictions(recipe: Recipe) -> dict[str, list[Any]]:
    """File to what the model chose for each of its questions."""
    folder = Path(str(recipe.evaluate.output)) / "base"
    return {
        path.name: [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
        for path in folder.glob("samples-*.jsonl")
    }


def test_parts_and_what_joins_them_give_the_results_of_one(recipe: Recipe, tmp_path: Path) -> None:
    protocols, generation = ["letter", "answer", "generate"], GenerationConfig(max_tokens=4)
    recipe.evaluate = replace(recipe.evaluate, protocols=protocols, generation=generation)
    main(recipe)
    joined = replace(recipe, evaluate=replace(recipe.evaluate, output=str(tmp_path / "joined")))
    for part in (2, 0, 1):
        main(replace(joined, evaluate=replace(joined.evaluate, part=part, parts=3)))
    assert not (tmp_path / "joined").exists()
    shares = [path.read_text().count("\n") for path in sorted((tmp_path / "joined.cache").glob("*/*.jsonl"))]
    assert len(shares) == 3
    assert min(shares) > sum(shares) / 6
    main(joined)
    assert results(joined)["answers"]["computed"] == 0
    assert predictions(joined) == predictions(recipe)
    for one, other in zip(results(recipe)["tasks"], results(joined)["tasks"], strict=True):
        for key in ("task", "protocol", "protocol_hash", "n", "correct", "accuracy", "ci", "invalid"):
            assert one[key] == other[key]
    for one, other in zip(results(recipe)["perplexity"], results(joined)["perplexity"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)


def test_processes_of_a_part_have_shares_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for part in range(3):
        for rank in range(2):
            monkeypatch.setenv("RANK", str(rank))
            team = join(part, 3)
            assert not team.leads
            found += team.share([1] * 30)
    assert found == list(range(30))


def test_a_part_is_one_of_the_parts() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.part: 2 must be from 0 to 1"):
        EvaluateConfig(part=2, parts=2)
    with pytest.raises(ConfigError, match=r"evaluate\.parts: 0 must be at least 1"):
        EvaluateConfig(parts=0)
    with pytest.raises(ConfigError, match=r"evaluate\.parts: 4 needs evaluate\.part"):
        EvaluateConfig(parts=4)
