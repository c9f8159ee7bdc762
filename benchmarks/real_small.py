"""The whole way on real documents: `meditron run` with configs/real-small.yaml, and the numbers it gave.

Usage: python benchmarks/real_small.py DATA WORK_DIR [--set.option VALUE ...]
    DATA      folder laid out as the head of configs/real-small.yaml says
    WORK_DIR  folder of the run; a killed run goes on when started again
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "real-small.yaml"
HELD_OUT_EVERY = 12
"""One question in so many is for validation."""


def write_instructions(data: Path, work: Path) -> Path:
    """PubMedQA's questions outside its test set, as conversations, in a folder that links to the rest."""
    root = work / "data"
    root.mkdir(parents=True, exist_ok=True)
    for folder in data.iterdir():
        link = root / folder.name
        if not link.exists():
            link.symlink_to(folder.resolve())
    questions = json.loads((data / "pubmedqa" / "ori_pqal.json").read_text())
    test = json.loads((data / "pubmedqa" / "test_ground_truth.json").read_text())
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    for number, (name, record) in enumerate(sorted(questions.items())):
        if name not in test:
            split = "validation" if number % HELD_OUT_EVERY == 0 else "train"
            lines[split].append(json.dumps(conversation(record)))
    (root / "instructions").mkdir(exist_ok=True)
    for split, texts in lines.items():
        (root / "instructions" / f"pubmedqa-{split}.jsonl").write_text("\n".join(texts) + "\n")
    return root


def conversation(record: dict[str, Any]) -> dict[str, Any]:
    context = "\n".join(record["CONTEXTS"])
    answer = f"{record['final_decision'].capitalize()}. {record['LONG_ANSWER']}"
    return {
        "messages": [
            {"role": "user", "content": f"{context}\n\n{record['QUESTION']}"},
            {"role": "assistant", "content": answer},
        ]
    }


def rows(work: Path) -> None:
    """Markdown of what the run left."""
    corpus = json.loads((work / "corpus" / "stats.json").read_text())["sources"]
    tokens = json.loads((work / "shards" / "tokens.json").read_text())["sources"]
    print("| source | kind | documents | kept | train tokens | validation tokens |")
    print("|---|---|---|---|---|---|")
    for name, source in corpus.items():
        own = tokens[name]
        counts = (source["read"], source["kept"], own["train_tokens"], own["validation_tokens"])
        print(f"| {name} | {source['kind']} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    print_validation(work, corpus)
    print_results(work)
    stages = json.loads((work / "run.json").read_text())["stages"]
    print("\n| stage | seconds |\n|---|---|")
    for name, stage in stages.items():
        print(f"| {name} | {stage['seconds']:,.0f} |")


def print_validation(work: Path, corpus: dict[str, Any]) -> None:
    log = [json.loads(line) for line in (work / "pretrain" / "log.jsonl").read_text().splitlines()]
    found = {(r["step"], r["source"]): r for r in log if r["event"] == "validation"}
    steps = sorted({step for step, _ in found})
    print("\n| validation perplexity | " + " | ".join(f"step {step}" for step in steps) + " |")
    print("|---|" + "---|" * len(steps))
    for source in corpus:
        if (steps[0], source) in found:
            values = " | ".join(f"{found[step, source]['perplexity']:.2f}" for step in steps)
            print(f"| {source} ({corpus[source]['kind']}) | {values} |")


def print_results(work: Path) -> None:
    print(
        "\n| model | task | protocol | n | accuracy | 95 % interval | chance |\n|---|---|---|---|---|---|---|"
    )
    for file in sorted(work.glob("results/*/results.json")):
        for task in json.loads(file.read_text())["tasks"]:
            low, high = task["ci"]
            shown = f"{task['n']} | {task['accuracy']:.1%} | {low:.1%} to {high:.1%} | {task['chance']:.0%}"
            print(f"| {file.parent.name} | {task['task']} | {task['protocol']} | {shown} |")


def main() -> None:
    data, work = Path(sys.argv[1]), Path(sys.argv[2])
    root = write_instructions(data, work)
    command = [sys.executable, "-m", "meditron", "run", "--config", str(RECIPE)]
    command += ["--data_root", str(root), "--work_dir", str(work), *sys.argv[3:]]
    subprocess.run(command, check=True)
    rows(work)


if __name__ == "__main__":
    main()
