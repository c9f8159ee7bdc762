"""What becomes of references to the literature, to figures and to tables inside a text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CITATION_MODES = ("keep", "strip", "special_tokens")
SPECIAL_TOKENS = tuple(
    token
    for name in ("bib_ref", "fig_ref", "bib", "fig", "table", "formula")
    for token in (f"[{name}]", f"[/{name}]")
)
"""What the mode `special_tokens` writes; MEDITRON's vocabulary has each as one token."""
MAX_WORDS = 12

# Two code points that Unicode sets aside for a program's own use: no text may hold them.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARK = f"{_OPEN}[^{_CLOSE}]*{_CLOSE}"
_JOINED = rf"{_MARK}(?:[\s,;–−-]*{_MARK})*"
_GROUP = re.compile(rf"\s?\[\s*{_JOINED}\s*\]|\s?\(\s*{_JOINED}\s*\)|\s?{_JOINED}")
_SINGLE = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}")


@dataclass(kw_only=True)
class Citations:
    """How a document's references are written.

    `keep` leaves them as printed, `strip` removes those to the literature with the brackets around
    them, and `special_tokens` writes what they refer to: `[bib_ref] title, author [/bib_ref]` and
    `[fig_ref] Figure 1: caption [/fig_ref]` (MEDITRON, arXiv 2311.16079, section 3.2).
    """

    mode: str = "keep"
    """One of CITATION_MODES."""
    works: Mapping[str, str] = field(default_factory=dict)
    """Id of a reference to "title, first author"."""
    floats: Mapping[str, str] = field(default_factory=dict)
    """Id of a figure or table to "Figure 1: first clause of its caption"."""

    def work(self, ids: str, text: str) -> str:
        """A reference to one or more works, printed as `text`; `finish` completes it."""
        if self.mode == "keep":
            return text
        known = [self.works[key] for key in ids.split() if self.works.get(key)]
        inner = "  ".join(f"[bib_ref] {work} [/bib_ref]" for work in known)
        return f"{_OPEN}{inner if self.mode == 'special_tokens' else ''}{_CLOSE}"

    def float(self, ids: str, text: str) -> str:
        """A reference to figures or tables, printed as `text`."""
        known = [self.floats[key] for key in ids.split() if self.floats.get(key)]
        if self.mode != "special_tokens" or not known:
            return text
        return " ".join(f"[fig_ref] {caption} [/fig_ref]" for caption in known)

    def wrap(self, name: str, text: str) -> str:
        """A formula, figure or table between its tokens, where tokens are wanted."""
        return f"[{name}] {text} [/{name}]" if text and self.mode == "special_tokens" else text

    def finish(self, text: str) -> str:
        """Complete the references in a whole paragraph, brackets around a group of them included."""
        if _OPEN not in text:
            return text
        return _GROUP.sub(lambda group: self._group(group[0]), text)

    def _group(self, group: str) -> str:
        works = [inner for inner in _SINGLE.findall(group) if inner]
        return f" {' '.join(works)}" if works else ""


def shortened(text: str, words: int = MAX_WORDS) -> str:
    """The first words of a title or caption, with "..." where there were more."""
    parts = text.split()
    return " ".join(parts[:words]) + ("..." if len(parts) > words else "")


def first_clause(caption: str) -> str:
    """The first clause of a caption, shortened."""
    return shortened(re.split(r"(?<=[^\d])[.;](?:\s|$)", caption, maxsplit=1)[0])
