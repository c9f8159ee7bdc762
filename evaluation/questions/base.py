"""What a question is, how a form of file is registered, and reading JSON, JSON lines and CSV.

A form of file is one function that turns one record into a `Question`, or raises `ValueError` with the
reason why it cannot be used.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meditron.config import TaskConfig
from meditron.errors import InputError

LETTERS = "ABCDEFGHIJ"
"""Names of the options; a question has at most this many."""
_LETTERED = re.compile(r"\s*\(?([A-J])[.):]\s+")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a fact is hidden."""

    length: int
    """Tokens of the text, about."""
    depth: float
    """0 for the beginning, 1 for the end."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with one right option."""

    id: str
    """Name of the question; `load_questions` makes it unique in its task."""
    question: str
    """The question itself."""
    options: tuple[str, ...]
    """2 to 10 options."""
    answer: int
    """Index of the right option."""
    context: str = ""
    """Text that precedes the question; may be empty."""
    subject: str = ""
    """What accuracies are also given by; may be empty."""
    place: Place | None = None
    """Where the answer is hidden in the context, where that is what is asked about."""

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"{len(self.options)} options, 2 to {len(LETTERS)} are possible")
        if not all(option.strip() for option in self.options):
            raise ValueError("an option is empty")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(f"answer {self.answer + 1} of {len(self.options)} options")

    def rotated(self, by: int) -> "Question":
        """The same question with its options moved up by so many places, the first ones to the end."""
        by %= len(self.options)
        answer = (self.answer - by) % len(self.options)
        return replace(self, options=self.options[by:] + self.options[:by], answer=answer)

    def as_doc(self) -> dict[str, Any]:
        """The question as lm-eval's templates see it."""
        record = asdict(self)
        return {**record, "options": list(self.options), "letters": list(LETTERS[: len(self.options)])}


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A record that cannot be used."""

    file: str
    """File it is in."""
    record: str
    """Line or key within the file."""
    reason: str
    """Why it cannot be used."""


@dataclass(frozen=True, kw_only=True)
class QuestionFile:
    """A file of questions, with what its form needs to know."""

    path: Path
    """The file."""
    config: TaskConfig
    """How it is read."""
    labels: dict[str, str] | None = None
    """pubmedqa: the questions that are asked, with their labels."""
    subject: str = ""
    """mmlu: the file's subject."""


Record = tuple[str, Any]
"""Where a record is in its file (`line 3`), and the record."""
Records = Callable[[QuestionFile], Iterator[Record]]
Parse = Callable[[str, Any, QuestionFile], Question]

FORMATS: dict[str, tuple[Records, Parse]] = {}
"""Name of each form to how records are found in a file, and how one becomes a question."""


def register_format(name: str, records: Records) -> Callable[[Parse], Parse]:
    """Register the decorated function as the form `name`."""

    def register(parse: Parse) -> Parse:
        assert name not in FORMATS, name
        FORMATS[name] = (records, parse)
        return parse

    return register


def read_file(file: QuestionFile) -> Iterator[Question | Bad]:
    """Every record of a file, as a question or with the reason why it is none.

    Raises:
        InputError: the file is missing or cannot be read at all.
    """
    records, parse = FORMATS[file.config.format]
    for where, record in records(file):
        try:
            if isinstance(record, ValueError):
                raise record
            yield parse(where, record, file)
        except ValueError as error:
            yield Bad(file=str(file.path), record=where, reason=str(error))


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        InputError: it is missing or no UTF-8 text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check evaluate.tasks and data_root") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a UTF-8 text file") from error


def json_records(file: QuestionFile) -> Iterator[Record]:
    """Records of a JSON list, a JSON object (by key), or of JSON lines; a bad line is its `ValueError`."""
    text = read_text(file.path)
    try:
        content = json.loads(text)
    except ValueError:
        yield from _json_lines(text)
        return
    if isinstance(content, list):
        yield from ((f"item {number}", item) for number, item in enumerate(content, 1))
    elif isinstance(content, dict) and all(isinstance(item, dict) for item in content.values()):
        yield from content.items()
    else:
        yield "line 1", content


def _json_lines(text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                yield f"line {number}", ValueError(f"not JSON ({error})")


def csv_rows(file: QuestionFile) -> Iterator[Record]:
    """Rows of a CSV file without a header, as lists."""
    reader = csv.reader(io.StringIO(read_text(file.path), newline=""))
    for row in reader:
        if row:
            yield f"line {reader.line_num}", row


def csv_records(file: QuestionFile) -> Iterator[Record]:
    """Rows of a CSV file with a header, as mappings."""
    reader = csv.DictReader(io.StringIO(read_text(file.path), newline=""))
    for row in reader:
        yield f"line {reader.line_num}", row


def text_of(record: Any, key: str) -> str:  # noqa: ANN401 - any JSON value
    """The text under `key`.

    Raises:
        ValueError: the record is no mapping, or has no text there.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__} instead of an object with keys")
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"no text `{key}`")
    return value.strip()


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Options whose own letters (`A. ...`, `B) ...`) are taken off, where all of them have theirs."""
    found = [_LETTERED.match(option) for option in options]
    letters = [match[1] if match else "" for match in found]
    if letters != list(LETTERS[: len(options)]):
        return tuple(option.strip() for option in options)
    return tuple(option[match.end() :].strip() for option, match in zip(options, found, strict=True) if match)


def index_of(answer: Any, options: Sequence[str], first: int = 1, *, is_place: bool = False) -> int:  # noqa: ANN401
    """Index of the right option, named by a letter, a number counted from `first`, or its text.

    An option's text may itself be a letter or a number; `is_place` says that the answer then is none.

    Raises:
        ValueError: it names none of them.
    """
    if isinstance(answer, bool) or answer is None or answer == "":
        raise ValueError("no answer")
    if isinstance(answer, int):
        return _within(answer - first, options, answer)
    text = str(answer).strip()
    if text in options and not is_place:
        return list(options).index(text)
    if len(text) == 1 and text.upper() in LETTERS:
        return _within(LETTERS.index(text.upper()), options, answer)
    if text.lstrip("-").isdigit():
        return _within(int(text) - first, options, answer)
    lettered = _LETTERED.match(text)  # "C. the text of the option"
    if lettered and text[lettered.end() :] in options:
        return list(options).index(text[lettered.end() :])
    raise ValueError(f"the answer {text!r} is none of the options")


def _within(index: int, options: Sequence[str], answer: Any) -> int:  # noqa: ANN401
    if not 0 <= index < len(options):
        raise ValueError(f"the answer {answer!r} is none of the {len(options)} options")
    return index
