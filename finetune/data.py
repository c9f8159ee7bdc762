"""Conversations from JSONL files: what is read, what is refused, and why."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.chat import Chat, Encoded, Message
from meditron.errors import InputError, QuarantineError
from meditron.files import atomic_write
from meditron.progress import progress

ROLES = ("system", "user", "assistant")


@dataclass(kw_only=True)
class Counts:
    """What became of a file's lines."""

    lines: int = 0
    """Lines that are not blank."""
    examples: int = 0
    """Conversations to train on."""
    quarantined: int = 0
    """Lines that cannot be used; each is in the quarantine file with its reason."""
    dropped: int = 0
    """Conversations of which `max_length` leaves no answer."""
    cut: int = 0
    """Conversations that lost their end to `max_length`."""
    tokens: int = 0
    """Tokens of the examples."""
    answer_tokens: int = 0
    """Tokens of the examples that are learnt."""


@dataclass(kw_only=True)
class Examples:
    """Encoded conversations of one or more files."""

    encoded: list[Encoded] = field(default_factory=list)
    """The conversations, in the order of the files."""
    where: list[str] = field(default_factory=list)
    """File and line of each."""
    counts: dict[str, Counts] = field(default_factory=dict)
    """Counts of each file."""
    bad: list[dict[str, str]] = field(default_factory=list)
    """Quarantined lines: source, file, record, reason."""

    def as_record(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {file: asdict(counts) for file, counts in self.counts.items()}


def find_files(root: Path, patterns: Sequence[str], setting: str) -> list[Path]:
    """The files that paths and globs under `root` name, in order.

    Raises:
        InputError: a pattern matches nothing.
    """
    files: list[Path] = []
    for pattern in patterns:
        exact = root / pattern
        base = Path(exact.anchor) if Path(pattern).is_absolute() else root
        found = [exact] if exact.is_file() else sorted(base.glob(str(exact.relative_to(base))))
        if not found:
            raise InputError(f"{setting}: no file {exact}; check the path and data_root")
        files += found
    return files


def parse_line(line: bytes) -> list[Message]:
    """The messages of one JSONL line.

    Raises:
        ValueError: it cannot be used; the message is the reason.
    """
    try:
        record = json.loads(line)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"not JSON ({error})") from None
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError("no list `messages`")
    for message in messages:
        _check_message(message)
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if "assistant" not in turns:
        raise ValueError("no assistant turn")
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            f"roles must alternate user, assistant and end with assistant, not {' '.join(roles)}"
        )
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _check_message(message: Any) -> None:  # noqa: ANN401 - any JSON value
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ValueError(f"a message's role must be one of {', '.join(ROLES)}")
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"empty content of the {message['role']}")


def read_examples(files: Sequence[Path], chat: Chat, max_length: int) -> Examples:
    """Read and encode conversations; bad lines and cut ones are counted."""
    examples = Examples()
    with progress(sum(file.stat().st_size for file in files) / 2**20, "read conversations", "MB") as task:
        for file in files:
            counts = examples.counts.setdefault(str(file), Counts())
            for number, line in _lines(file):
                counts.lines += 1
                task.advance(len(line) / 2**20)
                try:
                    messages = parse_line(line)
                except ValueError as error:
                    counts.quarantined += 1
                    examples.bad.append(_bad(file, number, str(error)))
                    continue
                _add(examples, counts, chat.encode(messages), f"{file}:{number}", max_length)
    return examples


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with open(file, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                yield number, line


def _bad(file: Path, number: int, reason: str) -> dict[str, str]:
    return {"source": file.stem, "file": str(file), "record": f"line {number}", "reason": reason}


def _add(examples: Examples, counts: Counts, encoded: Encoded, where: str, max_length: int) -> None:
    cut = len(encoded.ids) > max_length
    if cut:
        encoded = Encoded(ids=encoded.ids[:max_length], answer=encoded.answer[:max_length])
    # The first token has nothing before it to be predicted from.
    learnt = int(encoded.answer[1:].sum())
    if learnt == 0:
        counts.dropped += 1
        return
    counts.cut += cut
    counts.examples += 1
    counts.tokens += len(encoded.ids)
    counts.answer_tokens += learnt
    examples.encoded.append(encoded)
    examples.where.append(where)


def check(examples: Examples, max_bad_fraction: float, quarantine: Path, setting: str) -> None:
    """Hold the bad lines against the threshold, and refuse data that leaves nothing to learn.

    Raises:
        QuarantineError: too many lines cannot be used.
        InputError: no conversation is left.
    """
    bad, lines = len(examples.bad), sum(counts.lines for counts in examples.counts.values())
    if bad > max_bad_fraction * lines:
        first = examples.bad[0]
        raise QuarantineError(
            f"{setting}: {bad:,} of {lines:,} lines ({bad / lines:.2%}) cannot be used, more than "
            f"finetune.max_bad_fraction = {max_bad_fraction:.2%}; the first is {first['file']} "
            f"{first['record']}: {first['reason']}; all are listed in {quarantine}: mend or remove them, "
            "or raise the threshold"
        )
    if not examples.encoded:
        raise InputError(
            f"{setting}: none of the {lines:,} conversations has an answer within finetune.max_length; "
            "check the files or raise it"
        )


def write_quarantine(path: Path, bad: Sequence[dict[str, str]]) -> None:
    """Write the bad lines with their reasons, one JSON object a line."""
    with atomic_write(path) as handle:
        for record in bad:
            handle.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
