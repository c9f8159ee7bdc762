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
_LISTED = rf"{NAME}{_MARKS}(?:(?:,\s*{NAME}{_MARKS}){{0,9}},?\s*(?:and|or|nor|&)\s+{NAME}{_MARKS})?"
_SUBJECT = r"(?<!\bis )(?<!\bbe )(?<!: )"
_WRONG = (
    r"(?:\w+ly |also |both |all |therefore |thus |the )*(?:not|never|wrong|incorrect|false|excluded|ruled out|"
    r"out|unlikely|less likely|least likely|contraindicated|inappropriate|eliminated|implausible|unrelated)\b"
)
_REJECTED = re.compile(
    r"\b(?:not|neither|nor|never|rather than|instead of|exclud(?:e[sd]?|ing)|eliminat(?:e[sd]?|ing)|"
    r"rul(?:e[sd]?|ing) out|avoid(?:ed|ing)?|reject(?:ed|ing|s)?|(?<=n't))"
    rf"\s+(?:\w+ly |be |either |the )*{_LISTED}"
    rf"|{_SUBJECT}{_LISTED}{_ASIDE}\s+(?:cannot\b|"
    rf"(?:are|were|seem|appear|(?:would|should|can|could) be)\s+{_WRONG}|"
    r"(?:are|were|do|did|can|could|would|should|have)(?:n't|\s+not)\b)"
    rf"|{_SUBJECT}{NAME}{_MARKS}{_ASIDE}\s+(?:(?:is|was|seems|appears)\s+{_WRONG}|"
    r"(?:is|was|does|has|will)(?:n't|\s+not)\b)"
    rf"|{NAME}(?:\)|\s*:|\s+[-–—])+\s*(?:(?:this|it) is )?(?:wrong|incorrect|false)\b",
    re.IGNORECASE,
)

# How a text states its choice.
_ANSWER = r"(?:answer|ans|choice|option|diagnosis|response|solution|conclusion)"
_BEST = r"(?:best|correct|final|right one)(?: one)?"
_VERB = re.compile(
    r"(?P<be>\b(?:is|was|would be|should be|must be|has to be|will be)\b|(?<=\w)'s\b)|(?P<mark>:|=>|->|=)|(?P<line>[–—\n]|- )",
    re.IGNORECASE,
)
_LEADS = {
    kind: re.compile(subject, re.IGNORECASE)
    for kind, subject in {
        "be": rf"(?s:.*)(?P<subject>\b{_ANSWER}s?\b[^.:;!?\n]*|\b{_BEST}|\bit)\s*\Z",
        "mark": rf"(?s:.*)(?P<subject>\b{_ANSWER}\b[^.:;!?\n]*|\b{_BEST})\s*\Z",
        "line": r"(?s:.*)(?:\A|[\n.:!?#])\s*(?P<subject>(?:(?:the|my|final|best|correct|right) )*\bans(?:wer)?)\s*\Z",
    }.items()
}
_SAID = re.compile(
    r"\b(?:i|we)(?:'d| would| will|'ll)? (?:choose|chose|pick|select|go with|say|answer|went with|opt for)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.;:!?\n,]|\b(?:but|yet|(?<!not )so|hence|thus|therefore|however)\b", re.IGNORECASE)
_DOUBT = re.compile(
    r"\b(?:not|never|cannot|if|because|since|(?<!to )(?<!of )(?<!question )whether|unless|(?<!no )doubt|wrong|incorrect|false)\b|n't\b", re.IGNORECASE
)
_ANOTHER_MATTER = re.compile(r"\b(?:because|since|although|while|whereas)\b", re.IGNORECASE)
_FILLER = (
    r"[\s:\"'\[({>=-]*(?:(?:therefore|thus|most likely|probably|likely|definitely|clearly|simply|just|indeed|"
    r"no doubt|option|answer|choice|letter|the)\b[\s:\"'\[({]*){0,6}"
)
_JOINED = (
    rf"(?:{_MARKS}\s*(?:,(?:\s*(?:and|or|but|then)\b)?|and\b|or\b|but\b|&|/|\+|plus\b|with\b|versus\b|vs\b)\s*"
    rf"|[)\]}}\"']*[^\S\n]*(?={LETTER}\)))"
)
_CHOICE = rf"{NAME}(?:{_JOINED}(?:either |both )?{NAME}){{0,9}}"
_CLAIM = re.compile(
    rf"{_FILLER}(?:{_GONE},?\s*but(?: rather)?\b{_FILLER})?(?P<choice>{_CHOICE}){_MARKS}(?!\s*\?)",
    re.IGNORECASE,
)
_APPROVED = re.compile(
    r"(?:\A|[^\w\s]\s*|\n|\b(?:so|that|thus|therefore|hence|then|and|but|yet|only|because|since|both|think|believe) )"
    rf"(?P<choice>{_CHOICE}){_MARKS}{_ASIDE}\s+(?:is|are|seems?|appears?|would be|must be) (?P<also>also )?"
    r"(?:the |clearly |indeed |both |all |most |single |only |therefore |thus )*"
    r"(?:(?P<plain>correct|right|best|likely|appropriate)(?: (?P<noun>answer|option|choice|one))?|(?P<answer>answer))"
    r"\b(?!-| to\b|\s*\?)",
    re.IGNORECASE,
)
_WITHDRAWN = re.compile(
    r"(?:^|[-.!?,;–—])\s*(?:wait\b\s*[-,.!–—]|wait,? no|no,|no\b\s*[-–—]|actually\b|sorry\b|correction\b|scratch that|"
    r"on second thought|hold on|let me re\w+|hmm|(?:that|this)(?: is|'s) (?:not right|wrong|incorrect))",
    re.IGNORECASE | re.MULTILINE,
)

# How a text begins with its choice.
_OTHER = rf"[^\w{NAME[1:-1]}]*"
_FIRST = re.compile(
    rf"{_OTHER}(?P<choice>{_CHOICE})(?P<marks>{_MARKS})"
    r"(?P<after>\s*\n|\s*\Z|\s*[,;!]|\s[-–—]\s|\s+(?:because|since|as)\b)?",
    re.IGNORECASE,
)
_NEXT = re.compile(rf"[^\S\n]*{NAME}|{_OTHER}{LETTER}")
_MARKED = re.compile(rf"[.;!?\n][^\w{NAME[1:-1]}]{{0,8}}({LETTER})[.:)]|\n({WORDS})")

# What makes naming an option no answer.
_NEGATED = re.compile(
    r"\b(?:no|not|never|neither|cannot|without|avoid(?:ed|ing)?|exclude[sd]?|rule[sd]? out|wrong|incorrect|if|"
    r"whether|contraindicated|harm(?:s|ful)?)\b|n't\b",
    re.IGNORECASE,
)

Names = set[int | None]
"""The options that a rule finds named where a choice belongs: none, the one choice, or too many."""


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
    """What a text begins with, and whether that is a letter or label alone on its line."""
    first = _FIRST.match(text)
    if first is None:
        return set(), False
    marks, after, rest = first["marks"], first["after"], text[first.end() :]
    ends_line = after is not None and not after.strip()
    letter = re.match(LETTER, first["choice"]) is not None
    if letter or labels:
        set_off = after is not None or any(mark in marks for mark in ").:")
    else:
        set_off = ends_line or after == "!" or "." in marks
    if not set_off:
        return set(), False
    names = options_of(first["choice"]) | _listed(rest, first["choice"], new_line=ends_line)
    if _WITHDRAWN.search(text, first.end("choice")):
        return {None}, False
    return names, ends_line and (letter or labels) and len(names) == 1 and None not in names


def _listed(rest: str, name: str, *, new_line: bool) -> Names:
    """Options that follow the first one as in a list: at once, or at the beginnings of lines."""
    found: Names = set()
    if following := _NEXT.match(("\n" if new_line else "") + rest):
        found |= options_of(following[0])
    (first,) = list(options_of(name))[:1]
    for match in _MARKED.finditer(rest):
        if match[2]:
            found |= options_of(match[2]) if re.match(WORDS, name) else set()
        elif first is not None and options_of(match[1]) == {first + 1}:
            found.add(first + 1)
    return found


def _stated(text: str) -> Names:
    """The last statement of an answer that names an option."""
    claims = [*_led(text), *_said(text), *_approved(text)]
    if not claims:
        return set()
    end, names = max(claims, key=lambda claim: claim[0])
    return {None} if _WITHDRAWN.search(text, end) else names


def _led(text: str) -> Iterator[tuple[int, Names]]:
    """Choices after `the answer is`, `Answer:` and the like, each with its end."""
    last = 0
    for verb in _VERB.finditer(text):
        kind = str(verb.lastgroup)
        subject = _LEADS[kind].match(text[max(last, verb.start() - _LOOK_BACK) : verb.start()])
        if subject is None or _ANOTHER_MATTER.search(subject["subject"]) or _doubted(text, verb.start()):
            continue
        claim = _CLAIM.match(text, verb.end())
        if claim and not (subject["subject"].lower() == "it" and re.search(WORDS, claim["choice"])):
            last = claim.end("choice")
            yield last, _chosen(text, claim)


def _said(text: str) -> Iterator[tuple[int, Names]]:
    """Choices after `I choose` and the like."""
    for lead in _SAID.finditer(text):
        claim = _CLAIM.match(text, lead.end())
        if claim and not _doubted(text, lead.start()):
            yield claim.end("choice"), _chosen(text, claim)


def _approved(text: str) -> Iterator[tuple[int, Names]]:
    """Choices of which a text says that they are right; an option's text must be called the answer."""
    for match in _APPROVED.finditer(text):
        if (
            re.search(LETTER, match["choice"])
            or match["noun"]
            or match["answer"]
            or match["plain"] == "correct"
        ):
            if not _doubted(text, match.start("choice")):
                yield match.end(), {None} if match["also"] else options_of(match["choice"])


def _chosen(text: str, claim: "re.Match[str]") -> Names:
    """The options of a claim; the first of an echoed list of options is none."""
    echoed = re.match("\ue000[).:]+\\s*\ue001[).:]", text[claim.start("choice") :])
    return {None} if echoed else options_of(claim["choice"])


def _doubted(text: str, position: int) -> bool:
    """Whether the clause before a position takes back what comes after it."""
    return bool(_DOUBT.search(_CLAUSE.split(text[max(0, position - 200) : position])[-1]))


def _mentioned(text: str, labels: bool) -> Names:
    """What a short text names by its words, where no sentence that does so denies or asks."""
    if labels or len(text) > _SHORT or "?" in text or not re.search(WORDS, text):
        return set()
    naming = [sentence for sentence in re.split(r"[.;!\n]", text) if re.search(NAME, sentence)]
    return set() if any(map(_NEGATED.search, naming)) else options_of(text)
