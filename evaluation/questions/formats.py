"""The forms of question files, one function each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.questions.base import (
    LETTERS,
    Question,
    QuestionFile,
    Record,
    csv_records,
    csv_rows,
    index_of,
    json_records,
    read_text,
    register_format,
    text_of,
    without_letters,
)
from meditron.errors import InputError

PUBMEDQA_LABELS = ("yes", "no", "maybe")


@register_format("medqa", json_records)
def parse_medqa(where: str, record: Any, file: QuestionFile) -> Question:  # noqa: ANN401
    """MedQA (arXiv 2009.13081): `options` as a mapping of letters or a list; `answer_idx` as a letter or
    number, `answer` as one or as the text of the right option. Where both are there, they must agree."""
    question = text_of(record, "question")
    options = _medqa_options(record.get("options"))
    return Question(
        id=where,
        question=question,
        options=options,
        answer=_medqa_answer(record, options, file.config.first_answer),
        subject=str(record.get("validated_category") or record.get("meta_info") or ""),
    )


def _medqa_options(options: Any) -> tuple[str, ...]:  # noqa: ANN401
    if isinstance(options, Mapping):
        if list(options) != list(LETTERS[: len(options)]):
            raise ValueError("the keys of `options` are not A, B, C, ...")
        options = list(options.values())
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError("no `options`")
    return without_letters(options)


def _medqa_answer(record: Mapping[str, Any], options: Sequence[str], first: int) -> int:
    named = {key: record.get(key) for key in ("answer_idx", "answer") if record.get(key) not in (None, "")}
    if not named:
        raise ValueError("no answer")
    found = [index_of(name, options, first, is_place=key == "answer_idx") for key, name in named.items()]
    if options[found[0]] != options[found[-1]]:
        raise ValueError(
            f"`answer_idx` {named['answer_idx']!r} is {options[found[0]]!r}, but `answer` is "
            f"{options[found[1]]!r}; numbers count from first_answer = {first}"
        )
    return found[0]


@register_format("pubmedqa", lambda file: _labelled(file))
def parse_pubmedqa(where: str, record: Any, file: QuestionFile) -> Question:  # noqa: ANN401
    """PubMedQA (arXiv 1909.06146), reasoning-required: the abstract without its conclusion, then the
    question; yes, no or maybe."""
    contexts = record.get("CONTEXTS") if isinstance(record, dict) else None
    if not isinstance(contexts, list) or not contexts:
        raise ValueError("no list `CONTEXTS`")
    label = file.labels[where] if file.labels is not None else record.get("final_decision")
    if label not in PUBMEDQA_LABELS:
        raise ValueError(f"label {label!r} instead of yes, no or maybe")
    return Question(
        id=where,
        question=text_of(record, "QUESTION"),
        options=PUBMEDQA_LABELS,
        answer=PUBMEDQA_LABELS.index(label),
        context="\n".join(str(part).strip() for part in contexts),
    )


def _labelled(file: QuestionFile) -> Iterator[Record]:
    """The questions that have a label, in the order of the file; one that is missing is a bad record."""
    records = dict(json_records(file))
    if file.labels is None:
        yield from records.items()
        return
    yield from ((name, record) for name, record in records.items() if name in file.labels)
    for name in file.labels:
        if name not in records:
            yield name, ValueError("is in the ground truth but not in the file")


def read_labels(path: Path) -> dict[str, str]:
    """PMID to label.

    Raises:
        InputError: missing, or not that form.
    """
    try:
        labels = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); give a JSON object of PMID to label") from error
    if not isinstance(labels, dict):
        raise InputError(f"{path}: a {type(labels).__name__}; give a JSON object of PMID to label")
    return {str(name): str(label) for name, label in labels.items()}


@register_format("medmcqa", json_records)
def parse_medmcqa(where: str, record: Any, file: QuestionFile) -> Question:  # noqa: ANN401
    """MedMCQA (arXiv 2203.14371): options `opa` to `opd`, and the number of the right one in `cop`."""
    question = text_of(record, "question")
    options = tuple(text_of(record, f"op{letter}") for letter in "abcd")
    if not isinstance(record.get("cop"), int):
        raise ValueError("no number `cop`; the test set has no answers")
    return Question(
        id=str(record.get("id") or where),
        question=question,
        options=options,
        answer=index_of(record["cop"], options, file.config.first_answer),
        subject=str(record.get("subject_name") or ""),
    )


@register_format("mmlu", csv_rows)
def parse_mmlu(where: str, record: Any, file: QuestionFile) -> Question:  # noqa: ANN401
    """MMLU (arXiv 2009.03300): question, four options, letter."""
    if len(record) != 6:
        raise ValueError(f"{len(record)} columns instead of question, A, B, C, D, letter")
    question, *options, letter = (cell.strip() for cell in record)
    if letter not in LETTERS[:4] or not letter:
        raise ValueError(f"letter {letter!r} instead of A, B, C or D")
    return Question(
        id=f"{file.path.stem} {where}",
        question=question,
        options=tuple(options),
        answer=LETTERS.index(letter),
        subject=file.subject,
    )


def table_records(file: QuestionFile) -> Iterator[Record]:
    """Records of a CSV file with a header, or of JSON."""
    return csv_records(file) if file.path.suffix.lower() == ".csv" else json_records(file)


@register_format("table", table_records)
def parse_table(where: str, record: Any, file: QuestionFile) -> Question:  # noqa: ANN401
    """Any JSONL or CSV with a header, read as `columns` says."""
    columns = file.config.columns
    question = text_of(record, columns.question)
    options = without_letters(_table_options(record, columns.options))
    return Question(
        id=str(record[columns.id]) if columns.id and record.get(columns.id) else where,
        question=question,
        options=options,
        answer=index_of(record.get(columns.answer), options, file.config.first_answer),
        context=str(record.get(columns.context) or "") if columns.context else "",
        subject=str(record.get(columns.subject) or "") if columns.subject else "",
    )


def _table_options(record: Mapping[str, Any], columns: str | list[str] | None) -> list[str]:
    if columns is None:
        columns = "options" if "options" in record else [letter for letter in LETTERS if record.get(letter)]
    if isinstance(columns, list):
        return [str(record[name]) for name in columns if record.get(name) not in (None, "")]
    options = record.get(columns)
    options = list(options.values()) if isinstance(options, dict) else options
    if not isinstance(options, list):
        raise ValueError(f"no list `{columns}` of options")
    return [str(option) for option in options]
