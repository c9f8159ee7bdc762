"""Questions that curation found in the sources of the corpus."""

import json
from pathlib import Path

import pytest

from evaluation.contamination import read_contamination
from evaluation.main import main
from meditron.config import Recipe
from meditron.errors import InputError
from tests.evaluation.conftest import medqa_record, write_lines


def report(path: Path, *texts: str) -> Path:
    return write_lines(path, [{"benchmark": "x", "item": "y", "benchmark_text": text} for text in texts])


def test_questions_and_contexts_are_recognised_by_their_beginning(tmp_path: Path) -> None:
    long = "A 40-year-old man, BP <90/60, " * 20
    found = read_contamination(report(tmp_path / "c.jsonl", long[:300], "Which  drug?", "Mortality fell."))
    assert found.has({"question": long + "Which drug?", "context": ""})
    assert found.has({"question": "Which drug?", "context": ""})
    assert found.has({"question": "Does it help?", "context": "In 20 patients.\nMortality fell."})
    assert not found.has({"question": "Which drug", "context": "In 20 patients."})
    assert not found.has({"question": long[1:], "context": ""})
    spaced = read_contamination(report(tmp_path / "d.jsonl", (" " * 120 + long)[:300]))
    assert spaced.has({"question": long, "context": ""})
    assert spaced.has({"question": " " * 120 + long, "context": ""})
    assert not spaced.has({"question": long[:90], "context": ""})


def test_accuracy_is_also_given_without_them(recipe: Recipe) -> None:
    corpus = Path(str(recipe.curate.output))
    corpus.mkdir(parents=True)
    report(corpus / "contamination.jsonl", *(medqa_record(number)["question"] for number in (1, 4, 5)))
    recipe.evaluate.protocols = ["letter"]
    main(recipe)
    output = Path(str(recipe.evaluate.output)) / "base"
    entries = {e["task"]: e for e in json.loads((output / "results.json").read_text())["tasks"]}
    samples = [json.loads(line) for line in (output / "samples-medqa-letter.jsonl").read_text().splitlines()]
    assert [sample["contaminated"] for sample in samples] == [n in (1, 4, 5) for n in range(8)]
    found = entries["medqa"]["contamination"]
    assert (found["flagged"]["n"], found["clean"]["n"]) == (3, 5)
    assert found["flagged"]["correct"] + found["clean"]["correct"] == entries["medqa"]["correct"]
    assert entries["mmlu"]["contamination"]["flagged"] is None
    report(corpus / "contamination.jsonl", medqa_record(1)["question"])
    main(recipe)  # another report makes other results
    entries = {e["task"]: e for e in json.loads((output / "results.json").read_text())["tasks"]}
    assert entries["medqa"]["contamination"]["flagged"]["n"] == 1


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: no such file; correct evaluate\.contamination"):
        read_contamination(tmp_path / "none.jsonl")
    for content in ("not JSON\n", '{"id": 1}\n', "[1]\n"):
        (tmp_path / "bad.jsonl").write_text(content)
        with pytest.raises(InputError, match="not a report of `meditron curate`"):
            read_contamination(tmp_path / "bad.jsonl")
