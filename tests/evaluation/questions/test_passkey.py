"""Pass-key questions: one number in the text, at every depth, in texts of the length that is asked for."""

import re
from pathlib import Path

import pytest

from evaluation.extract import extract
from evaluation.questions import load_questions
from evaluation.questions.passkey import DRUGS, make_passkeys
from meditron.config import PasskeyConfig, TaskConfig
from meditron.errors import ConfigError


def test_the_number_is_in_the_text_and_no_other_option_is() -> None:
    questions = make_passkeys(PasskeyConfig(lengths=[100, 400], questions=5))
    assert [question.subject for question in questions] == ["length 100"] * 5 + ["length 400"] * 5
    for question in questions:
        found = [option for option in question.options if option in question.context]
        assert found == [question.options[question.answer]]
    assert len({question.options for question in questions}) == 10


def test_the_number_lies_at_depths_from_the_first_to_the_last() -> None:
    questions = make_passkeys(PasskeyConfig(lengths=[1000], questions=5))
    depths = [question.context.index("The pass key is") / len(question.context) for question in questions]
    assert depths == sorted(depths)
    assert depths[0] < 0.1
    assert depths[2] == pytest.approx(0.5, abs=0.05)
    assert depths[-1] > 0.9


@pytest.mark.parametrize("length", [128, 1000, 4000])
def test_the_text_is_about_as_long_as_asked(length: int) -> None:
    (question,) = make_passkeys(PasskeyConfig(lengths=[length], questions=1))
    prompt = f"{question.context} {question.question} {question.options[question.answer]}"
    tokens = len(re.findall(r"[0-9]| (?=[0-9])|[A-Za-z]+|[.,?]", prompt))
    assert length - 35 < tokens <= length


def test_the_questions_are_always_the_same_and_have_a_hash() -> None:
    config = TaskConfig(format="passkey", passkey=PasskeyConfig(lengths=[64], questions=3))
    first, second = (load_questions(config, Path()) for _ in range(2))
    assert first.questions == second.questions
    assert first.hashes == second.hashes
    other = load_questions(TaskConfig(format="passkey"), Path())
    assert first.hashes != other.hashes
    assert len(other.questions) == 40


def test_the_number_is_read_off_what_a_model_writes() -> None:
    (question,) = make_passkeys(PasskeyConfig(lengths=[64], questions=1))
    key = question.options[question.answer]
    for text in (f" {key}. Remember it.", f" {key} is the pass key", f"the number {key}"):
        assert extract(text, question.options) == question.answer
    for text in (f" {key[:-1]}", " 1234567", f" {key}9", ""):
        assert extract(text, question.options) is None


def test_a_record_names_one_of_the_drugs_and_no_other() -> None:
    questions = make_passkeys(PasskeyConfig(text="record", lengths=[500, 2000], questions=4))
    for question in questions:
        assert question.place is not None
        found = [drug for drug in DRUGS if drug in question.context]
        assert found == [question.options[question.answer]]
        days = [int(day) for day in re.findall(r"Day (\d+)", question.context)]
        assert days == list(range(1, len(days) + 1))
        before = question.context.index("Allergy: ") / len(question.context)
        assert before == pytest.approx(question.place.depth, abs=0.2)
        for text in (f" {found[0]}. After", f" {found[0]}"):
            assert extract(text, question.options) == question.answer
    assert len({question.context for question in questions}) == 8


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.tasks\.passkey\.lengths: \[10\] must name lengths"):
        PasskeyConfig(lengths=[10])
    with pytest.raises(ConfigError, match=r"evaluate\.tasks\.shots: 2 has no use for passkey"):
        TaskConfig(format="passkey", shots=2)
    with pytest.raises(ConfigError, match=r"limit: 3 has no use for passkey; set .*passkey\.questions"):
        TaskConfig(format="passkey", limit=3)
