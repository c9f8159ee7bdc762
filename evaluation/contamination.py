"""Questions that curation found in the sources of the corpus, from its report."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from meditron.errors import InputError

EXCERPT = 300
"""Characters of each text that the report holds at most; longer ones are recognised by them."""


@dataclass(frozen=True)
class Contaminated:
    """Texts of benchmarks that were found."""

    whole: frozenset[str]
    """Short texts, with single spaces."""
    begun: frozenset[str]
    """Beginnings of longer ones, likewise."""

    def has(self, doc: Mapping[str, Any]) -> bool:
        """Whether the question, or a paragraph of its context, was found."""
        parts = [doc["question"], *str(doc["context"]).split("\n")]
        return any(self._has(" ".join(part.split())) for part in parts if part.strip())

    @cached_property
    def _lengths(self) -> frozenset[int]:
        return frozenset(map(len, self.begun))

    def _has(self, text: str) -> bool:
        return text in self.whole or any(text[:length] in self.begun for length in self._lengths)


def read_contamination(path: Path) -> Contaminated:
    """Read `contamination.jsonl`, which has one line for each document and benchmark text.

    Raises:
        InputError: it is missing, or not of that form.
    """
    try:
        texts = list(_texts(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct evaluate.contamination, or leave it out") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a report of `meditron curate` ({error!r}); run it again or correct "
            "evaluate.contamination"
        ) from error
    plain = [(" ".join(text.split()), len(text) >= EXCERPT) for text in texts]
    return Contaminated(
        whole=frozenset(text for text, cut in plain if not cut),
        begun=frozenset(text for text, cut in plain if cut),
    )


def _texts(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            yield str(json.loads(line)["benchmark_text"])
