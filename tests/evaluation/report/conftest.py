"""A work folder as the stages leave it: a resumed pretraining, two models evaluated, no finetuning."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.statistics import diagnostics
from meditron.config import Recipe
from meditron.config.recipe import resolve
from meditron.manifest import write_manifest
from meditron.runs import RunFolder

SOURCES = {
    "articles": "medical",
    "abstracts": "medical",
    "guidelines_markdown": "medical",
    "essays": "general",
}
STEPS = 120
RESUMED_FROM = 80
KILLED_AFTER = 90
SKIPPED = 30
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
"""Text of a document that would run if it were not escaped."""


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def write_corpus(folder: Path) -> None:
    folder.mkdir(parents=True)
    sources = {}
    for index, (name, kind) in enumerate(SOURCES.items()):
        dropped = {"exact duplicate": index + 1, "too short": 2}
        sources[name] = {
            "kind": kind,
            "read": 103 + index * 20,
            "kept": 100 + index * 19 - 2,
            "train": 90 + index * 19 - 2,
            "validation": 10,
            "chars": 500_000 * (index + 1),
            "dropped": dropped,
            "quarantined": 2 if name == "abstracts" else 0,
            "license": "CC0-1.0",
            "licenses": {"CC0-1.0": 90, "https://creativecommons.org/licenses/by/4.0/": 8 + index * 19},
            "samples": [{"reason": "too short", "id": f"{name}/7", "excerpt": f"BP <140 mmHg & {HOSTILE}"}],
        }
    (folder / "stats.json").write_text(json.dumps({"sources": sources}))
    reason = "XML syntax error at line 1: <PMID> is not closed"
    bad = {"source": "abstracts", "file": "medline/trials.xml", "record": "article 3", "reason": reason}
    write_lines(folder / "quarantine.jsonl", [bad, bad])
    duplicate = {"id": "abstracts/9", "kept_id": "abstracts/2", "rule": "exact duplicate"}
    write_lines(
        folder / "duplicates.jsonl", [{**duplicate, "source": "abstracts", "kept_source": "abstracts"}]
    )
    write_manifest(folder, kind="corpus", config={}, inputs={"articles": "a" * 64}, counts={"kept": 400})


def write_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    sources = {
        name: {
            "kind": kind,
            "train_documents": 90,
            "train_tokens": 30_000 * (index + 1),
            "validation_documents": 10,
            "validation_tokens": 3_000 * (index + 1),
            "bytes": 66_000 * (index + 1),
        }
        for index, (name, kind) in enumerate(SOURCES.items())
    }
    table = {"sources": sources, "vocab_size": 49152, "eos_token_id": 0, "dtype": "uint16"}
    (folder / "tokens.json").write_text(json.dumps(table))
    write_manifest(folder, kind="shards", config={}, inputs={"corpus": "b" * 64}, counts={})


def step_record(step: int, noise: random.Random, loss_shift: float = 0.0) -> dict[str, Any]:
    loss: float | str = 2.4 + 1.1 * math.exp(-step / 40) + noise.gauss(0, 0.05) + loss_shift
    record: dict[str, Any] = {"event": "step", "step": step, "loss": loss, "grad_norm": 1 + noise.random()}
    if step == SKIPPED:
        record |= {"loss": "nan", "grad_norm": "inf", "skipped": True, "samples": [116, 120]}
    return record | {
        "lr": 2e-4 * min(step / 10, 0.5 + 0.5 * math.cos(math.pi * step / STEPS)),
        "tokens": step * 2048,
        "tokens_per_second": 130 + noise.gauss(0, 4),
        "flops_per_second": 1.05e11,
        "mfu": None,
        "peak_flops": None,
        "seconds": {"data": 0.01, "forward_backward": 13.2, "optimizer": 1.1, "checkpoint": 0.3},
        "memory_bytes": 2_400_000_000,
        "sources": {"articles": 0.3, "abstracts": 0.2, "guidelines_markdown": 0.2, "essays": 0.3},
    }


def write_training(folder: Path, steps: int = STEPS) -> None:
    noise = random.Random(7)
    parallel = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 2, "data_parallel_size": 1}
    batch = {"global_batch_size": 4, "sequence_length": 512}
    pretrain = {"engine": "megatron", "precision": "fp32", **batch, "parallel": parallel}
    launch = {"environment": {"WANDB_API_KEY": "hunter2"}}
    recipe = {"seed": 99, "model": {"base": "runs/base"}, "pretrain": pretrain, "launch": launch}
    run = RunFolder(folder).create(recipe, "pretrain")
    for step in range(1, KILLED_AFTER + 1):
        run.log(step_record(step, noise, loss_shift=9.0 if step > RESUMED_FROM else 0.0))
        if step % 20 == 0:
            write_validation(run, step)
    run.log({"event": "resume", "step": RESUMED_FROM, "path": "step_00000080"})
    for step in range(RESUMED_FROM + 1, steps + 1):
        run.log(step_record(step, noise))
        if step % 20 == 0:
            write_validation(run, step)
    run.mark("finished", step=steps)


def write_validation(run: RunFolder, step: int) -> None:
    for index, (source, kind) in enumerate(SOURCES.items()):
        gain = 0.5 if kind == "medical" else 0.05
        loss = 3.1 + 0.15 * index - gain * (1 - math.exp(-step / 50))
        record = {"source": source, "loss": loss, "perplexity": math.exp(loss), "tokens": 3000}
        run.log({"event": "validation", "step": step, **record})


def write_results(folder: Path, label: str, accuracy_seed: int, gain: float) -> None:
    target = folder / label
    target.mkdir(parents=True)
    tasks = [
        write_task(target, "medqa", "letter", 4, 60, accuracy_seed),
        write_task(target, "medqa", "answer", 4, 60, accuracy_seed + 1),
        write_task(target, "pubmedqa", "letter", 3, 30, accuracy_seed + 2),
    ]
    perplexity = []
    for index, (source, kind) in enumerate(SOURCES.items()):
        value = math.exp(3.1 + 0.15 * index - (gain if kind == "medical" else gain / 10))
        record = {"source": source, "kind": kind, "tokens": 3000, "documents": 10, "loss": math.log(value)}
        record["protocol_hash"] = "5e6f7a8b"
        perplexity.append({**record, "perplexity": value, "ci": [value * 0.95, value * 1.05]})
    model = {"label": label, "path": f"runs/{label}", "identity": "c" * 64, "parameters": 134_515_008}
    content = {"model": model, "tasks": tasks, "perplexity": perplexity, "seconds": 45.6, "device": "cpu"}
    (target / "results.json").write_text(json.dumps({**content, "dtype": "float32"}))
    write_manifest(target, kind="results", config={}, inputs={"model": "c" * 64}, counts={})


def write_task(folder: Path, task: str, protocol: str, options: int, n: int, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    samples = [write_sample(task, index, options, chance) for index in range(n)]
    correct = sum(sample["correct"] for sample in samples)
    write_lines(folder / f"samples-{task}-{protocol}.jsonl", samples)
    if (task, protocol) == ("medqa", "letter"):  # see `order_figures`
        write_lines(folder / f"samples-{task}-{protocol}-seed432.jsonl", samples)
    share = correct / n
    spread = 1.96 * math.sqrt(0.25 / n)
    scores = {"n": n, "correct": correct, "accuracy": share, "ci": [max(0, share - spread), share + spread]}
    halves = {name: {**scores, "n": n // 2} for name in ("anatomy", "clinical knowledge")}
    names = {"task": task, "group": None, "protocol": protocol, "protocol_hash": "1a2b3c4d"}
    return {
        **names,
        **scores,
        "protocol_text": "log-likelihood of the option's letter",
        "ci_method": "Wilson 95%",
        "chance": 1 / options,
        "invalid": 0,
        "shots": 0,
        "subjects": halves if task == "medqa" else {},
        **diagnostics(samples),
        **(order_figures(scores) if task == "medqa" and protocol == "letter" else {}),
        "seconds": 12.3,
    }


def order_figures(scores: dict[str, Any]) -> dict[str, Any]:
    """Parts of an entry that only some recipes ask for: orders of the options, seeds, known questions."""
    orders = {"count": 4, "accuracies": [0.2, 0.3, 0.25, 0.25], "mean": 0.25, "consistent": 0.125}
    seeds = {"1234": scores, "432": {**scores, "accuracy": 0.5}}
    return {
        "orders": {**orders, "chosen": [0.7, 0.1, 0.1, 0.1]},
        "contamination": {"flagged": {**scores, "n": 3}, "clean": None},
        "seeds": seeds,
        "std": 0.03125,
    }


def write_sample(task: str, index: int, options: int, chance: random.Random) -> dict[str, Any]:
    weights = [chance.random() for _ in range(options)]
    probabilities = [weight / sum(weights) for weight in weights]
    prediction = probabilities.index(max(probabilities))
    texts = ["yes", "no", "maybe"] if options == 3 else ["Amoxicillin", "Ramipril", "Warfarin", "Insulin"]
    return {
        "id": f"{task}/{index}",
        "subject": "anatomy" if index % 2 else "clinical knowledge",
        "question": f"Question {index}: eGFR <60 and BP >140 mmHg; what next? " + HOSTILE * (index == 0),
        "context": "Background: a trial of 120 patients." if task == "pubmedqa" else "",
        "options": texts,
        "answer": index % options,
        "prediction": prediction,
        "correct": prediction == index % options,
        "logprobs": [math.log(p) for p in probabilities],
        "probabilities": probabilities,
        "contaminated": index % 10 in (1, 2),
        "outputs": [f"The answer is B {HOSTILE}", "unbroken" * 60],
        "prompt": f"Question: {index}\n\nOptions:\nA. Amoxicillin\nThe answer is:",
    }


def write_stages(work: Path) -> None:
    times = {
        "curate": 3.2,
        "import": 8.0,
        "tokenize": 2.5,
        "pretrain": 310.4,
        "export": 6.1,
        "evaluate": 95.0,
    }
    record = {"state": "finished", "config_hash": "d" * 64, "inputs": {}, "exit_code": 0}
    moments = {"started": "2026-01-05T10:00:00+00:00", "ended": "2026-01-05T10:05:00+00:00"}
    stages = {name: {**record, **moments, "seconds": seconds} for name, seconds in times.items()}
    (work / "run.json").write_text(json.dumps({"stages": stages}))


@pytest.fixture
def recipe_of() -> Callable[[Path], Recipe]:
    """A resolved recipe that works in a folder."""
    return lambda work: resolve(Recipe(work_dir=str(work)))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The work folder of a whole run without finetuning."""
    folder = tmp_path / "run"
    write_corpus(folder / "corpus")
    write_shards(folder / "shards")
    write_training(folder / "pretrain")
    write_results(folder / "results", "base", accuracy_seed=1, gain=0.0)
    write_results(folder / "results", "pretrained", accuracy_seed=11, gain=0.4)
    write_stages(folder)
    return folder
