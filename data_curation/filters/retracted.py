"""Articles that were retracted, and the notices that say so."""

import re
from dataclasses import dataclass

from datatrove.data import Document

from data_curation.filters.base import Verdict

_TYPES = frozenset(["retracted publication", "retraction of publication", "retraction", "retracted-article"])
_TITLE = re.compile(
    r"\W*(?:(?:retracted|withdrawn)(?: article| paper)?|retraction(?: note| notice)?)\s*[:\])]", re.IGNORECASE
)


@dataclass(frozen=True)
class Retracted:
    """Drops articles whose type (MEDLINE's, JATS's) or title says that they are retracted, or retract one."""

    def __call__(self, document: Document) -> Verdict:
        """Judge by what the source says about the article, never by its text: reviews discuss retractions."""
        fields = document.metadata["fields"]
        types = [*fields.get("publication_types", ()), fields.get("article_type", "")]
        if any(str(kind).casefold() in _TYPES for kind in types) or _TITLE.match(document.metadata["title"]):
            return False, "retracted"
        return True
