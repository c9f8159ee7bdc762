"""The identifiers of the HIPAA Safe Harbor list (45 CFR 164.514(b)(2)) as far as their form shows them.

Literature is full of numbers that look like identifiers: doses, ranges, trial registrations, dates of
guidelines. So a number alone is never taken: it needs a check digit, an unmistakable form, or words before
it that say whose it is. Names need a model (`names.py`) and are found here only after "Mr", "Mrs", "Ms" or
where a form says "patient name:".

Hardly a line of literature holds what a pattern matches. So scans, each one search of a whole text, find the
lines that may, and only these are read pattern by pattern.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, product
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


_JOINED = r"[\w.+/-]"
"""What an identifier cannot stand right behind."""


def _alone(identifier: str) -> "re.Pattern[str]":
    """An identifier that its form shows."""
    return re.compile(rf"(?P<found>{identifier})(?![\w-])")


def _after(words: Sequence[str], identifier: str) -> "re.Pattern[str]":
    """An identifier after words, in any case, that say what it is."""
    return re.compile(rf"(?i:\b(?:{'|'.join(words)}){_LEAD})(?P<found>{identifier})(?![\w-])")


# Possessive, or there would be too many ways to share a long run of spaces out.
_LEAD = r"\.?\s*+(?:(?:number|num|no|id|#)(?![a-z])\.?)?\s*+(?:is|was)?\s*+[:#=]?\s*+"
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
    *("dob", r"d\.o\.b\.?", "born(?: on)?", "date of (?:birth|death|admission|discharge|service|visit)"),
    *("birth ?date", "admitted(?: on)?", "discharged(?: on)?", "seen(?: on)?", "dictated(?: on)?"),
    *("died(?: on)?", "deceased(?: on)?"),
)
_NUMBER = r"[A-Z]{0,3}[- ]?\d[\d-]{3,14}\d"
_NO, _ID = "(?:no|number|#)", "(?:id|no|number|#)"
_RECORD = ("mrn", "medical record", f"hospital {_NO}", f"patient {_ID}", f"chart {_NO}")
_HOLDERS = ("member", "subscriber", "beneficiary", "insurance", "policy", "health plan")
_PLAN = ("medicare", "medicaid", *(f"{holder} {_ID}" for holder in _HOLDERS))
_CARD = (
    r"\d(?:\d{3}(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?P=gap)\d{1,7}|\d{3}(?P<space>[ -]?)\d{6}(?P=space)\d{5})"
)
_SERIAL = r"(?=(?:[A-Z-]{0,25}\d){4})[A-Z]{0,4}[- ]?\d[\dA-Z-]{4,20}"
_CALLED = ("tel(?:ephone)?", "phone", "fax", "mobile", "pager", "call(?:ed)?(?: him| her)?(?: at)?")
_CALL_NUMBER = r"(?:\d{3}[ .-]\d{3}[ .-]\d{4}|0\d{2,4}[ .-]\d{3,4}[ .-]?\d{3,4})"
_PERSON = r"man|woman|male|female|patient|lady|gentleman"
_OLD = rf"\d(?:(?<=9)\d|(?<=1)[01]\d)[- ]?(?:years?|yrs?)[- ]old(?= (?:{_PERSON})\b)"
_STREET = (
    r"\d\d{0,4} (?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln"
    r"|Court|Ct|Terrace|Square)\b\.?(?:,? (?:Apt|Suite|Unit)\.? ?#?\w+)?"
)
_NAMED = ("patient(?:'s)? name", "name of (?:the )?patient", r"pt\.? name")
_NAME = r"[A-Z][\w'’-]+(?:,? [A-Z][\w'’.-]*){1,3}"

# Begin with a character so rare that a search of the whole text takes no time.
_BY_MARK = (
    _Pattern("PHONE", _alone(r"\+\d{1,3}[ .-]\(?\d{1,4}\)?(?:[ .-]\d{2,4}){2,4}")),
    _Pattern("PHONE", _alone(r"\(\d{3}\) ?\d{3}[ .-]\d{4}")),
    _Pattern("NAME", re.compile(r"M(?:rs?|s)\.? (?P<found>[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)?)")),
)
_EMAIL = _Pattern("EMAIL", _alone(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[A-Za-z]{2,24}"))
_FROM_DIGIT = (
    ("SSN", r"\d\d\d-\d{2}-\d{4}", checks.ssn),
    ("ACCOUNT", _CARD, checks.luhn),
    ("IP_ADDRESS", r"\d\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?!\.?\d)", checks.ip_address),
    ("AGE_OVER_89", _OLD, None),
    ("ADDRESS", _STREET, None),
)
_IBAN = r"(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?"
_BY_DIGIT = (
    *(_Pattern(kind, _alone(found), valid) for kind, found, valid in _FROM_DIGIT),
    _Pattern("ACCOUNT", _alone(rf"[A-Z][A-Z]\d\d{_IBAN}"), checks.iban),
)
_LICENSE = (f"dea {_NO}", "driver'?s? licen[sc]e", "passport")
_AFTER_WORDS = (
    ("SSN", ("ssn", "social security"), r"\d{3}[ -]?\d{2}[ -]?\d{4}", checks.ssn),
    ("MEDICAL_RECORD", _RECORD, _NUMBER, None),
    ("HEALTH_PLAN", _PLAN, _NUMBER, None),
    ("HEALTH_PLAN", ("nhs",), r"\d{3}[ -]?\d{3}[ -]?\d{4}", checks.nhs),
    ("LICENSE", ("npi",), r"\d{10}", checks.npi),
    ("LICENSE", _LICENSE, _NUMBER, None),
    ("ACCOUNT", ("bank account", f"account {_NO}"), _NUMBER, None),
    ("VEHICLE", ("vin", "vehicle"), r"[A-HJ-NPR-Z0-9]{17}", checks.vin),
    ("VEHICLE", ("licen[sc]e plate",), r"(?=[A-Z -]{0,8}\d)[A-Z0-9]{2,4}[- ][A-Z0-9]{2,4}", None),
    ("DEVICE", ("serial", "udi"), _SERIAL, None),
    ("PHONE", _CALLED, _CALL_NUMBER, None),
    ("DATE", _DATED, _DATE, None),
    ("NAME", _NAMED, _NAME, None),
)
_BY_WORDS = tuple(_Pattern(kind, _after(words, found), valid) for kind, words, found, valid in _AFTER_WORDS)
_WORDS = re.compile("|".join(word for _, words, _, _ in _AFTER_WORDS for word in words))


def _scan_for_words() -> "re.Pattern[str]":
    """Of a text in lower case: what may be an identifier after its words, one branch a first letter."""
    wanted = sorted((word, found) for _, words, found, _ in _AFTER_WORDS for word in words)
    branches = (
        f"{letter}(?:{'|'.join(f'{word[1:]}(?i:{_LEAD}(?:{found}))' for word, found in same)})"
        for letter, same in groupby(wanted, key=lambda pair: pair[0][0])
    )
    return re.compile(f"[^a-z0-9_](?:{'|'.join(branches)})")


# What a digit begins, or for an IBAN goes on. A scan is quick where it begins with one set of characters.
_REST = "|".join(found.removeprefix(r"\d") for _, found, _ in _FROM_DIGIT)
_DIGITS = re.compile(rf"\d(?:(?<!{_JOINED}\d)(?:{_REST})|\d(?<=[A-Z][A-Z]\d\d){_IBAN})")
_AFTER = _scan_for_words()
_AT = re.compile("@")
CLASSES = tuple(dict.fromkeys(pattern.kind for pattern in (_EMAIL, *_BY_DIGIT, *_BY_MARK, *_BY_WORDS)))
"""Kinds of identifiers, which are also the placeholders: [EMAIL], [DATE], ..."""
_CONTEXT = 60
_BEFORE = re.compile(rf"{_JOINED}\Z")
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


def _lines(scan: "re.Pattern[str]", text: str) -> Iterator[tuple[int, int]]:
    """Where the lines begin and end in which a scan finds something."""
    padded, end = f"\n{text}", 0  # so that the first line, too, has a character before it
    while match := scan.search(padded, end):
        start = padded.rfind("\n", 0, match.start() + 1)
        end = padded.find("\n", match.start() + 1)
        end = len(padded) if end < 0 else end
        yield start, end - 1


def _by_form(text: str) -> Iterator[tuple[_Pattern, "re.Match[str]"]]:
    ways = ((_BY_DIGIT, _lines(_DIGITS, text)), ((_EMAIL,), _lines(_AT, text)), (_BY_MARK, [(0, len(text))]))
    for patterns, places in ways:
        for (start, end), pattern in product(places, patterns):
            for match in pattern.regex.finditer(text, start, end):
                if not _BEFORE.search(text, max(0, match.start() - 1), match.start()):
                    yield pattern, match


def _by_words(text: str) -> Iterator[tuple[_Pattern, "re.Match[str]"]]:
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters are longer in lower case, and places must agree
        lowered = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    for start, end in _lines(_AFTER, lowered):
        for place in _WORDS.finditer(lowered, start, end):
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
