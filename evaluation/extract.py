"""Reading the chosen option off a generated text, strictly: one clear choice, or an invalid answer.

The first rule that finds something decides:

1. a statement (`the answer is C`, `option C is correct`, `\\boxed{C}`); of several the last one, because
   a text may correct itself;
2. a text that begins with a letter set off by punctuation (`C.`, `(C)`, `C: ramipril`), or is the letter;
3. a text that begins with an option's text;
4. the only option whose text occurs at all, where options are longer than yes, no and maybe.

What names two options where one is expected (`A and B`, `A or C`), or a letter that no option has, is
invalid. Letters inside words and the article `A` are no choices: `Because of X` is not B, and `A patient`
is not A.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.questions.base import LETTERS

RULES_VERSION = 1
"""Part of the protocol's hash; to be raised when a text may be read otherwise than before."""

_LABEL_LENGTH = 5
_ANSWER = r"(?:answer|choice|option|diagnosis|response|solution|conclusion)"
_STATEMENTS = (
    rf"\b{_ANSWER}s?\b[^.:;\n]{{0,60}}?(?:\bis\b|\bwould be\b|\bshould be\b|\bmust be\b|[:=]|->|=>)+",
    r"\b(?:i|we)(?:'d| would| will|'ll)? (?:choose|chose|pick|select|go with|say|answer|went with|opt for)\b",
    r"\\boxed\s*\{",
    r"####",
)
_LEAD = re.compile("|".join(f"(?:{statement})" for statement in _STATEMENTS), re.IGNORECASE)
_FILLER = re.compile(
    r"[\s:*_`\"'\[({$=>-]*(?:(?:therefore|thus|most likely|probably|likely|definitely|clearly|simply|just|"
    r"indeed|option|answer|choice|letter|the|\\text|\\mathrm|\\textbf)\b[\s:*_`\"'\[({$]*)*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"([A-J])(?![A-Za-z0-9'])(?!-\w)")
_LOWER_LETTER = re.compile(r"([a-j])\s*(?:[)\].}*]|$)")
_AFTER_LETTER = re.compile(r"\s*(?:[\])}.:,;!?\"'*_`$\n-]|$|\\|because\b|since\b|as\b|\()")
_JOINED = r"(?:,\s*(?:and|or)?|and|or|&|/|\+)"
_SECOND = re.compile(rf"\s*[\])}}.*]*\s*{_JOINED}\s*(?:option\s*)?[(\[*]*([A-J])(?![A-Za-z0-9'])")
_BEST = r"(?:best|correct|right|likely|appropriate)(?: (?:answer|option|choice|one))?"
_TRAILING = re.compile(
    r"(?:option|answer|choice)?\s*[(\[*]*\b([A-J])\b[)\]*.:]*(?:[^.\n]{0,80}?)\s"
    r"(?:is|seems|appears|would be) "
    rf"(?:also )?(?:the |clearly the |indeed the )?(?:most |single |only )?{_BEST}",
)
_FIRST = re.compile(
    r"[\s*_`\"']*(?:(?i:option|answer) )?"
    r"(?:[(\[{]\s*(?P<enclosed>[A-J])\s*[)\]}]|\**(?P<plain>[A-J])\**\s*(?:[).:,]|-\s|\n))"
)
_BARE = re.compile(r"[\s([{*_`\"'$]*([A-Ja-j])[\s)\]}.,:;!*_`\"'$]*")
_ANOTHER = re.compile(r"\s*(?:and|or|&|,|/)?\s*[(\[]?([A-J])\b(?=[).,\s]|$)(?P<article> (?!and\b|or\b)\w)?")
_NEGATED = re.compile(
    r"\b(?:not|isn't|never|cannot be|rule[sd]? out|exclude[sd]?|incorrect|wrong)\b", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.;!?\n]")
_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What several answers to one question come to."""

    choice: int | None
    """The option most answers chose; None where no answer was valid."""
    counts: dict[int, int]
    """Option to the number of answers that chose it."""
    invalid: int
    """Answers that could not be read."""
    tie: bool
    """Whether another option had as many; the one that came first was taken."""


def process_results(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """What lm-eval averages: whether the generated answer, or the vote of several, is right and valid."""
    texts = results[0] if isinstance(results[0], list) else [results[0]]
    choice = vote(texts, doc["options"]).choice
    return {"acc": float(choice == doc["answer"]), "invalid": float(choice is None)}


def vote(texts: Sequence[str], options: Sequence[str]) -> Vote:
    """The majority of several answers."""
    choices = [extract(text, options) for text in texts]
    counts = Counter(choice for choice in choices if choice is not None)
    if not counts:
        return Vote(choice=None, counts={}, invalid=len(texts), tie=False)
    (first, most), *others = counts.most_common()
    return Vote(
        choice=first,
        counts=dict(counts),
        invalid=choices.count(None),
        tie=bool(others) and others[0][1] == most,
    )


def extract(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that a text chooses, or None where it chooses none, or more than one."""
    text = _normalised(text)
    for rule in (_by_statement, _by_first_letter, _by_first_words, _by_only_mention):
        found = rule(text, options)
        if found is not _NOTHING:
            return found
    return None


_NOTHING = -1
"""A rule found nothing to judge; None means that it found an answer which is invalid."""


def _normalised(text: str) -> str:
    text = _THINKING.sub(" ", unicodedata.normalize("NFKC", text))
    for quote in "“”«»„":
        text = text.replace(quote, '"')
    return text.replace("’", "'").replace("‘", "'").strip()


def _by_statement(text: str, options: Sequence[str]) -> int | None:
    """The last statement of an answer that names an option."""
    found: list[tuple[int, int | None]] = []
    for lead in _LEAD.finditer(text):
        if _NEGATED.search(_SENTENCE_END.split(text[: lead.start()])[-1][-12:] + lead[0]):
            continue
        choice = _choice_at(text, lead.end(), options)
        if choice is not _NOTHING:
            found.append((lead.end(), choice))
    for match in _TRAILING.finditer(text):
        # "A and B is correct", and the article in "A beta blocker is the best choice", are no letters.
        if not _NEGATED.search(match[0]) and _is_set_off(text, match):
            found.append((match.end(), _index(match[1], options)))
    return max(found, key=lambda pair: pair[0])[1] if found else _NOTHING


def _is_set_off(text: str, match: "re.Match[str]") -> bool:
    """Whether the letter of a match stands for an option rather than being an article."""
    after = text[match.end(1) : match.end(1) + 1]
    named = text[match.start() : match.start(1)].strip(" ([*") != ""
    verb = re.match(r"\s*[)\]*.:]*\s*(?:is|seems|appears|would be)\b", text[match.end(1) :])
    return named or verb is not None or after in ")].:*"


def _choice_at(text: str, start: int, options: Sequence[str]) -> int | None:
    """The option named right after a statement's lead."""
    filler = _FILLER.match(text, start)
    position = filler.end() if filler else start
    if re.match(r"(?:not|n't|neither|none|unclear|unknown)\b", text[position:], re.IGNORECASE):
        return _NOTHING
    by_text = _option_at(text, position, options)
    if by_text is not _NOTHING:
        return by_text
    return _letter_at(text, position, options)


def _letter_at(text: str, position: int, options: Sequence[str]) -> int | None:
    letter = _LETTER.match(text, position)
    if letter is None:
        lower = _LOWER_LETTER.match(text, position)
        return _index(lower[1].upper(), options) if lower else _NOTHING
    second = _SECOND.match(text, letter.end())
    if second and second[1] != letter[1]:
        return None
    if not _AFTER_LETTER.match(text, letter.end()):
        named = _option_at(text, letter.end(), options)
        return _index(letter[1], options) if named == LETTERS.index(letter[1]) else _NOTHING
    return _index(letter[1], options)


def _index(letter: str, options: Sequence[str]) -> int | None:
    index = LETTERS.index(letter)
    return index if index < len(options) else None


def _option_at(text: str, position: int, options: Sequence[str]) -> int | None:
    """The longest option whose text stands at a position, in any case."""
    rest = " ".join(text[position : position + 400].split()).lower().lstrip(" \"'*([")
    fitting = [
        (len(option), index)
        for index, option in enumerate(options)
        if _begins(rest, " ".join(option.split()).lower().rstrip("."))
    ]
    return max(fitting)[1] if fitting else _NOTHING


def _begins(text: str, option: str) -> bool:
    return text.startswith(option) and not text[len(option) : len(option) + 1].isalnum()


def _by_first_letter(text: str, options: Sequence[str]) -> int | None:
    """A text that is a letter, or begins with one that punctuation sets off."""
    if bare := _BARE.fullmatch(text):
        return _index(bare[1].upper(), options)
    match = _FIRST.match(text)
    if match is None:
        return _NOTHING
    letter = match["enclosed"] or match["plain"]
    another = _ANOTHER.match(text, match.end())
    if another and another[1] != letter and not (another[1] in "AI" and another["article"]):
        return None
    return _index(letter, options)


def _by_first_words(text: str, options: Sequence[str]) -> int | None:
    """A text that begins with an option; a short label must be set off, as in `yes, it does`."""
    stripped = text.lstrip(" \"'*_`([")
    found = _option_at(stripped, 0, options)
    if found is _NOTHING or found is None:
        return _NOTHING
    option = " ".join(options[found].split()).rstrip(".")
    if len(option) > _LABEL_LENGTH:
        return found if _alone(stripped, found, options) else None
    rest = stripped[len(option) :]
    both = re.match(r"\s*(?:and|or|/)\s*(\w+)", rest)
    if both and any(both[1].lower() == other.lower() for other in options):
        return None
    return found if re.match(r"\s*[.,;:!)\]\"'*_`\n-]|\s*$", rest) else _NOTHING


def _alone(text: str, found: int, options: Sequence[str]) -> bool:
    """Whether no other option is named beside the one a text begins with (`ramipril or metformin`)."""
    rest = text[len(options[found].rstrip(".")) :]
    joined = re.match(r"\s*(?:,?\s*(?:and|or)|/|&)\s+", rest)
    return joined is None or _option_at(rest, joined.end(), options) in (_NOTHING, found)


def _by_only_mention(text: str, options: Sequence[str]) -> int | None:
    """The only option that occurs; one inside a longer one that also occurs does not count."""
    if any(len(option) <= _LABEL_LENGTH for option in options) or _NEGATED.search(text):
        return _NOTHING
    lowered = " ".join(text.split()).lower()
    spans = {}
    for index, option in enumerate(options):
        words = re.escape(" ".join(option.split()).lower().rstrip("."))
        spans[index] = [match.span() for match in re.finditer(rf"(?<!\w){words}(?!\w)", lowered)]
    everything = [span for own in spans.values() for span in own]
    standing = [
        index
        for index, own in spans.items()
        if any(not any(_inside(span, other) for other in everything) for span in own)
    ]
    return standing[0] if len(standing) == 1 else _NOTHING


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]
