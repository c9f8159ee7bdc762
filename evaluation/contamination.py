"""Questions that curation found in the sources of the corpus, from its report."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meditron.errors import InputError

COMPARED = 250
"""Characters by which a text is recognised; the report holds the first 300 of each."""


@dataclass(frozen=True)
class Contaminated:
    """Texts of benchmarks that were found."""

    texts: frozenset[str]
    """Their beginnings, with single spaces."""

    def has(self, doc: Mapping[str, Any]) -> bool:
        """Whether the question, or a paragraph of its context, was found."""
        parts = [doc["question"], *str(doc["context"]).split("\n")]
        return any(_beginning(part) in self.texts for part in parts if part.strip())


def read_contamination(path: Path) -> Contaminated:
    """Read `contamination.jsonl`, which has one line for each document and benchmark text.

    Raises:
        InputError: it is missing, or not of that form.
    """
    try:
        return Contaminated(frozenset(_texts(path)))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct evaluate.contamination, or leave it out") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a report of `meditron curate` ({error!r}); run it again or correct "
            "evaluate.contamination"
        ) from error


def _texts(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            yield _beginning(json.loads(line)["benchmark_text"])


def _beginning(text: str) -> str:
    return " ".join(text[:COMPARED].split())
