"""The identifiers of the HIPAA Safe Harbor list (45 CFR 164.514(b)(2)) as far as their form shows them.

Literature is full of numbers that look like identifiers: doses, ranges, trial registrations, dates of
guidelines. So a number alone is never taken: it needs a check digit, an unmistakable form, or words before
it that say whose it is. Names need a model (`names.py`) and are found here only after "Mr", "Mrs", "Ms" or
where a form says "patient name:".
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from data_curation.phi import checks


class Finding(NamedTuple):
    """An identifier in a text."""

    start: int
    """First character."""
    end: int
    """One past the last."""
    kind: str
    """One of CLASSES."""


class _Pattern(NamedTuple):
    kind: str
    regex: "re.Pattern[str]"
    """Its group `found` is the identifier."""
    valid: Callable[[str], bool] | None = None
    """A further test of the identifier."""


def _alone(identifier: str) -> "re.Pattern[str]":
    """An identifier that its form shows; `_BEFORE` is what it cannot stand behind."""
    return re.compile(rf"(?P<found>{identifier})(?![\w-])")


def _after(words: str, identifier: str) -> "re.Pattern[str]":
    """An identifier after words, in any case, that say what it is."""
    lead = r"\.?\s*(?:(?:number|num|no|id|#)(?![a-z])\.?)?\s*(?:is|was)?\s*[:#=]?\s*"
    return re.compile(rf"(?i:\b(?:{words}){lead})(?P<found>{identifier})(?![\w-])")


_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = (
    r"(?i:\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d\d|(?:19|20)\d\d-\d\d-\d\d"
    rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)\d\d"
    rf"|\d{{1,2}}(?:st|nd|rd|th)? {_MONTH},? (?:19|20)\d\d)"
)
_DATED = (
    r"dob|d\.o\.b\.?|born(?: on)?|date of (?:birth|death|admission|discharge|service|visit)|birth ?date"
    r"|(?:admitted|discharged|seen|dictated|died|deceased)(?: on)?"
)
_NUMBER = r"[A-Z]{0,3}[- ]?\d[\d-]{3,14}\d"
_RECORD = r"mrn|medical record|hospital (?:no|number|#)|patient (?:id|no|number|#)|chart (?:no|number|#)"
_PLAN = r"medicare|medicaid|(?:member|subscriber|beneficiary|insurance|policy|health plan) (?:id|no|number|#)"
_CARD = (
    r"\d(?:\d{3}(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?P=gap)\d{1,7}|\d{3}(?P<space>[ -]?)\d{6}(?P=space)\d{5})"
)
_SERIAL = r"(?=(?:[A-Z-]*\d){4})[A-Z]{0,4}[- ]?\d[\dA-Z-]{4,20}"
_ABROAD = r"\+\d{1,3}[ .-]\(?\d{1,4}\)?(?:[ .-]\d{2,4}){2,4}"
_CALLED = r"tel(?:ephone)?|phone|fax|mobile|pager|call(?:ed)?(?: him| her)?(?: at)?"
_CALL_NUMBER = r"(?:\d{3}[ .-]\d{3}[ .-]\d{4}|0\d{2,4}[ .-]\d{3,4}[ .-]?\d{3,4})"
_PERSON = r"man|woman|male|female|patient|lady|gentleman"
_OLD = rf"(?:9\d|1[01]\d)[- ]?(?:years?|yrs?)[- ]old(?= (?:{_PERSON})\b)"
_STREET = (
    r"\d\d{0,4} (?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln"
    r"|Court|Ct|Terrace|Square)\b\.?(?:,? (?:Apt|Suite|Unit)\.? ?#?\w+)?"
)
_NAMED = r"patient(?:'s)? name|name of (?:the )?patient|pt\.? name"
_NAME = r"[A-Z][\w'’-]+(?:,? [A-Z][\w'’.-]*){1,3}"

# A first character of its own, where there is one, lets the search skip to the next digit or capital.
_BY_FORM = (
    _Pattern("SSN", _alone(r"\d\d\d-\d{2}-\d{4}"), checks.ssn),
    _Pattern("ACCOUNT", _alone(_CARD), checks.luhn),
    _Pattern("ACCOUNT", _alone(r"[A-Z][A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?"), checks.iban),
    _Pattern("IP_ADDRESS", _alone(r"\d\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?!\.?\d)"), checks.ip_address),
    _Pattern("PHONE", _alone(r"\+\d{1,3}[ .-]\(?\d{1,4}\)?(?:[ .-]\d{2,4}){2,4}")),
    _Pattern("PHONE", _alone(r"\(\d{3}\) ?\d{3}[ .-]\d{4}")),
    _Pattern("AGE_OVER_89", _alone(_OLD)),
    _Pattern("ADDRESS", _alone(_STREET)),
    _Pattern("NAME", re.compile(r"M(?:rs?|s)\.? (?P<found>[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)?)")),
)
_EMAIL = _Pattern("EMAIL", _alone(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[A-Za-z]{2,24}"))
_LICENSE = r"dea (?:no|number|#)|driver'?s? licen[sc]e|passport"
_AFTER_WORDS = (
    ("SSN", r"ssn|social security", r"\d{3}[ -]?\d{2}[ -]?\d{4}", checks.ssn),
    ("MEDICAL_RECORD", _RECORD, _NUMBER, None),
    ("HEALTH_PLAN", _PLAN, _NUMBER, None),
    ("HEALTH_PLAN", r"nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", checks.nhs),
    ("LICENSE", r"npi", r"\d{10}", checks.npi),
    ("LICENSE", _LICENSE, _NUMBER, None),
    ("ACCOUNT", r"bank account|account (?:no|number|#)", _NUMBER, None),
    ("VEHICLE", r"vin|vehicle", r"[A-HJ-NPR-Z0-9]{17}", checks.vin),
    ("VEHICLE", r"licen[sc]e plate", r"(?=[A-Z -]*\d)[A-Z0-9]{2,4}[- ][A-Z0-9]{2,4}", None),
    ("DEVICE", r"serial|udi", _SERIAL, None),
    ("PHONE", _CALLED, _CALL_NUMBER, None),
    ("DATE", _DATED, _DATE, None),
    ("NAME", _NAMED, _NAME, None),
)
_BY_WORDS = tuple(_Pattern(kind, _after(words, found), valid) for kind, words, found, valid in _AFTER_WORDS)
# All words in one search of the text in lower case; only where it finds some are the patterns tried.
_WORDS = re.compile("|".join(words for _, words, _, _ in _AFTER_WORDS))
CLASSES = tuple(dict.fromkeys(pattern.kind for pattern in (_EMAIL, *_BY_FORM, *_BY_WORDS)))
"""Kinds of identifiers, which are also the placeholders: [EMAIL], [DATE], ..."""
_CONTEXT = 60
_BEFORE = re.compile(r"[\w.+/-]\Z")
_REGISTERED = re.compile(r"\b(?:NCT|ISRCTN|PMID|PMC|doi|ACTRN|EudraCT|CAS|ISBN|ISSN|GSE|NM_|NP_)\W{0,3}$")


def find(text: str) -> list[Finding]:
    """Identifiers in a text, in order, none inside another."""
    return in_order(_all(text))


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by place; of those that overlap the first stays, of those that begin together the longest."""
    found: list[Finding] = []
    for finding in sorted(findings, key=lambda finding: (finding.start, -finding.end)):
        if not found or finding.start >= found[-1].end:
            found.append(finding)
    return found


def _all(text: str) -> Iterator[Finding]:
    for pattern, match in (*_by_form(text), *_by_words(text)):
        start, end = match.span("found")
        registered = _REGISTERED.search(text[max(0, start - 12) : start])
        if not registered and (pattern.valid is None or pattern.valid(match["found"])):
            yield Finding(start, end, pattern.kind)


def _by_form(text: str) -> Iterator[tuple[_Pattern, "re.Match[str]"]]:
    for pattern in (_EMAIL, *_BY_FORM) if "@" in text else _BY_FORM:
        for match in pattern.regex.finditer(text):
            if not _BEFORE.search(text, max(0, match.start() - 1), match.start()):
                yield pattern, match


def _by_words(text: str) -> Iterator[tuple[_Pattern, "re.Match[str]"]]:
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters are longer in lower case, and places must agree
        lowered = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    for place in _WORDS.finditer(lowered):
        for pattern in _BY_WORDS:
            match = pattern.regex.match(text, place.start())
            if match:
                yield pattern, match


def redact(text: str, findings: Sequence[Finding]) -> str:
    """The text with a typed placeholder for each identifier, such as `[EMAIL]`."""
    pieces, end = [], 0
    for finding in findings:
        pieces += [text[end : finding.start], f"[{finding.kind}]"]
        end = finding.end
    return "".join([*pieces, text[end:]])


def in_context(text: str, position: int, findings: Sequence[Finding]) -> str:
    """The words around one of a text's identifiers, placeholders in the place of all of them."""
    chosen = findings[position]
    start, end = max(0, chosen.start - _CONTEXT), chosen.end + _CONTEXT
    first = last = position
    while first > 0 and findings[first - 1].end > start:
        first -= 1
    while last + 1 < len(findings) and findings[last + 1].start < end:
        last += 1
    # One that the border would cut is taken whole, so that nothing of it is left.
    start, end = min(start, findings[first].start), max(end, findings[last].end)
    shown = findings[first : last + 1]
    moved = [Finding(other.start - start, other.end - start, other.kind) for other in shown]
    return redact(text[start:end], moved)
