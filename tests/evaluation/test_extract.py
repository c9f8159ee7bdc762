"""Reading the chosen option off generated texts; `golden/answers.jsonl` holds 200 ugly ones."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.extract import extract, process_results, vote

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
    assert len(GOLDEN) >= 200
    assert sum(case["choice"] is None for case in GOLDEN) >= 40
    assert len(Counter(case["choice"] for case in GOLDEN)) >= 9


@given(st.text(max_size=200), st.sampled_from(sorted(OPTIONS)))
def test_any_text_gives_an_option_or_nothing(text: str, name: str) -> None:
    found = extract(text, OPTIONS[name])
    assert found is None or 0 <= found < len(OPTIONS[name])


@given(st.sampled_from("ABCD"), st.sampled_from(["The answer is {}.", "({})", "{}. because", "Answer: {}"]))
def test_a_plain_statement_is_always_read(letter: str, form: str) -> None:
    assert extract(form.format(letter), OPTIONS["drugs"]) == "ABCD".index(letter)


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
