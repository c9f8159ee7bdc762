"""From lm-eval's records to what is written: samples, accuracies with intervals, the results folder."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.asking import Asked
from evaluation.contamination import Contaminated
from evaluation.extract import vote
from evaluation.questions import Bad, Question
from evaluation.statistics import (
    ACCURACY_METHOD,
    RESAMPLES,
    diagnostics,
    order_effect,
    ratio_interval,
    wilson,
)
from meditron.files import atomic_write

Record = dict[str, Any]
DEPTHS = 5
"""Parts of a text that accuracy on hidden facts is given by."""


def to_sample(record: Mapping[str, Any], asked: Asked, contaminated: Contaminated | None) -> Record:
    """One question with the model's answer, from lm-eval's record of it."""
    doc = record["doc"]
    flag = {} if contaminated is None else {"contaminated": contaminated.has(doc)}
    read = _generated if asked.protocol.generates else _compared
    answer = read(record, doc["options"], asked.metric)
    return {
        "id": doc["id"],
        "subject": doc["subject"],
        "question": doc["question"],
        "context": doc["context"],
        "options": doc["options"],
        "answer": doc["answer"],
        "prediction": answer["prediction"],
        "correct": answer["prediction"] is not None and record[asked.metric] == 1.0,
        **answer,
        **flag,
        "prompt": record["arguments"][0][0],
    }


def _compared(record: Mapping[str, Any], options: Sequence[str], metric: str) -> Record:
    """The option of the highest likelihood.

    `logprobs` are the log-likelihoods of the options; `probabilities` are the softmax of what they are
    compared by, which for acc_norm is the log-likelihood per character. A likelihood that is not finite
    makes the answer invalid.
    """
    logprobs = [float(logprob) for logprob, _ in record["filtered_resps"]]
    lengths = [len(option) if metric == "acc_norm" else 1 for option in options]
    scores = np.array(logprobs) / np.array(lengths)
    if not np.isfinite(scores).all():
        return {"prediction": None, "logprobs": None, "probabilities": None}
    return {
        "prediction": int(scores.argmax()),
        "logprobs": logprobs,
        "probabilities": _softmax(scores),
    }


def _generated(record: Mapping[str, Any], options: Sequence[str], metric: str) -> Record:
    """The option read off the generated text, or that most of several texts chose.

    `outputs` are the texts; of several, `probabilities` are the shares of the valid votes.
    """
    answer = record["filtered_resps"][0]
    outputs = answer if isinstance(answer, list) else [answer]
    result = vote(outputs, options)
    if len(outputs) == 1:
        return {"prediction": result.choice, "outputs": outputs}
    valid = sum(result.counts.values())
    shares = [result.counts.get(index, 0) / valid for index in range(len(options))] if valid else None
    return {
        "prediction": result.choice,
        "outputs": outputs,
        "probabilities": shares,
        "invalid_votes": result.invalid,
        "tie": result.tie,
    }


def _softmax(scores: "np.ndarray[Any, Any]") -> list[float]:
    exponentials = np.exp(scores - scores.max())
    return [float(share) for share in exponentials / exponentials.sum()]


def task_entry(
    runs: Sequence[tuple[Asked, Sequence[Record]]],
    seconds: float,
    cut_prompts: set[str],
    chat_template: Any,  # noqa: ANN401 - a template, or several by name
) -> Record:
    """A line of the results: the accuracy of a task under a protocol, with all that explains it.

    With several seeds everything is over all of them: what a question scores is its mean over the seeds. Only
    the orders of the options are asked with the first seed alone.

    Args:
        runs: the task with its samples, once for each seed of its examples and order of its options.
        seconds: time that its answers took.
        cut_prompts: prompts that were longer than the model's context.
        chat_template: that of the model's tokenizer, if it has one.
    """
    seeds = [run for run in runs if run[0].rotation == 0]
    orders = [run for run in runs if run[0].seed == runs[0][0].seed]
    asked = seeds[0][0]
    samples = mean_over_seeds([own for _, own in seeds])
    answers = [sample for _, own in seeds for sample in own]
    subjects = sorted({sample["subject"] for sample in samples} - {""})
    everything = [sample for _, own in runs for sample in own]
    entry = {
        "task": asked.name,
        "group": asked.loaded.group,
        "protocol": asked.protocol.name,
        "protocol_hash": asked.hashed(chat_template),
        "protocol_text": asked.protocol_text,
        **accuracy(samples),
        "ci_method": ACCURACY_METHOD,
        "chance": math.fsum(1 / len(sample["options"]) for sample in samples) / len(samples),
        "invalid": _each(sum(answer["prediction"] is None for answer in answers), len(seeds)),
        "shots": asked.shots,
        "cut_prompts": sum(sample["prompt"] in cut_prompts for sample in everything),
        "quarantined": len(asked.loaded.bad),
        "file_sha256": asked.loaded.hashes,
        "subjects": {name: accuracy([s for s in samples if s["subject"] == name]) for name in subjects},
        **diagnostics(samples, answers),
        "seconds": round(seconds, 3),
    }
    if places := by_place(samples, asked.loaded.questions):
        entry["by_place"] = places
    if asked.protocol.kind == "vote":
        entry["ties"] = _each(sum(answer["tie"] for answer in answers), len(seeds))
    if len(orders) > 1:
        entry["orders"] = order_effect([own for _, own in orders])
    if "contaminated" in samples[0]:
        entry["contamination"] = _contamination(samples)
    return entry | (_over_seeds(seeds, samples) if len(seeds) > 1 else {})


def mean_over_seeds(runs: Sequence[Sequence[Record]]) -> list[Record]:
    """The questions of the first seed; where there are more, `correct` is the mean over all of them."""
    if len(runs) == 1:
        return list(runs[0])
    return [
        {**own[0], "correct": sum(sample["correct"] for sample in own) / len(own)}
        for own in zip(*runs, strict=True)
    ]


def _each(count: int, seeds: int) -> float:
    """A count over all seeds as the mean of each; a whole number where there is one seed."""
    return count if seeds == 1 else round(count / seeds, 3)


def by_place(samples: Sequence[Record], questions: Sequence[Question]) -> list[Record]:
    """Accuracy on hidden facts by the length of the text and the part of it in which they stand."""
    places = {question.id: question.place for question in questions}
    groups: dict[tuple[int, int], list[Record]] = {}
    for sample in samples:
        if place := places[sample["id"]]:
            part = min(int(place.depth * DEPTHS), DEPTHS - 1)
            groups.setdefault((place.length, part), []).append(sample)
    return [
        {"length": length, "depth": [part / DEPTHS, (part + 1) / DEPTHS], **accuracy(own)}
        for (length, part), own in sorted(groups.items())
    ]


def _contamination(samples: Sequence[Record]) -> Record:
    """Accuracy on the questions that were found in the sources of the corpus, and on the others."""
    found = {name: [s for s in samples if s["contaminated"] == name] for name in (True, False)}
    flagged, clean = (accuracy(own) if own else None for own in found.values())
    return {"flagged": flagged, "clean": clean}


def _over_seeds(runs: Sequence[tuple[Asked, Sequence[Record]]], questions: Sequence[Record]) -> Record:
    """The spread over the seeds of the examples, and the interval of their mean by resampling questions."""
    scores = [question["correct"] for question in questions]
    own = {str(asked.seed): accuracy(samples) for asked, samples in runs}
    found: Record = {
        "std": float(np.std([one["accuracy"] for one in own.values()], ddof=1)),
        "seeds": own,
        "ci_method": f"{ACCURACY_METHOD}, mean of {len(runs)} seeds",
    }
    interval = ratio_interval(scores, [1.0] * len(scores), RESAMPLES, runs[0][0].seed)
    if interval is not None and len(set(scores)) > 1:  # of scores that are alike, resampling sees no spread
        found |= {
            "ci": list(interval),
            "ci_method": f"bootstrap 95% over questions, mean of {len(runs)} seeds",
        }
    return found


def accuracy(samples: Sequence[Record]) -> Record:
    """Share of right answers with its interval; an invalid answer is a wrong one.

    `correct` of a sample may be a mean over seeds. Wilson's interval then is on the safe side: a mean varies
    less than a single answer.
    """
    n, correct = len(samples), math.fsum(sample["correct"] for sample in samples)
    whole = int(correct) if correct == int(correct) else round(correct, 3)
    return {"n": n, "correct": whole, "accuracy": correct / n, "ci": list(wilson(correct, n))}


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with atomic_write(path) as handle:
        for record in records:  # half surrogates stay the escapes that JSON has for them
            line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace")
            handle.write(line + b"\n")


def bad_record(task: str, bad: Bad) -> Record:
    """A line of the quarantine file."""
    return {"task": task, "file": bad.file, "record": bad.record, "reason": bad.reason}
