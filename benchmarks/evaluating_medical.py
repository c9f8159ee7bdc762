"""A model on all medical questions there are: MMLU's medical subjects, MedQA dev, PubMedQA test.

Usage: python benchmarks/evaluating_medical.py MODEL DATA WORK_DIR [--evaluate.option VALUE ...]
    MODEL      Hugging Face folder
    DATA       folder with `medqa/`, `mmlu/` and `pubmedqa/` (the files of `docs/evaluating.md`)
    WORK_DIR   folder of the results; a killed run goes on when started again

Prints the accuracies as a Markdown table. Both ways of asking are shown, because a small model that cannot
choose a letter may still find the right answer likelier than the others.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TASKS: dict[str, dict[str, Any]] = {
    "mmlu-medical": {"format": "mmlu", "path": "mmlu", "subjects": ["medical-6"]},
    "medqa-dev": {"format": "medqa", "path": "medqa/us_dev_and_train_subset/medqa_full_dev.json"},
    "pubmedqa-test": {
        "format": "pubmedqa",
        "path": "pubmedqa/ori_pqal.json",
        "ground_truth": "pubmedqa/test_ground_truth.json",
    },
}


def recipe(model: str, data: str, work: str) -> dict[str, Any]:
    evaluate = {
        "models": {"model": model},
        "tasks": TASKS,
        "protocols": ["letter", "answer"],
        "perplexity": {"enabled": False},
    }
    return {"work_dir": work, "data_root": data, "evaluate": evaluate}


def rows(work: Path) -> Iterator[str]:
    """Markdown of what the run left."""
    content = json.loads((work / "results" / "model" / "results.json").read_text())
    yield f"Device {content['device']}, {content['dtype']}, {content['seconds']:,.0f} s."
    yield ""
    yield "| task | subject | protocol | hash | questions | right, % | 95 % interval | chance, % | ECE, % |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for entry in content["tasks"]:
        yield row(entry["task"], "all", entry, entry)
        if entry["task"].startswith("mmlu"):
            for subject, own in entry["subjects"].items():
                yield row("", subject, entry, own)


def row(task: str, subject: str, entry: dict[str, Any], own: dict[str, Any]) -> str:
    low, high = own["ci"]
    error = f"{100 * own['calibration']['ece']:.1f}" if "calibration" in own else ""
    cells = [
        *(task, subject, entry["protocol"], entry["protocol_hash"], f"{own['n']:,}"),
        *(f"{100 * own['accuracy']:.1f}", f"{100 * low:.1f} - {100 * high:.1f}"),
        *(f"{100 * entry['chance']:.1f}", error),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    model, data, work, *options = sys.argv[1:]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(recipe(model, data, work), file)
        file.flush()
        command = [sys.executable, "-m", "meditron", "evaluate", "--config", file.name, *options]
        code = subprocess.run(command, check=False).returncode
    if code == 0:
        print("\n".join(rows(Path(work))))
    return code


if __name__ == "__main__":
    sys.exit(main())
