"""Reading the chosen option off a generated text, strictly: one clear choice, or an invalid answer.

What a text rejects (`A and B are wrong`, `not A`) is taken out of it. Of the rest, the first rule that finds
something decides:

1. a text that begins with a letter or a label alone on its line: what follows may be made up;
2. a statement (`the answer is C`, `option C is correct`, `\\boxed{C}`); of several the last one, because
   a text may correct itself;
3. a text that begins with a letter or an option's text set off by punctuation (`C.`, `(C)`, `Ramipril.`);
4. in a short text, the only option whose text occurs, where options are longer than yes, no and maybe.

What names two options where one is expected (`A and B`, `A or C`, `A.` with B's text), a letter that no
option has, a list of the options, and a choice that is withdrawn (`B. Wait, no`) are invalid.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.mentions import LABEL_LENGTH, LETTER, NAME, WORDS, named, options_of, plain_option

RULES_VERSION = 2
"""Part of the protocol's hash; to be raised when a text may be read otherwise than before."""

_GONE = "\0"
"""Stands where a rejected option stood."""
_SHORT = 200
"""Characters of a text in which naming an option is answering; in a longer one it may be reasoning."""
_LOOK_BACK = 80
"""Characters between the word `answer` and the verb that leads to the choice."""

# How a text rejects options.
_ASIDE = r"(?:\s*,[^,.;\n]{1,60},|\s*\([^()\n]{1,60}\))?"
_MARKS = r"[)\]}\"'.:]*"
_CLOSED = r"[)\]}\"']*"
_LISTED = rf"{NAME}{_CLOSED}(?:(?:,\s*{NAME}{_CLOSED}){{0,9}},?\s*(?:and|or|nor|&)\s+{NAME}{_CLOSED})?"
_NO_CLAIM = r"(?<!\bis )(?<!\bbe )(?<!: )"
_WRONG = (
    r"(?:\w+ly |also |both |all |therefore |thus |the )*(?:not|never|wrong|incorrect|false|excluded|"
    r"ruled out|out|unlikely|less likely|least likely|contraindicated|inappropriate|eliminated|implausible|"
    r"unrelated)\b"
)
_REJECTED = re.compile(
    r"(?:,?\s*(?:and|but)\s+)?"
    r"\b(?:not|neither|nor|never|rather than|instead of|exclud(?:e[sd]?|ing)|eliminat(?:e[sd]?|ing)|"
    r"rul(?:e[sd]?|ing) out|avoid(?:ed|ing)?|reject(?:ed|ing|s)?|(?<=n't))"
    rf"\s+(?:\w+ly |be |either |the )*{_LISTED}"
    rf"|{_NO_CLAIM}{_LISTED}[.:]?{_ASIDE}\s+(?:cannot\b|"
    rf"(?:are|were|seem|appear|(?:would|should|can|could) be)\s+{_WRONG}|"
    r"(?:are|were|do|did|can|could|would|should|have)(?:n't|\s+not)\b)"
    rf"|{_NO_CLAIM}{NAME}{_MARKS}{_ASIDE}\s+(?:(?:is|was|seems|appears)\s+{_WRONG}|"
    r"(?:is|was|does|has|will)(?:n't|\s+not)\b)"
    rf"|{NAME}(?:\)|\s*:|\s+[-–—])+\s*(?:(?:this|it) is )?(?:wrong|incorrect|false|no)\b",
    re.IGNORECASE,
)

# How a text names its choice, or several.
_JOINED = (
    rf"(?:{_MARKS}\s*(?:,(?:\s*(?:and|or|but|then)\b)?|and\b(?: then)?|or\b|but\b|&|/|\+|plus\b|"
    r"(?:followed|combined|together|in combination) (?:with|by)\b|with\b|versus\b|vs\b)\s*"
    rf"|{_CLOSED}[^\S\n]*(?={LETTER}\)))"
)
_CHOICE = rf"(?P<choice>{NAME}(?:{_JOINED}(?:either |both )?{NAME}){{0,9}})"
_BUT = rf"{_GONE},?\s*but(?: rather)?\b"
_ECHO = re.compile(
    "\ue000[).:]+(?:[^\n]*\n)?[^\\w\ue000-\ue020]{0,8}\ue001[).:]+"
    r"(?!\s(?:is|are|was|were|would|can|could|may|might|will|should|does|do|has|have)\b)"
)
"""The beginning of a list of all options, which chooses none; sentences about them are no such list."""

# How a text states its choice.
_ANSWER = r"(?:answer|ans|choice|option|diagnosis|response|solution|conclusion)"
_BEST = r"(?:best|correct|final|right one)(?: one)?"
_VERB = re.compile(
    r"(?P<be>\b(?:is|was|would be|should be|must be|has to be|will be)\b|(?<=\w)'s\b)"
    r"|(?P<mark>:|=>|->|=)|(?P<line>[–—\n]|- )",
    re.IGNORECASE,
)
_SUBJECTS = {
    "be": rf"\b{_ANSWER}s?\b[^.:;!?\n]*|\b{_BEST}|\bit",
    "mark": rf"\b(?!option|choice){_ANSWER}\b(?![^.]*\b(?:options|choices)\b)[^.:;!?\n]*"
    rf"|(?:\b(?:my|chosen|right|{_BEST}) |(?:\A|\n)\s*)(?:option|choice)|\b{_BEST}",
    "line": r"(?:\A|[\n.:!?#])\s*(?:(?:the|my|final|best|correct|right) )*ans(?:wer)?",
}
_LEADS = {
    kind: re.compile(rf"(?s:.*)(?P<subject>{subject})\s*\Z", re.IGNORECASE)
    for kind, subject in _SUBJECTS.items()
}
_SAID = re.compile(
    r"(?<!do )(?<!should )(?<!could )(?<!would )\b(?:i|we)(?:'d| would| will|'ll)? "
    r"(?:choose|chose|pick|select|go with|say|answer|went with|opt for)\b",
    re.IGNORECASE,
)
_FILLER = (
    r"[\s:\"'\[({>=-]*(?:(?:therefore|thus|most likely|probably|likely|definitely|clearly|simply|just|indeed|"
    r"no doubt|option|answer|choice|letter|the)\b[\s:\"'\[({]*){0,6}"
)
_CLAIM = re.compile(
    rf"{_FILLER}(?:{_BUT}{_FILLER})?"
    rf"{_CHOICE}{_MARKS}(?!\s*\?|\s+(?:if|unless)\b)",
    re.IGNORECASE,
)
_APPROVED = re.compile(
    r"(?:\A|[^\w\s]\s*|\n|"
    r"\b(?:so|that|thus|therefore|hence|then|and|but|yet|only|because|since|both|think|believe) )"
    rf"{_CHOICE}{_MARKS}{_ASIDE}\s+(?:is|are|seems?|appears?|(?P<would>would) be|must be) (?P<also>also )?"
    r"(?:the |clearly |indeed |both |all |most |single |only |therefore |thus )*"
    r"(?:(?:correct|right|best|likely|appropriate) (?P<noun>answer|option|choice|one)\b|(?P<answer>answer)\b|"
    r"(?:(?P<correct>correct)|right|best|likely|appropriate)"
    r"(?=\s*(?:[^\w\s]|\Z)|\s+(?:because|since|as|and|but|so|while|here)\b))"
    r"(?!-|\s*\?|[^.;!?\n]*\b(?:if|unless)\b)",
    re.IGNORECASE,
)

# What takes a statement back.
_CLAUSE = re.compile(r"[.;:!?\n,]|\b(?:but|yet|(?<!not )so|hence|thus|therefore|however)\b", re.IGNORECASE)
_DOUBT = re.compile(
    r"\b(?:not|never|cannot|if|(?<!to )(?<!of )(?<!question )whether|unless|unlikely|(?<!no )doubt|thought|"
    r"nobody|no one|wrong|incorrect|false)\b|n't\b",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(r"\bif\b[^.;!?\n]*\Z", re.IGNORECASE)
_REASON = re.compile(
    r"[^.,;!?\n]*\b(?:because|since|as(?! follows)|although|while|whereas)\b[^.,;!?\n]*", re.IGNORECASE
)
_WITHDRAWN = re.compile(
    r"(?:^|[-.!?,;–—])\s*(?:wait\b\s*[-,.!–—]|wait,? no|no,|no\b\s*[-–—]|actually\b|sorry\b|correction:|"
    r"scratch that|on second thought|hold on|let me re\w+|hmm|"
    r"(?:that|this)(?: is|'s) (?:not right|wrong|incorrect))",
    re.IGNORECASE | re.MULTILINE,
)
_NO_ANSWER = re.compile(
    r"\b(?:no|not|none|never|neither|nothing|cannot|without|avoid\w*|exclud\w*|rul\w+ out|wrong|incorrect|if|"
    r"whether|contraindicated|harm\w*|danger\w*|worse\w*|stop\w*|allerg\w*|already|except|other than|but)\b"
    r"|n't\b|\?",
    re.IGNORECASE,
)

# How a text begins with its choice.
_OTHER = rf"[^\w{NAME[1:-1]}]"
_FIRST = re.compile(
    rf"{_OTHER}*(?:{_BUT} )?{_CHOICE}(?P<marks>{_MARKS})"
    rf"(?P<after>\s*\n|\s*\Z|\s*[,;!]|\s[-–—]\s|\s*{_GONE}|\s+\(|\s+(?:because|since|as)\b)?",
    re.IGNORECASE,
)
_NEXT = re.compile(rf"[^\S\n]*{NAME}|{_OTHER}*{LETTER}")
_ITEM = re.compile(rf"[.;!?\n]{_OTHER}{{0,8}}({LETTER})[.:)]|\n({WORDS})")

Names = set[int | None]
"""The options that a rule finds named where a choice belongs: none, the one choice, or too many."""
Claim = tuple[int, Names]
"""The end of a statement in the text, and what it chooses."""


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
    marked = _REJECTED.sub(_GONE, named(text, options))
    labels = any(len(plain_option(option)) <= LABEL_LENGTH for option in options)
    begun, alone = _beginning(marked, labels)
    names = (begun if alone else set()) or _stated(marked) or begun or _mentioned(marked, labels)
    return next(iter(names)) if len(names) == 1 else None


def _beginning(text: str, labels: bool) -> tuple[Names, bool]:
    """What a text begins with, and whether that is one letter or label alone on its line."""
    first = _FIRST.match(text)
    if first is None:
        return set(), False
    marks, after = first["marks"], first["after"]
    ends_line = after is not None and not after.strip(" \n")
    by_letter = re.match(LETTER, first["choice"]) is not None
    if by_letter or labels:
        set_off = after is not None or any(mark in marks for mark in ").:")
    else:
        set_off = ends_line or after == "!" or "." in marks
    if not set_off:
        return set(), False
    if _WITHDRAWN.search(text, first.end("choice")):
        return {None}, False
    rest = ("\n" if ends_line else "") + text[first.end() :]
    names = options_of(first["choice"]) | _listed(rest, first["choice"])
    return names, ends_line and (by_letter or labels) and len(names) == 1 and None not in names


def _listed(rest: str, name: str) -> Names:
    """Options that follow the first one as in a list: at once, or as the next item."""
    following = _NEXT.match(rest)
    found = options_of(following[0]) if following else set()
    for item in _ITEM.finditer(rest):
        if item[2] and re.match(WORDS, name):
            found |= options_of(item[2])
        elif item[1] and ord(item[1]) == ord(name[0]) + 1:
            found |= options_of(item[1])
    return found


def _stated(text: str) -> Names:
    """The last statement of an answer that names an option."""
    claims = [*_led(text), *_said(text), *_approved(text)]
    if not claims:
        return set()
    end, names = max(claims, key=lambda claim: claim[0])
    return {None} if _WITHDRAWN.search(text, end) else names


def _led(text: str) -> Iterator[Claim]:
    """Choices after `the answer is`, `Answer:` and the like."""
    last = 0
    for verb in _VERB.finditer(text):
        before = text[max(last, verb.start() - _LOOK_BACK) : verb.start()]
        subject = _LEADS[str(verb.lastgroup)].match(before)
        if subject is None or _REASON.search(subject["subject"]) or (last and _REASON.fullmatch(before)):
            continue
        claim = _CLAIM.match(text, verb.end())
        if claim is None or _doubted(text, verb.start(), supposed=verb[0].lower() == "would be"):
            continue
        if subject["subject"].lower() != "it" or not re.search(WORDS, claim["choice"]):
            last = claim.end("choice")
            yield last, _chosen(text, claim)


def _said(text: str) -> Iterator[Claim]:
    """Choices after `I choose` and the like."""
    for lead in _SAID.finditer(text):
        claim = _CLAIM.match(text, lead.end())
        if claim and not _doubted(text, lead.start()):
            yield claim.end("choice"), _chosen(text, claim)


def _approved(text: str) -> Iterator[Claim]:
    """Choices of which a text says that they are right; an option's text must be called the answer."""
    for match in _APPROVED.finditer(text):
        called = match["noun"] or match["answer"] or match["correct"] or re.search(LETTER, match["choice"])
        if called and not _doubted(text, match.start("choice"), supposed=match["would"] is not None):
            yield match.end(), {None} if match["also"] else options_of(match["choice"])


def _chosen(text: str, claim: "re.Match[str]") -> Names:
    """The options of a claim; the first of an echoed list of options is none."""
    return {None} if _ECHO.match(text, claim.start("choice")) else options_of(claim["choice"])


def _doubted(text: str, position: int, *, supposed: bool = False) -> bool:
    """Whether the clause before a position takes back what comes after it, or the sentence supposes it."""
    before = text[max(0, position - 200) : position]
    return bool(_DOUBT.search(_CLAUSE.split(before)[-1]) or (supposed and _SUPPOSED.search(before)))


def _mentioned(text: str, labels: bool) -> Names:
    """What a short text names by its words, where it neither denies nor asks."""
    said = not labels and len(text) <= _SHORT and re.search(WORDS, text) and not _NO_ANSWER.search(text)
    return options_of(text) if said else set()
