"""Evaluation on several processes: the same results, and errors that are said once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.main import main
from meditron.config import Recipe, resolve
from meditron.config.loading import dump_recipe
from tests.evaluation.conftest import (
    TaskConfig,
    make_model,
    make_tokenizer,
    medqa_record,
    write_corpus,
    write_lines,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    model = make_model(tmp_path / "tiny", initializer_range=0.3, max_position_embeddings=512)
    make_tokenizer(model, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(number) for number in range(10)])
    recipe = Recipe(work_dir=str(tmp_path), data_root=str(tmp_path))
    evaluate = recipe.evaluate
    evaluate.models = {"base": str(model)}
    evaluate.tasks = {"medqa": TaskConfig(format="medqa", path="medqa.jsonl")}
    evaluate.protocols = ["letter", "answer", "generate"]
    evaluate.generation.max_tokens, evaluate.device = 6, "cpu"
    evaluate.perplexity.corpus = str(write_corpus(tmp_path / "held-out"))
    return resolve(recipe)


def run(recipe: Recipe, name: str, nproc: int) -> "subprocess.CompletedProcess[str]":
    """`meditron evaluate` with another results folder."""
    file = Path(recipe.work_dir) / f"{name}.yaml"
    recipe.evaluate.output, recipe.evaluate.nproc = str(Path(recipe.work_dir) / name), nproc
    file.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "meditron", "evaluate", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)


def content(recipe: Recipe, name: str) -> dict[str, Any]:
    found = json.loads((Path(recipe.work_dir) / name / "base" / "results.json").read_text())
    assert isinstance(found, dict)
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for mine, its in zip(one["tasks"], other["tasks"], strict=True):
        for key in ("task", "protocol", "protocol_hash", "correct", "ci", "invalid"):
            assert mine[key] == its[key]
    for mine, its in zip(one["perplexity"], other["perplexity"], strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], abs=1e-6)


def cut_short(file: Path, cache: Path) -> int:
    """Copy what a kill could have left of a file of answers: half of them, and a part of the next one."""
    lines = file.read_text().splitlines(keepends=True)
    kept = len(lines) // 2
    copy = cache / file.parent.name / file.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text("".join(lines[:kept]) + lines[kept][:20])
    return kept


def test_two_processes_give_the_results_of_one_which_goes_on_where_they_were_killed(recipe: Recipe) -> None:
    done = run(recipe, "two", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy in %") == 1
    recipe.evaluate.output, recipe.evaluate.nproc = str(Path(recipe.work_dir) / "one"), 1
    main(recipe)
    one, two = content(recipe, "one"), content(recipe, "two")
    assert_same(one, two)
    caches = sorted((Path(recipe.work_dir) / "two.cache").glob("*/answers-*.jsonl"))
    lines = [len(file.read_text().splitlines()) for file in caches]
    assert len(lines) == 2
    assert min(lines) > sum(lines) / 4
    assert sum(lines) == one["answers"]["computed"]
    again = Path(recipe.work_dir) / "again"
    kept = sum(cut_short(file, Path(f"{again}.cache")) for file in caches)
    recipe.evaluate.output = str(again)
    main(recipe)
    assert content(recipe, "again")["answers"]["computed"] == sum(lines) - kept
    assert_same(one, content(recipe, "again"))


def test_an_error_is_one_sentence(recipe: Recipe) -> None:
    (Path(str(recipe.data_root)) / "medqa.jsonl").write_text("no questions\n")
    done = run(recipe, "wrong", 2)
    assert done.returncode == 3
    assert done.stderr.count("holds no usable question") == 1
    assert "Traceback" not in done.stderr
