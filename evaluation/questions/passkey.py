"""Pass-key retrieval: a number hidden in a long text without content (arXiv 2305.16300, section 4.2)."""

import random
import re

from evaluation.questions.base import LETTERS, Question
from meditron.config import PasskeyConfig

HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
STATEMENT = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key?"
ANSWER = "The pass key is {key}"
_BREAKS = 4
"""Tokens of line breaks and of the beginning."""


def make_passkeys(config: PasskeyConfig) -> list[Question]:
    """The same questions whenever they are asked; the options are ten numbers, of which the text has one."""
    return [
        _make(length, number, config.questions)
        for length in config.lengths
        for number in range(config.questions)
    ]


def _make(length: int, number: int, count: int) -> Question:
    drawn = random.Random(f"passkey {length} {number}")
    options = tuple(str(key) for key in drawn.sample(range(100_000, 1_000_000), len(LETTERS)))
    answer = drawn.randrange(len(options))
    return Question(
        id=f"length {length} number {number + 1}",
        question=QUESTION,
        options=options,
        answer=answer,
        context=_text(length, number / max(count - 1, 1), options[answer]),
        subject=f"length {length}",
    )


def _text(length: int, depth: float, key: str) -> str:
    """A text of at most about `length` tokens with question and answer; `depth` 0 puts the key first."""
    statement = STATEMENT.format(key=key)
    room = length - _BREAKS - sum(_size(part) for part in (HEAD, statement, QUESTION, ANSWER.format(key=key)))
    repeats = max(room // _size(FILLER), 0)
    before = round(depth * repeats)
    filler = [FILLER] * repeats
    return " ".join([HEAD, *filler[:before], statement, *filler[before:]])


def _size(text: str) -> int:
    """Words, marks and digits: about the tokens of a Llama."""
    return len(re.findall(r"\d|[^\W\d]+|[^\w\s]", text))
