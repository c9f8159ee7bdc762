"""A tiny Llama, question files in every form, and a corpus, made on the spot."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meditron.config import EvaluateConfig, PerplexityConfig, Recipe, TaskConfig, resolve
from meditron.manifest import write_manifest
from tests.finetune.conftest import make_model, make_tokenizer

DRUGS = ["ramipril", "adrenaline", "metformin", "amlodipine", "salbutamol", "oxytocin"]
CONDITIONS = ["heart failure", "anaphylaxis", "diabetes", "hypertension", "asthma", "labour"]


def medqa_record(number: int) -> dict[str, Any]:
    """A question whose right option is never in the same place twice in a row."""
    right = number % 4
    options = [DRUGS[(number + shift) % 6] for shift in range(4)]
    condition = CONDITIONS[(number + right) % 6]
    return {
        "question": f"Patient {number} has {condition}, BP <{100 + number}/60. Which drug?",
        "answer": options[right],
        "options": dict(zip("ABCD", options, strict=True)),
        "meta_info": f"step{number % 2 + 1}",
        "answer_idx": "ABCD"[right],
    }


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def write_pubmedqa(folder: Path, labels: list[str]) -> None:
    records = {
        str(1000 + number): {
            "QUESTION": f"Does {DRUGS[number % 6]} help in {CONDITIONS[number % 6]}?",
            "CONTEXTS": [f"In {number + 20} patients it was tried.", "Mortality fell (p <0.05)."],
            "final_decision": label,
            "LONG_ANSWER": "It does.",
        }
        for number, label in enumerate(labels)
    }
    (folder / "pubmedqa.json").write_text(json.dumps(records))
    truth = {name: record["final_decision"] for name, record in list(records.items())[: len(labels) - 2]}
    (folder / "pubmedqa_ground_truth.json").write_text(json.dumps(truth))


def write_mmlu(folder: Path, split: str, subjects: list[str], count: int) -> None:
    (folder / "mmlu" / split).mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        rows = [
            f'"{split} {subject} {number}, which?",{",".join(DRUGS[:4])},{"ABCD"[number % 4]}\n'
            for number in range(count)
        ]
        (folder / "mmlu" / split / f"{subject}_{split}.csv").write_text("".join(rows))


def write_corpus(folder: Path) -> Path:
    """A corpus of two sources as `curate` leaves it, as far as evaluation reads it."""
    sources = {"articles": "medical", "essays": "general"}
    (folder / "validation").mkdir(parents=True)
    for source in sources:
        texts = [f"What lowers HbA1c in {source}? " * (3 + 4 * number) for number in range(4)]
        table = pa.table({"id": [f"{n}" for n in range(4)], "text": texts})
        pq.write_table(table, folder / "validation" / f"{source}-00000.parquet")
    (folder / "stats.json").write_text(json.dumps({"sources": {n: {"kind": k} for n, k in sources.items()}}))
    write_manifest(folder, kind="corpus", config={}, inputs={}, counts={}, licenses={"articles": "CC0-1.0"})
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("model"), initializer_range=0.3, max_position_embeddings=512)
    make_tokenizer(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return folder


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Path) -> Recipe:
    """One model, three forms of questions, both protocols, and perplexity of two sources."""
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(number) for number in range(8)])
    write_pubmedqa(tmp_path, ["yes", "no", "maybe", "yes", "no", "maybe"])
    write_mmlu(tmp_path, "test", ["anatomy", "virology"], 3)
    write_mmlu(tmp_path, "dev", ["anatomy", "virology"], 5)
    recipe = Recipe(work_dir=str(tmp_path), data_root=str(tmp_path))
    truth = "pubmedqa_ground_truth.json"
    recipe.evaluate = EvaluateConfig(
        models={"base": str(model_folder)},
        tasks={
            "medqa": TaskConfig(format="medqa", path="medqa.jsonl"),
            "pubmedqa": TaskConfig(format="pubmedqa", path="pubmedqa.json", ground_truth=truth),
            "mmlu": TaskConfig(format="mmlu", path="mmlu", subjects=["anatomy", "virology"], shots=2),
        },
        perplexity=PerplexityConfig(corpus=str(write_corpus(tmp_path / "held-out")), window=64),
        device="cpu",
    )
    return resolve(recipe)
