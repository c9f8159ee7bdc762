"""The rules of Gopher, C4 and FineWeb, with their bounds for the web and others for medical text.

Sources: Gopher, arXiv 2112.11446, table A1 and section A.1.1; C4, arXiv 1910.10683, section 2.2; FineWeb,
arXiv 2406.17557, section 3.6, in the forms of datatrove's filters. The bounds for the web take a table of
laboratory values for noise, a guideline for a list, and a trial's arms for repetition; those for medical
text only refuse what is hardly language. Words are what white space separates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Literal, NamedTuple

from datatrove.data import Document

from data_curation.filters.base import Verdict
from data_curation.filters.measures import Measures

Profile = Literal["general", "medical"]


class Rule(NamedTuple):
    """A measure and what it must not be under or over."""

    reason: str
    """What the statistics call a refusal."""
    measure: Callable[[Measures], float]
    """The figure."""
    side: Literal["least", "most"]
    """Whether the bounds are the least or the most that is allowed."""
    general: float
    """Bound for the web, as published."""
    medical: float
    """Bound for medical text."""

    def refuses(self, measures: Measures, bound: float) -> bool:
        """Whether a text is on the wrong side of a bound."""
        if abs(bound) == inf:
            return False
        value = self.measure(measures)
        return value < bound if self.side == "least" else value > bound


def _top(width: int) -> Callable[[Measures], float]:
    return lambda measures: measures.top_ngram(width)


def _repeated(width: int) -> Callable[[Measures], float]:
    return lambda measures: measures.repeated_ngrams(width)


QUALITY_RULES: dict[str, Rule] = {
    "min_words": Rule("gopher: few words", lambda m: m.words, "least", 50, 15),
    "max_words": Rule("gopher: many words", lambda m: m.words, "most", 100_000, inf),
    "min_mean_word": Rule("gopher: short words", lambda m: m.mean_word, "least", 3, 3),
    "max_mean_word": Rule("gopher: long words", lambda m: m.mean_word, "most", 10, 12),
    "max_hashes": Rule("gopher: hashes", lambda m: m.hashes, "most", 0.1, 0.2),
    "max_ellipses": Rule("gopher: ellipses", lambda m: m.ellipses, "most", 0.1, 0.1),
    "max_bullet_lines": Rule("gopher: bullets", lambda m: m.bullet_lines, "most", 0.9, inf),
    "max_ellipsis_lines": Rule("gopher: cut lines", lambda m: m.ellipsis_lines, "most", 0.3, 0.3),
    "min_alphabetic": Rule("gopher: few letters", lambda m: m.alphabetic, "least", 0.8, 0.2),
    "min_stop_words": Rule("gopher: no stop words", lambda m: m.stop_words, "least", 2, 0),
    "max_braces": Rule("c4: braces", lambda m: m.braces, "most", 0, inf),
    "max_placeholder": Rule("c4: lorem ipsum", lambda m: m.placeholder, "most", 0, 0),
    "min_ended_lines": Rule("fineweb: unended lines", lambda m: m.ended_lines, "least", 0.12, 0),
    "max_short_lines": Rule("fineweb: short lines", lambda m: m.short_lines, "most", 0.67, 0.95),
    "max_line_breaks": Rule("fineweb: list", lambda m: m.line_breaks, "most", 0.3, 0.6),
    "max_repeated_chars": Rule("fineweb: repeated lines", lambda m: m.repeated_chars, "most", 0.01, 0.3),
    "max_repeated_lines": Rule("gopher: repeated lines", lambda m: m.repeated_lines, "most", 0.3, 0.5),
    "max_repeated_paragraphs": Rule(
        "gopher: repeated paragraphs", lambda m: m.repeated_paragraphs, "most", 0.3, 0.5
    ),
    **{
        f"max_top_{width}gram": Rule(f"gopher: top {width}-gram", _top(width), "most", general, 3 * general)
        for width, general in ((2, 0.20), (3, 0.18), (4, 0.16))
    },
    **{
        f"max_repeated_{width}gram": Rule(
            f"gopher: repeated {width}-grams", _repeated(width), "most", general, 3 * general
        )
        for width, general in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    },
}
"""Rules by the name that `curate.filters.quality_bounds` gives, the cheapest first."""


@dataclass(frozen=True)
class Quality:
    """Drops what breaks a rule."""

    bounds: tuple[tuple[str, float], ...]
    """Name of each rule and its bound, in order."""

    @classmethod
    def of(cls, profile: Profile, changes: dict[str, float]) -> "Quality":
        """The bounds of a profile, some of them changed."""
        bounds = {name: float(getattr(rule, profile)) for name, rule in QUALITY_RULES.items()}
        return cls(tuple((bounds | changes).items()))

    def __call__(self, document: Document) -> Verdict:
        """Judge by the first rule that is broken."""
        measures = _measures(document.text)
        for name, bound in self.bounds:
            rule = QUALITY_RULES[name]
            if rule.refuses(measures, bound):
                return False, rule.reason
        return True


@lru_cache(maxsize=1)
def _measures(text: str) -> Measures:
    """What is measured on a text, kept for the second set of bounds."""
    return Measures(text)
