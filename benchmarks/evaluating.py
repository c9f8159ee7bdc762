"""The adapter of `meditron evaluate` against lm-eval's own `--model hf`: same requests and answers.

Usage: python benchmarks/evaluating.py MODEL DATA [QUESTIONS [ROUNDS]]
    MODEL      Hugging Face folder of a Llama
    DATA       folder with `medqa/` and `mmlu/` (the files of `docs/evaluating.md`)
    QUESTIONS  questions of each task, half as many where they are asked in two ways (default 24); 0 measures
               the bootstrap alone, and needs no model
    ROUNDS     rounds in turns (default 3)

Each round gives both the same requests in turns. lm-eval's batch size is the fastest of those in HF_BATCHES,
found before the rounds; processor seconds are given beside wall time, because a shared machine stretches the
latter. At the end the bootstrap of both: 10,000 resamples of as many answers as MedQA has questions.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from evaluation.adapter.cache import AnswerCache
from evaluation.adapter.lm import MeditronLM
from evaluation.asking import build
from evaluation.model import LoadedModel, load_model
from evaluation.questions import load_questions
from evaluation.quiet import quiet
from evaluation.statistics import ratio_interval
from meditron.config import EvaluateConfig, TaskConfig

DEFAULT_QUESTIONS, DEFAULT_ROUNDS = 24, 3
RESAMPLES = 10_000
ITEMS = 1272
"""Questions of MedQA dev."""
ANSWERS = 5
"""Options of each of them."""
HF_BATCHES = (1, 8)
SUBJECTS = ["anatomy", "college_biology", "professional_medicine"]


def tasks(questions: int) -> dict[str, tuple[TaskConfig, list[str]]]:
    each = max(questions // len(SUBJECTS), 1)
    mmlu = TaskConfig(format="mmlu", path="mmlu", subjects=SUBJECTS, shots=5, limit=each)
    path = "medqa/us_dev_and_train_subset/medqa_full_dev.json"
    medqa = TaskConfig(format="medqa", path=path, limit=questions)
    half = TaskConfig(format="medqa", path=path, limit=max(questions // 2, 1))
    return {
        "MMLU, 5 examples, letter": (mmlu, ["letter"]),
        "MedQA, no examples, letter": (medqa, ["letter"]),
        "MedQA, no examples, letter and answer": (half, ["letter", "answer"]),
    }


def requests_of(config: TaskConfig, protocols: list[str], data: Path) -> tuple[list[Any], int]:
    loaded = load_questions(config, data)
    asked = build({"it": (config, loaded)}, EvaluateConfig(protocols=protocols), seed=1234)
    with quiet():
        for one in asked:
            one.task.build_all_requests()
    return [request for one in asked for request in one.task.instances], len(loaded.questions)


def ours(loaded: LoadedModel, requests: list[Any]) -> tuple[list[float], float, float]:
    with tempfile.TemporaryDirectory() as folder:
        lm = MeditronLM(loaded, AnswerCache(Path(folder) / "answers-0.jsonl", "benchmark"))
        return timed(lambda: lm.loglikelihood(requests))


def reference(loaded: LoadedModel, batch: int, requests: list[Any]) -> tuple[list[float], float, float]:
    with quiet():
        lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch)
        return timed(lambda: lm.loglikelihood(requests, disable_tqdm=True))


def timed(work: Any) -> tuple[list[float], float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    answers = work()
    return [value for value, _ in answers], time.perf_counter() - wall, time.process_time() - processor


def distances(loaded: LoadedModel, requests: list[Any]) -> dict[str, float]:
    """Largest distance of a log-probability from that of the same model in float64, of both."""
    found = {"lm-eval": reference(loaded, 1, requests)[0], "ours": ours(loaded, requests)[0]}
    with quiet():
        exact = HFLM(pretrained=loaded.model.double(), tokenizer=loaded.tokenizer, softmax_dtype="float64")
        values = [value for value, _ in exact.loglikelihood(requests, disable_tqdm=True)]
    return {name: float(np.abs(np.array(own) - np.array(values)).max()) for name, own in found.items()}


def choices(requests: list[Any], values: list[float]) -> list[int]:
    """Index of the likeliest option of each question."""
    groups: dict[tuple[str, int], list[float]] = {}
    for request, value in zip(requests, values, strict=True):
        groups.setdefault((request.task_name, request.doc_id), []).append(value)
    return [int(np.argmax(group)) for group in groups.values()]


def measure(loaded: LoadedModel, requests: list[Any], questions: int, turns: int) -> dict[str, Any]:
    few = requests[: len(requests) // 3]
    batch = min(HF_BATCHES, key=lambda size: reference(loaded, size, few)[2])
    tokens = np.array([len(loaded.tokenizer.encode(request.args[1])) for request in requests])
    rounds = []
    for _ in range(turns):
        theirs, mine = reference(loaded, batch, requests), ours(loaded, requests)
        differences = np.abs(np.array(theirs[0]) - np.array(mine[0]))
        difference = float(differences.max())
        assert choices(requests, theirs[0]) == choices(requests, mine[0]), "another option is the likeliest"
        each = float((differences / tokens).max())
        assert each < 1e-4, each
        rounds.append((theirs, mine, difference, each))
    return {
        "questions": questions,
        "answers": len(requests),
        "lm-eval batch size": batch,
        "largest difference of a log-probability": max(one[2] for one in rounds),
        "largest difference per token of an answer": max(one[3] for one in rounds),
        "wall seconds": [[round(one[1], 2) for one in pair[:2]] for pair in rounds],
        "processor seconds": [[round(one[2], 2) for one in pair[:2]] for pair in rounds],
        "ratio of wall time, median": round(statistics.median(a[1] / b[1] for a, b, *_ in rounds), 2),
        "ratio of processor time, median": round(statistics.median(a[2] / b[2] for a, b, *_ in rounds), 2),
    }


def bootstrap() -> dict[str, Any]:
    """Half the width of the 95 % interval and seconds of a bootstrap of right and wrong answers."""
    from lm_eval.api.metrics import bootstrap_stderr, mean

    os.environ["DISABLE_MULTIPROC"] = (
        "1"  # its pool starts a process a core, which takes longer than the work
    )
    generator = np.random.default_rng(1)
    answers = (generator.random(ITEMS) < 0.3).astype(float).tolist()
    documents = generator.normal(3.0, 0.5, ITEMS).tolist()
    found: dict[str, Any] = {"items": ITEMS, "resamples": RESAMPLES}
    for name, values in (("right and wrong answers", answers), ("losses of documents", documents)):
        rounds = []
        for _ in range(DEFAULT_ROUNDS):
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                stderr, theirs = seconds(partial(bootstrap_stderr, mean, values, RESAMPLES))
            interval, mine = seconds(partial(ratio_interval, values, [1.0] * ITEMS, RESAMPLES, 1))
            half = (interval[1] - interval[0]) / 2
            assert abs(half / (1.96 * stderr) - 1) < 0.05, (half, stderr)
            rounds.append((theirs, mine))
        found[name] = {
            "seconds": [[round(one, 4) for one in pair] for pair in rounds],
            "ratio, median": round(statistics.median(a / b for a, b in rounds), 1),
        }
    return found


def seconds(work: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def main() -> None:
    questions, turns = (*map(int, sys.argv[3:]), *(DEFAULT_QUESTIONS, DEFAULT_ROUNDS)[len(sys.argv) - 3 :])
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "transformers", "lm-eval")},
        "bootstrap": bootstrap(),
    }
    if questions:
        add_adapter(report, Path(sys.argv[1]), Path(sys.argv[2]), questions, turns)
    print(json.dumps(report, indent=1))


def add_adapter(report: dict[str, Any], model: Path, data: Path, questions: int, turns: int) -> None:
    loaded = load_model("benchmark", model, "", EvaluateConfig(dtype="float32"))
    report["device"] = loaded.model.device.type
    for name, (config, protocols) in tasks(questions).items():
        requests, count = requests_of(config, protocols, data)
        report[name] = measure(loaded, requests, count, turns)
        print(json.dumps({name: report[name]}, indent=1), flush=True)
    report["distance from float64 on one question"] = distances(loaded, requests[-ANSWERS:])


if __name__ == "__main__":
    main()
