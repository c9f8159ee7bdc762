"""Reading the chosen option off generated texts; `golden/answers.jsonl` holds 345 ugly ones."""

import json
import re
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from evaluation.extract import extract, process_results, vote
from evaluation.protocols import Protocol
from meditron.config import GenerationConfig

OPTIONS = {
    "drugs": ["Ramipril", "Adrenaline", "Beta blockers", "Antibiotics"],
    "labels": ["yes", "no", "maybe"],
    "five": ["Chloramphenicol", "Gentamicin", "Ciprofloxacin", "Ceftriaxone", "Trimethoprim"],
    "numbers": ["1.1 mg/dL", "2.0 mg/dL", "2.3 mg/dL", "1.7 mg/dL"],
    "nested": [
        "Heart failure",
        "Heart failure with preserved ejection fraction",
        "Pulmonary embolism",
        "Pneumonia",
    ],
    "ten": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
}
GOLDEN = [
    json.loads(line) for line in (Path(__file__).parent / "golden" / "answers.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: repr(case["text"][:40]))
def test_golden_answers(case: dict[str, str | None]) -> None:
    found = extract(str(case["text"]), OPTIONS[str(case["options"])])
    assert (None if found is None else "ABCDEFGHIJ"[found]) == case["choice"]


def test_the_golden_file_is_whole() -> None:
    assert len(GOLDEN) >= 345
    assert sum(case["choice"] is None for case in GOLDEN) >= 80
    assert sum(len(str(case["text"])) > 300 for case in GOLDEN) >= 15
    assert len(Counter(case["choice"] for case in GOLDEN)) >= 9


@given(st.text(max_size=200), st.sampled_from(sorted(OPTIONS)))
def test_any_text_gives_an_option_or_nothing(text: str, name: str) -> None:
    found = extract(text, OPTIONS[name])
    assert found is None or 0 <= found < len(OPTIONS[name])


@given(st.sampled_from("ABCD"), st.sampled_from(["The answer is {}.", "({})", "{}. because", "Answer: {}"]))
def test_a_plain_statement_is_always_read(letter: str, form: str) -> None:
    assert extract(form.format(letter), OPTIONS["drugs"]) == "ABCD".index(letter)


def names_an_option(text: str, options: list[str]) -> bool:
    plain = unicodedata.normalize("NFKC", text)
    names = "|".join(map(re.escape, [*"ABCDEFGHIJ", *options]))
    return re.search(rf"(?<![A-Za-z0-9])(?:{names})(?![A-Za-z0-9])", plain, re.IGNORECASE) is not None


WORDS = [
    "the answer is",
    "Answer:",
    "not",
    "ramiprils",
    "Because",
    "noisy",
    "yesterday",
    "AB",
    "\\boxed{",
    "(",
    ".",
]


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), max_size=12).map(" ".join),
    ),
    st.sampled_from(sorted(OPTIONS)),
)
def test_a_text_that_names_no_option_is_invalid(text: str, name: str) -> None:
    assume(not names_an_option(text, OPTIONS[name]))
    assert extract(text, OPTIONS[name]) is None


TALK = [
    "The patient is pale",
    "Options A, B and C are incorrect",
    "ramipril is wrong",
    "the other answers do not fit",
    "A beta blocker slows the heart",
    "First I thought the answer is A",
    "The answer is B. Wait, no",
    "it isn't C",
    "Antibiotics or adrenaline may be tried",
    "B, C",
    "Options:\nA. Ramipril\nB. Adrenaline\nC. Beta blockers\nD. Antibiotics\n",
    "Hepatitis B was ruled out",
    "No doubt, the choice of drug is hard",
    "The diagnosis is C. difficile colitis",
    "Is the answer D?",
]


@given(
    st.lists(
        st.one_of(st.sampled_from(TALK), st.text(alphabet="klpuvwxyz ,.!?:;-()\n", max_size=40)), max_size=6
    ),
    st.sampled_from([". ", ", so ", "\n", ".\n\nTherefore, ", "; hence "]),
    st.sampled_from("ABCD"),
    st.booleans(),
)
@example([], "", "B", True)
@example(["it isn't C"], ". ", "A", False)
def test_a_text_that_concludes_is_read(talk: list[str], join: str, letter: str, in_words: bool) -> None:
    options = OPTIONS["drugs"]
    choice = options["ABCD".index(letter)].lower() if in_words else letter
    assert extract(f"{'. '.join(talk)}{join}the answer is {choice}", options) == "ABCD".index(letter)


@pytest.mark.parametrize(
    "text", ["A, " * 3000, "." * 9000, "answer " * 2000, "the answer is " * 900, "A\n" * 4000, '"(' * 4000]
)
def test_a_long_text_takes_no_time(text: str) -> None:
    start = time.perf_counter()
    extract(text, OPTIONS["drugs"])
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("options", "text", "choice"),
    [
        (["AB", "A", "O", "B"], "The answer is A", None),  # option A, or option B whose text is A?
        (["AB", "A", "O", "B"], "The answer is AB", 0),
        (["A", "B", "AB", "O"], "The answer is B", 1),
        (["Zinc", "Iron", "Zinc"], "The answer is zinc", None),
        (["Zinc", "Iron", "Zinc"], "The answer is C", 2),
        (["C. difficile", "E. coli", "Both A and B"], "The answer is C. difficile.", 0),
        (["C. difficile", "E. coli", "Both A and B"], "Both A and B", 2),
        (["***", "$5", "HLA-B*27"], "The answer is HLA-B*27.", 2),
        (["***", "$5", "HLA-B*27"], "The answer is D", None),
    ],
)
def test_options_that_look_like_letters_or_each_other(
    options: list[str], text: str, choice: int | None
) -> None:
    assert extract(text, options) == choice


@pytest.mark.parametrize("kind", ["generate", "cot", "vote"])
def test_a_next_question_stops_the_text_and_is_not_read(kind: str) -> None:
    (stop,) = Protocol(name=kind).settings(GenerationConfig(), 1)["generation_kwargs"]["until"]
    tasks = Path(__file__).parents[2] / "evaluation" / "tasks"
    assert f"until: [{json.dumps(stop)}]" in (tasks / f"_{kind}.yaml").read_text()
    for head in ("Question: Next?", "Question 2: Next?"):
        text = f"The answer is C\n\n{head}\nThe answer is: A"
        assert text.split(stop)[0] == "The answer is C"
        assert extract(text, OPTIONS["drugs"]) == 2


def test_votes_and_ties() -> None:
    options = OPTIONS["drugs"]
    clear = vote(["A", "B", "The answer is B.", "no idea", "C"], options)
    assert (clear.choice, clear.counts, clear.invalid, clear.tie) == (1, {0: 1, 1: 2, 2: 1}, 1, False)
    tied = vote(["C", "A", "A", "C"], options)
    assert (tied.choice, tied.tie) == (2, True)
    none = vote(["", "?"], options)
    assert (none.choice, none.invalid, none.tie) == (None, 2, False)


def test_what_lm_eval_averages() -> None:
    doc = {"options": OPTIONS["labels"], "answer": 2}
    assert process_results(doc, ["The answer is maybe."]) == {"acc": 1.0, "invalid": 0.0}
    assert process_results(doc, ["It depends."]) == {"acc": 0.0, "invalid": 1.0}
    assert process_results(doc, [["maybe", "no", "maybe"]]) == {"acc": 1.0, "invalid": 0.0}
