"""How much of what is clinical in a text survives its cleaning: comparators, numbers, units."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from data_curation.clean.rules import Removal

_TOKENS = re.compile(
    r"[<>≤≥±≈≠]=?|\d+(?:[.,·]\d+)*%?|[⁰¹²³⁴⁵⁶⁷⁸⁹]+|[₀₁₂₃₄₅₆₇₈₉]+"
    r"|(?<=\d)\s?(?:mg|µg|μg|mcg|ng|kg|g|mL|ml|dL|L|mmol|mol|mmHg|IU|mEq|h|kPa|Hz)\b"
)


def clinical_tokens(text: str) -> Counter[str]:
    """Comparators, numbers, raised and lowered digits, and the units after numbers, with their counts."""
    return Counter("".join(token.split()) for token in _TOKENS.findall(text))


@dataclass(kw_only=True)
class Survival:
    """Clinical tokens of a source through its cleaning."""

    tokens: int = 0
    """In the source's texts."""
    removed: Counter[str] = field(default_factory=Counter)
    """In passages that a rule took out whole, by rule."""
    lost: int = 0
    """In the text that was kept, and gone or changed there."""

    def add(self, before: str, after: str, removed: Iterable[Removal]) -> None:
        """Account for one document."""
        wanted = clinical_tokens(before)
        self.tokens += wanted.total()
        for removal in removed:
            gone = clinical_tokens(removal.passage)
            self.removed[removal.rule] += gone.total()
            wanted -= gone
        self.lost += (wanted - clinical_tokens(after)).total()

    @property
    def share(self) -> float:
        """Share of the clinical tokens of the kept text that survived, 1 where there were none."""
        kept = self.tokens - self.removed.total()
        return 1 - self.lost / kept if kept > 0 else 1.0

    def update(self, other: "Survival") -> None:
        """Add the account of other documents."""
        self.tokens += other.tokens
        self.lost += other.lost
        self.removed.update(other.removed)
