"""Pass-key retrieval: a fact hidden in a long text without it (arXiv 2305.16300, section 4.2)."""

import random
import re
from dataclasses import dataclass

from evaluation.questions.base import LETTERS, Place, Question
from evaluation.questions.record import notes
from meditron.config import PasskeyConfig

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DRUGS = (
    "amoxicillin", "azithromycin", "cefazolin", "ciprofloxacin", "clindamycin", "doxycycline", "gentamicin",
    "linezolid", "meropenem", "metronidazole", "nitrofurantoin", "rifampicin", "tigecycline", "vancomycin",
)  # fmt: skip
"""Antibiotics, which the notes of a record never name."""
_BREAKS = 4
"""Tokens of line breaks and of the beginning."""
_LONG_WORD = 7
"""Letters of a word that is a token of its own; longer ones are several."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What is said around a hidden fact."""

    head: str
    """First sentences of the text."""
    statement: str
    """The fact, with `{key}` in it."""
    question: str
    """The question, and the beginning of its answer."""


NUMBER = Wording(
    head="There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there.",
    statement="The pass key is {key}. Remember it. {key} is the pass key.",
    question="What is the pass key? The pass key is",
)
ALLERGY = Wording(
    head="These are the daily notes of a patient's hospital stay. Read all of them. "
    "A question about the patient follows.",
    statement="Allergy: the drug that must not be given to this patient is {key}. "
    "After {key} there was anaphylaxis.",
    question="Which drug must not be given to this patient? "
    "The drug that must not be given to this patient is",
)


def make_passkeys(config: PasskeyConfig) -> list[Question]:
    """The same questions whenever they are asked; the text has one of the ten options."""
    make = {"filler": _number, "record": _allergy}[config.text]
    return [
        make(length, number, number / max(config.questions - 1, 1))
        for length in config.lengths
        for number in range(config.questions)
    ]


def _number(length: int, number: int, depth: float) -> Question:
    drawn = random.Random(f"passkey {length} {number}")
    options = tuple(str(key) for key in drawn.sample(range(100_000, 1_000_000), len(LETTERS)))
    room = length - _overhead(NUMBER, options[0])
    return _hidden(NUMBER, length, number, depth, options, [FILLER] * (room // _size(FILLER)), drawn)


def _allergy(length: int, number: int, depth: float) -> Question:
    drawn = random.Random(f"record {length} {number}")
    options = tuple(drawn.sample(DRUGS, len(LETTERS)))
    room = length - max(_overhead(ALLERGY, option) for option in options)
    kept = []
    for note in notes(drawn):
        room -= _size(note)
        if room < 0:
            break
        kept.append(note)
    return _hidden(ALLERGY, length, number, depth, options, kept, drawn)


def _hidden(
    wording: Wording,
    length: int,
    number: int,
    depth: float,
    options: tuple[str, ...],
    parts: list[str],
    drawn: random.Random,
) -> Question:
    """A question about the fact that stands among the parts; `depth` 0 puts it first."""
    answer = drawn.randrange(len(options))
    before = round(depth * len(parts))
    statement = wording.statement.format(key=options[answer])
    return Question(
        id=f"length {length} number {number + 1}",
        question=wording.question,
        options=options,
        answer=answer,
        context=" ".join([wording.head, *parts[:before], statement, *parts[before:]]),
        subject=f"length {length}",
        place=Place(length=length, depth=depth),
    )


def _overhead(wording: Wording, key: str) -> int:
    """Tokens of all but the text that hides the fact, the answer among them."""
    said = (wording.head, wording.statement.format(key=key), wording.question, key)
    return _BREAKS + sum(_size(part) for part in said)


def _size(text: str) -> int:
    """About the tokens of a Llama: digits, spaces before them, marks, words, and the pieces of long words."""
    found = re.findall(r" (?=\d)|\d|[^\W\d]+|[^\w\s]", text)
    return sum(-(-len(word) // _LONG_WORD) for word in found)
