"""Answers that were already computed: an append-only file of JSON lines, found by what was asked.

A key is the hash of the model, the number format and the exact tokens, so that a killed evaluation goes
on where it stopped, and a later one with more tasks computes only what is new.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meditron.files import disk_errors

Value = dict[str, Any]


class AnswerCache:
    """The cache in `path`; nothing is written before the first `add`.

    Args:
        path: JSON-lines file of this process.
        identity: what all its answers depend on besides the question.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = identity
        self._values: dict[str, Value] = {}
        self.read()

    def read(self) -> None:
        """Read the files of all processes; a line that a kill cut short is left out."""
        for file in sorted(self.path.parent.glob("*.jsonl")):
            # `splitlines` would also cut at U+2028 and the like, which files of earlier versions hold raw.
            for line in file.read_bytes().split(b"\n"):
                try:
                    record = json.loads(line)
                    self._values[record["key"]] = record["value"]
                except (ValueError, KeyError, TypeError):
                    continue

    def key(self, *parts: bytes | str) -> str:
        """Name of the answer to what `parts` ask."""
        digest = hashlib.sha256(self._identity.encode())
        for part in parts:
            content = part.encode() if isinstance(part, str) else part
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()[:32]

    def get(self, key: str) -> Value | None:
        """The answer, if it is known."""
        return self._values.get(key)

    def add(self, answers: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Append answers in a single write, so that a kill leaves at most one cut line."""
        lines = []
        for key, value in answers:
            self._values[key] = dict(value)
            lines.append(json.dumps({"key": key, "value": value}) + "\n")  # ASCII: half surrogates as well
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(self.path), open(self.path, "ab") as handle:
            handle.write(self._line_end() + "".join(lines).encode())

    def _line_end(self) -> bytes:
        """A line end where a kill left the last line without one."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return b""
        with open(self.path, "rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return b"" if handle.read(1) == b"\n" else b"\n"
