"""Documents in other languages than the wanted ones."""

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from datatrove.data import Document

from data_curation.filters.base import Verdict

_CHARACTERS = 3000


@dataclass(frozen=True)
class Language:
    """Drops what is surely in a language that is not wanted.

    The model is py3langid's (Lui and Baldwin, 2012), which comes inside its wheel and has no randomness.
    It looks at the middle of a document, where there are sentences; the head is names and a title.
    """

    wanted: Collection[str]
    confidence: float

    def __call__(self, document: Document) -> Verdict:
        """Judge by the most probable language."""
        start = max(0, (len(document.text) - _CHARACTERS) // 2)
        found, probability = language_of(document.text[start : start + _CHARACTERS])
        if found in self.wanted or probability < self.confidence:
            return True
        return False, f"language {found}"


def language_of(text: str) -> tuple[str, float]:
    """ISO 639-1 code of the most probable language of a text, and its probability."""
    found, probability = _identifier().classify(unicodedata.normalize("NFC", text))
    return str(found), float(probability)


@cache
def _identifier() -> Any:  # noqa: ANN401 - the library has no types
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
