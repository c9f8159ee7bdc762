"""Questions for the page's browser: an even selection, as the files of all of them may be large."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from evaluation.report.reading import Json, Notes, number, read_lines
from evaluation.report.results import PART, ModelResults, TaskRow, samples_path

MAX_TEXT = 4000
"""Characters of a question, context, option or prompt that the page carries."""
MAX_WRITTEN = 1500
"""Characters of a text that a model wrote."""


def question_sets(
    rows: Sequence[TaskRow], models: Sequence[ModelResults], limit: int, notes: Notes
) -> list[Json]:
    """For each task and protocol its questions with every model's answer, at most `limit` of them."""
    folders = {model.label: model.folder for model in models}
    sets = [_question_set(row, folders, limit, notes) for row in rows]
    return [questions for questions in sets if questions["questions"]]


def _question_set(row: TaskRow, folders: Mapping[str, Path], limit: int, notes: Notes) -> Json:
    questions: dict[str, Json] = {}
    total = 0
    for label in row.scores:
        path = samples_path(folders[label], row.task, row.protocol)
        if not path.exists():
            continue  # noted when the answers were compared
        read = notes.attempt(PART, path, partial(_add, questions, path, label, limit))
        total = max(total, read or 0)
    return {
        "task": row.task,
        "protocol": row.protocol,
        "models": list(row.scores),
        "total": total,
        "questions": list(questions.values()),
    }


def _add(questions: dict[str, Json], path: Path, label: str, limit: int) -> int:
    """Add a model's answers; the first model's file decides which questions are shown.

    Returns:
        the questions in the file.
    """
    total = sum(1 for _ in read_lines(path))
    wanted = None if questions else evenly(total, limit)
    for index, sample in enumerate(read_lines(path)):
        identifier = str(sample["id"])
        if wanted is not None and index in wanted:
            questions[identifier] = _question(sample)
        if identifier in questions:
            _answer(questions[identifier], sample, label)
    return total


def evenly(total: int, limit: int) -> set[int]:
    """At most `limit` indices below `total`, evenly apart."""
    return set(range(total)) if total <= limit else {index * total // limit for index in range(limit)}


def _question(sample: Json) -> Json:
    return {
        "id": str(sample["id"]),
        "subject": str(sample.get("subject") or ""),
        "question": _cut(sample.get("question")),
        "context": _cut(sample.get("context")),
        "options": [_cut(option) for option in sample["options"]],
        "answer": sample["answer"],
        "prompt": _cut(sample.get("prompt")),
        "found": bool(sample.get("contaminated")),
        "answers": {},
    }


def _answer(question: Json, sample: Json, label: str) -> None:
    answer = {
        "prediction": sample.get("prediction"),
        "correct": bool(sample["correct"]),
        "probabilities": [_rounded(value) for value in sample.get("probabilities") or []],
        "written": [_cut(text, MAX_WRITTEN) for text in sample.get("outputs") or []],
    }
    prompt = _cut(sample.get("prompt"))
    if prompt != question["prompt"]:
        answer["prompt"] = prompt
    question["answers"][label] = answer


def _rounded(value: object) -> float | None:
    known = number(value)
    return None if known is None else round(known, 4)


def _cut(value: object, most: int = MAX_TEXT) -> str:
    text = "" if value is None else str(value)
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - most:,} characters left out ...]\n{text[-half:]}"
