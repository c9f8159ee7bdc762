"""Rules that take out what is no content: links, notices, reference lists, navigation, leftover HTML.

Each removes whole passages that it recognises and changes nothing else; what it removed is handed back,
so that it can be counted, sampled and held against the numbers and comparators of the source.
"""

import html
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from data_curation.readers.maths import lowered, raised


class Removal(NamedTuple):
    """A passage that a rule took out."""

    rule: str
    passage: str


@dataclass(slots=True)
class Cleaned:
    """A text under the rules."""

    text: str
    """What is left."""
    removed: list[Removal] = field(default_factory=list)
    """What was taken out, in the order of the rules."""


_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}\d{0,2}|#\d{1,6}|#[xX][0-9a-fA-F]{1,5});")
# A tag has attributes in quotes or none: "if a <b and c> d" is no tag.
_TAG = re.compile(
    r"<(/?)(p|br|div|span|b|i|u|em|strong|sup|sub|ul|ol|li|dl|dt|dd|table|tbody|thead|tr|td|th|a|font|h[1-6])"
    r"(?:\s+[\w-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'))*\s*/?>",
    re.IGNORECASE,
)
_SCRIPT = re.compile(r"<(sup|sub)>([^<>]{1,40})</\1>", re.IGNORECASE)
_BLOCK_TAGS = frozenset(["p", "br", "div", "li", "dt", "dd", "tr", "table", "ul", "ol", "dl"])

_URL = re.compile(
    r"<?\b(?:https?://|ftp://|www\.)[^\s<>()\[\]{}|\"“”]+(?:\([^\s<>()\[\]{}|\"]*\)[^\s<>()\[\]{}|\"]*)*(?<![.,;:!?'’])>?",
    re.IGNORECASE,
)
_LINK = re.compile(r"(?<!!)\[([^\[\]\n]+)\]\(\s*(?:https?://|www\.|/|#|mailto:)[^()\s]*(?:\s+\"[^\"]*\")?\)")
_IMAGE = re.compile(r"!\[[^\[\]\n]*\]\([^()\s]*(?:\s+\"[^\"]*\")?\)")
_HOLLOW = re.compile(r"[ \t]*(?:\(\s*\)|\[\s*\])")
_LEAD_IN = re.compile(r"[ \t]*\(?\bavailable (?:online )?(?:at|from):?\s*\)?$", re.IGNORECASE)


def _any_of(*patterns: str) -> "re.Pattern[str]":
    return re.compile("|".join(patterns), re.IGNORECASE)


_NOTICE = _any_of(
    r"this is an? open[- ]access article\b.*\b(?:license|licence|distributed|terms)\b.*",
    r"this (?:article|work) is (?:licensed|distributed) under\b.*",
    # "(c) 2019" alone is the third item of a list, so it takes the word before it.
    r"(?:copyright\s*(?:©|\(c\))?|©)\s*(?:19|20)\d\d\b.*",
    r".{0,80}\ball rights reserved\.?\)?\.?",
    r"\(?psycinfo database record \(c\).*",
    r"published by (?:elsevier|(?:john )?wiley|springer|oxford university press)\b.*",
)
_NOTICE_LENGTH = 500
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[A-Z(©\[])")

_HEADING = re.compile(
    r"(?:(#{1,6})\s+)?(?:\*\*)?(?:\d+\.?\s+)?"
    r"(?:references?(?: list)?|bibliography|literature cited|works cited)(?:\*\*)?:?\s*$",
    re.IGNORECASE,
)
_CITES = re.compile(r"\b(?:19|20)\d\d[a-z]?\b|\bdoi\b|\bet al\b", re.IGNORECASE)

# Whole lines only, and none that could be an item of a list: "home" is also a place of care.
_NAVIGATION = _any_of(
    r"skip to (?:main )?content\.?",
    r"(?:back|return) to top\.?",
    r"(?:print|e-?mail|share) this (?:page|article)\.?",
    r"share on (?:facebook|twitter|linkedin|x)\.?",
    r"(?:follow|like) us on .{1,20}",
    r"(?:sign|log) ?in [|/] (?:register|sign ?up)",
    r"subscribe to our newsletter\.?",
    r"(?:cookie|privacy) (?:policy|settings)\.?",
    r"accept (?:all )?cookies\.?",
    r"terms (?:of use|and conditions)\.?",
    r"click here(?: for more information| to .{1,40})?\.?",
    r"download (?:the )?pdf\.?",
    r"view (?:larger|full[- ]size) image\.?",
    r"home(?: [>»] [\w' &-]{1,40}){1,6}",
)


def _escaped_html(cleaned: Cleaned) -> None:
    """HTML that was escaped once more: entities become characters, and the tags among them go."""
    if not _ENTITY.search(cleaned.text):
        return
    text = _ENTITY.sub(_unescaped, cleaned.text)
    text = _ENTITY.sub(_unescaped, text)  # "&amp;lt;" needs two steps
    if "</" in text:
        text = _SCRIPT.sub(lambda m: raised(m[2]) if m[1].lower() == "sup" else lowered(m[2]), text)
        text = _TAG.sub(lambda m: _tag_gone(m, cleaned), text)
    cleaned.text = text


def _unescaped(match: "re.Match[str]") -> str:
    return html.unescape(match[0]).replace("\xa0", " ")


def _tag_gone(match: "re.Match[str]", cleaned: Cleaned) -> str:
    cleaned.removed.append(Removal("escaped_html", match[0]))
    return "\n" if match[2].lower() in _BLOCK_TAGS or match[2][0] in "hH" else ""


def _urls(cleaned: Cleaned) -> None:
    """Web addresses, the brackets that held nothing else, and images; the words of a link stay."""
    if not re.search(r"://|www\.|\]\(", cleaned.text, re.IGNORECASE):
        return
    lines = cleaned.text.split("\n")
    for number, line in enumerate(lines):
        if "://" in line or "www." in line.lower() or "](" in line:
            lines[number] = _without_urls(line, cleaned.removed)
    cleaned.text = "\n".join(lines)


def _without_urls(line: str, removed: list[Removal]) -> str:
    line = _IMAGE.sub(lambda m: _gone("urls", m[0], removed), line)
    line = _LINK.sub(lambda m: _gone("urls", m[0][len(m[1]) + 2 :], removed) + m[1], line)
    if not _URL.search(line):
        return line
    line = _HOLLOW.sub("", _URL.sub(lambda m: _gone("urls", m[0], removed), line))
    return _LEAD_IN.sub("", line).rstrip() if not line.rstrip().endswith("|") else line


def _gone(rule: str, passage: str, removed: list[Removal]) -> str:
    removed.append(Removal(rule, passage))
    return ""


def _notices(cleaned: Cleaned) -> None:
    """Paragraphs, and last sentences of paragraphs, that state copyright or licence."""
    cleaned.text = _by_line(cleaned, "notices", _without_notice)


def _without_notice(line: str) -> str:
    sentences = _SENTENCES.split(line)
    kept = len(sentences)
    while kept and _is_notice(sentences[kept - 1]):
        kept -= 1
    if kept == len(sentences):
        return line
    return line[: line.index(sentences[kept], sum(map(len, sentences[:kept])))].rstrip()


def _is_notice(text: str) -> bool:
    return len(text) <= _NOTICE_LENGTH and bool(_NOTICE.fullmatch(text.strip()))


def _navigation(cleaned: Cleaned) -> None:
    """Lines of a web page that only lead elsewhere."""
    cleaned.text = _by_line(
        cleaned, "navigation", lambda line: "" if _NAVIGATION.fullmatch(line.strip(" \t|-*•")) else line
    )


def _by_line(cleaned: Cleaned, rule: str, change: Callable[[str], str]) -> str:
    """Apply a change that only shortens lines, recording what is gone."""
    lines = []
    for line in cleaned.text.split("\n"):
        new = change(line) if line else line
        if new != line:
            cleaned.removed.append(Removal(rule, line[len(new) :].strip()))
        lines.append(new)
    return "\n".join(lines)


def _references(cleaned: Cleaned) -> None:
    """A list of references under its heading, where half of its lines do look like references."""
    lines = cleaned.text.split("\n")
    starts = [number for number, line in enumerate(lines) if len(line) < 60 and _HEADING.match(line)]
    for start in reversed(starts):
        level = len(_HEADING.match(lines[start])[1] or "") or 6  # type: ignore[index]  # matched above
        end = next((n for n in range(start + 1, len(lines)) if _is_heading(lines[n], level)), len(lines))
        body = [line for line in lines[start + 1 : end] if line.strip()]
        if body and 2 * sum(bool(_CITES.search(line)) for line in body) >= len(body):
            cleaned.removed.append(Removal("references", "\n".join(lines[start:end])))
            del lines[start:end]
    cleaned.text = "\n".join(lines)


def _is_heading(line: str, level: int) -> bool:
    marks = len(line) - len(line.lstrip("#"))
    return 0 < marks <= level and line[marks : marks + 1] == " "


CLEANING_RULES: dict[str, Callable[[Cleaned], None]] = {
    "escaped_html": _escaped_html,
    "references": _references,
    "notices": _notices,
    "navigation": _navigation,
    "urls": _urls,
}
"""Rules by the name that `curate.clean.rules` gives, in the order in which they are applied."""


def clean(text: str, rules: Iterable[str]) -> Cleaned:
    """Apply rules, each at most once, in their own order."""
    wanted = set(rules)
    cleaned = Cleaned(text)
    for name, rule in CLEANING_RULES.items():
        if name in wanted:
            rule(cleaned)
    return cleaned
