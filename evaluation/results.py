"""From lm-eval's records to what is written: samples, accuracies with intervals, the results folder."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.asking import Asked
from evaluation.questions import Bad
from evaluation.statistics import ACCURACY_METHOD, wilson
from meditron.files import atomic_write

Record = dict[str, Any]


def to_sample(record: Mapping[str, Any], metric: str) -> Record:
    """One question with the model's answer.

    Args:
        record: lm-eval's record of the question.
        metric: acc or acc_norm.

    Returns:
        `logprobs` are the log-likelihoods of the options; `probabilities` are the softmax of what they are
        compared by, which for acc_norm is the log-likelihood per character. A likelihood that is not finite
        makes the answer invalid: `prediction` is None.
    """
    doc = record["doc"]
    logprobs = [float(logprob) for logprob, _ in record["filtered_resps"]]
    lengths = [len(option) if metric == "acc_norm" else 1 for option in doc["options"]]
    scores = np.array(logprobs) / np.array(lengths)
    valid = bool(np.isfinite(scores).all())
    prediction = int(scores.argmax()) if valid else None
    return {
        "id": doc["id"],
        "subject": doc["subject"],
        "question": doc["question"],
        "context": doc["context"],
        "options": doc["options"],
        "answer": doc["answer"],
        "prediction": prediction,
        "correct": valid and record[metric] == 1.0,
        "logprobs": logprobs if valid else None,
        "probabilities": _softmax(scores) if valid else None,
        "prompt": record["arguments"][0][0],
    }


def _softmax(scores: "np.ndarray[Any, Any]") -> list[float]:
    exponentials = np.exp(scores - scores.max())
    return [float(share) for share in exponentials / exponentials.sum()]


def task_entry(asked: Asked, samples: Sequence[Record], seconds: float, cut_prompts: set[str]) -> Record:
    """A line of the results: the accuracy of a task under a protocol, with all that explains it."""
    subjects = sorted({sample["subject"] for sample in samples} - {""})
    return {
        "task": asked.name,
        "group": asked.loaded.group,
        "protocol": asked.protocol,
        "protocol_hash": asked.protocol_hash,
        "protocol_text": asked.protocol_text,
        **accuracy(samples),
        "ci_method": ACCURACY_METHOD,
        "chance": math.fsum(1 / len(sample["options"]) for sample in samples) / len(samples),
        "invalid": sum(sample["prediction"] is None for sample in samples),
        "shots": asked.config.shots,
        "cut_prompts": sum(sample["prompt"] in cut_prompts for sample in samples),
        "quarantined": len(asked.loaded.bad),
        "file_sha256": asked.loaded.hashes,
        "subjects": {name: accuracy([s for s in samples if s["subject"] == name]) for name in subjects},
        "seconds": round(seconds, 3),
    }


def accuracy(samples: Sequence[Record]) -> Record:
    """Share of right answers with its interval; an invalid answer is a wrong one."""
    n, correct = len(samples), sum(sample["correct"] for sample in samples)
    return {"n": n, "correct": correct, "accuracy": correct / n, "ci": list(wilson(correct, n))}


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with atomic_write(path) as handle:
        for record in records:
            handle.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def bad_record(task: str, bad: Bad) -> Record:
    """A line of the quarantine file."""
    return {"task": task, "file": bad.file, "record": bad.record, "reason": bad.reason}
