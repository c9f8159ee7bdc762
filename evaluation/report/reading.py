"""Reading what the stages left: what is missing or damaged becomes a note on the page, not an error."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from meditron.errors import MeditronError

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Note:
    """A part of the run that the page cannot show."""

    part: str
    """The section it belongs to."""
    text: str
    """One sentence: what, and where."""
    damaged: bool
    """Whether something is there that cannot be used, rather than nothing."""


@dataclass
class Notes:
    """All that is missing or damaged, in the order in which it was found."""

    found: list[Note] = field(default_factory=list)
    """The notes."""

    def add(self, part: str, text: str, *, damaged: bool = False) -> None:
        """Note that a part is missing, or damaged."""
        self.found.append(Note(part=part, text=text, damaged=damaged))

    def attempt(self, part: str, where: Path, read: Callable[[], T]) -> T | None:
        """What `read` returns; None, with a note that names `where`, when it cannot be read.

        A file may be whole JSON and still of another form, so the errors of using it count as well.
        """
        try:
            return read()
        except FileNotFoundError as error:
            self.add(part, f"{error.filename or where} does not exist")
        except MeditronError as error:
            self.add(part, str(error), damaged=where.exists())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
            self.add(part, f"{where}: not of the expected form ({_cause(error)})", damaged=True)
        return None


def _cause(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    return " ".join(str(error).split()) or type(error).__name__


def read_json(path: Path) -> Json:
    """A file that holds one JSON object.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or no object.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is expected, this is a {type(content).__name__}")
    return content


def read_yaml(path: Path) -> Json:
    """A file that holds one YAML mapping.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not YAML, or no mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"a YAML mapping is expected, this is a {type(content).__name__}")
    return content


def read_lines(path: Path) -> Iterator[Json]:
    """The JSON objects of a file with one a line.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a line is not a JSON object (named).
    """
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(record, dict):
                raise ValueError(f"line {number}: no JSON object")
            yield record


def number(value: object) -> float | None:
    """A finite number of a log; None for what is absent, `"nan"`, or no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if float("-inf") < value < float("inf") else None
