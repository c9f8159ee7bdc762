"""Every form of question file: what is read, what is refused and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.questions import Question, load_questions
from meditron.config import ColumnsConfig, TaskConfig
from meditron.errors import ConfigError, InputError
from tests.evaluation.conftest import medqa_record, write_lines, write_mmlu, write_pubmedqa


def reasons(config: TaskConfig, root: Path) -> list[str]:
    return [bad.reason for bad in load_questions(config, root).bad]


def test_medqa_with_letters_as_keys(tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1), medqa_record(2)])
    loaded = load_questions(TaskConfig(format="medqa", path="medqa.jsonl"), tmp_path)
    assert loaded.questions[0] == Question(
        id="line 1",
        question="Patient 1 has diabetes, BP <101/60. Which drug?",
        options=("adrenaline", "metformin", "amlodipine", "salbutamol"),
        answer=1,
        subject="step2",
    )
    assert loaded.records == 2
    assert list(loaded.hashes) == ["medqa.jsonl"]


def test_medqa_as_a_list_of_five_lettered_options(tmp_path: Path) -> None:
    record = {"question": "Which?", "options": ["A. a", "B. b, or so", "C. c", "D. d", "E. e"]}
    records = [{**record, "answer": "b, or so"}, {**record, "answer": "E. e"}, {**record, "answer": "C"}]
    (tmp_path / "medqa.json").write_text(json.dumps(records))
    questions = load_questions(TaskConfig(format="medqa", path="medqa.json"), tmp_path).questions
    assert questions[0].options == ("a", "b, or so", "c", "d", "e")
    assert [question.answer for question in questions] == [1, 4, 2]


@pytest.mark.parametrize(("first", "golds"), [(0, [0, 1, 2, 3]), (1, [])])
def test_medqa_counts_from_one_or_zero(tmp_path: Path, first: int, golds: list[int]) -> None:
    numbers = {"options": ["a", "b", "c", "d"], "question": "Which?"}
    records = [{**numbers, "answer_idx": index, "answer": "abcd"[index]} for index in range(4)]
    write_lines(tmp_path / "medqa.jsonl", [*records, {**numbers, "answer_idx": "B"}])
    loaded = load_questions(TaskConfig(format="medqa", path="medqa.jsonl", first_answer=first), tmp_path)
    assert [question.answer for question in loaded.questions] == [*golds, 1]
    assert len(loaded.bad) == 4 - len(golds)


def test_options_that_are_letters_or_numbers_themselves(tmp_path: Path) -> None:
    record = {"question": "Which type?", "options": ["B", "A", "2"]}
    records = [{**record, "answer_idx": "A"}, {**record, "answer": "A"}, {**record, "answer_idx": "2"}]
    write_lines(tmp_path / "medqa.jsonl", records)
    loaded = load_questions(TaskConfig(format="medqa", path="medqa.jsonl"), tmp_path)
    assert [question.answer for question in loaded.questions] == [0, 1, 1]


def test_letters_that_belong_to_the_options_stay(tmp_path: Path) -> None:
    record = {"question": "Which group?", "options": ["A. baumannii", "K. oxytoca"], "answer": "K. oxytoca"}
    write_lines(tmp_path / "medqa.jsonl", [record])
    (question,) = load_questions(TaskConfig(format="medqa", path="medqa.jsonl"), tmp_path).questions
    assert question.options == ("A. baumannii", "K. oxytoca")
    assert question.answer == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": ""}, "no text `question`"),
        ({"options": None}, "no `options`"),
        ({"options": {"A": "x", "C": "y"}}, "the keys of `options` are not A, B, C, ..."),
        ({"options": {"A": "x"}, "answer_idx": "A", "answer": "x"}, "1 options, 2 to 10 are possible"),
        ({"options": {"A": "x", "B": " "}, "answer_idx": "A", "answer": "x"}, "an option is empty"),
        ({"answer_idx": None, "answer": None}, "no answer"),
        ({"answer_idx": "E"}, "the answer 'E' is none of the 4 options"),
        ({"answer_idx": None, "answer": "aspirin"}, "the answer 'aspirin' is none of the options"),
        ({"answer_idx": 0}, "the answer 0 is none of the 4 options"),
        (
            {"answer_idx": "A"},
            "`answer_idx` 'A' is 'metformin', but `answer` is 'salbutamol'; "
            "numbers count from first_answer = 1",
        ),
    ],
)
def test_a_bad_record_has_its_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1), {**medqa_record(2), **change}])
    loaded = load_questions(TaskConfig(format="medqa", path="medqa.jsonl"), tmp_path)
    assert len(loaded.questions) == 1
    assert [(bad.record, bad.reason) for bad in loaded.bad] == [("line 2", reason)]


def test_a_cut_line_and_a_line_separator_inside_a_text(tmp_path: Path) -> None:
    record = {**medqa_record(1), "question": "before\u2028after\x85?"}
    text = json.dumps(record, ensure_ascii=False) + '\n{"question": "cut'
    (tmp_path / "medqa.jsonl").write_text(text)
    loaded = load_questions(TaskConfig(format="medqa", path="medqa.jsonl"), tmp_path)
    assert loaded.questions[0].question == "before\u2028after\x85?"
    assert loaded.bad[0].record == "line 2"
    assert loaded.bad[0].reason.startswith("not JSON")


def test_pubmedqa_asks_what_the_ground_truth_names(tmp_path: Path) -> None:
    write_pubmedqa(tmp_path, ["yes", "no", "maybe", "yes", "no"])
    config = TaskConfig(
        format="pubmedqa",
        path="pubmedqa.json",
        ground_truth="pubmedqa_ground_truth.json",
        shots=1,
        shots_path="pubmedqa.json",
    )
    loaded = load_questions(config, tmp_path)
    assert [question.id for question in loaded.questions] == ["1000", "1001", "1002"]
    assert [question.options[question.answer] for question in loaded.questions] == ["yes", "no", "maybe"]
    assert loaded.questions[0].context == "In 20 patients it was tried.\nMortality fell (p <0.05)."
    assert [example.id for example in loaded.pool] == ["1003", "1004"]
    assert set(loaded.hashes) == {"pubmedqa.json", "pubmedqa_ground_truth.json"}


def test_pubmedqa_counts_what_is_missing_or_has_another_label(tmp_path: Path) -> None:
    write_pubmedqa(tmp_path, ["yes", "no", "yes", "yes"])
    (tmp_path / "truth.json").write_text(json.dumps({"1000": "yes", "1001": "perhaps", "77": "no"}))
    config = TaskConfig(format="pubmedqa", path="pubmedqa.json", ground_truth="truth.json")
    assert reasons(config, tmp_path) == [
        "label 'perhaps' instead of yes, no or maybe",
        "is in the ground truth but not in the file",
    ]


@pytest.mark.parametrize(("first", "answer"), [(1, 1), (0, 2)])
def test_medmcqa_counts_from_one_or_zero(tmp_path: Path, first: int, answer: int) -> None:
    options = {"opa": "a", "opb": "b", "opc": "c", "opd": "d"}
    record = {"question": "Which?", "cop": 2, **options, "subject_name": "Anatomy", "id": "x7"}
    write_lines(tmp_path / "dev.json", [record, {**record, "cop": None}])
    loaded = load_questions(TaskConfig(format="medmcqa", path="dev.json", first_answer=first), tmp_path)
    question = loaded.questions[0]
    assert (question.id, question.subject, question.answer) == ("x7", "Anatomy", answer)
    assert loaded.bad[0].reason == "no number `cop`; the test set has no answers"


def test_mmlu_by_subject_and_by_group(tmp_path: Path) -> None:
    subjects = ["anatomy", "clinical_knowledge", "college_biology", "college_medicine"]
    write_mmlu(tmp_path, "test", [*subjects, "medical_genetics", "professional_medicine", "law"], 2)
    write_mmlu(tmp_path, "dev", [*subjects, "medical_genetics", "professional_medicine"], 5)
    config = TaskConfig(format="mmlu", path="mmlu", subjects=["medical-6"], shots=3)
    loaded = load_questions(config, tmp_path)
    assert loaded.group == "medical-6"
    assert len({question.subject for question in loaded.questions}) == 6
    assert loaded.questions[0].question == "test anatomy 0, which?"
    assert len(loaded.pool) == 30
    more = TaskConfig(format="mmlu", path="mmlu", subjects=["medical-6", "law"])
    assert load_questions(more, tmp_path).group is None
    everything = load_questions(TaskConfig(format="mmlu", path="mmlu"), tmp_path)
    assert len(everything.questions) == 14
    with pytest.raises(ConfigError, match=r"no subject 'anatomie'; did you mean 'anatomy'"):
        load_questions(TaskConfig(format="mmlu", path="mmlu", subjects=["anatomie"]), tmp_path)


def test_more_solved_examples_than_there_are(tmp_path: Path) -> None:
    write_mmlu(tmp_path, "test", ["anatomy", "law"], 4)
    write_mmlu(tmp_path, "dev", ["anatomy", "law"], 5)
    dev = tmp_path / "mmlu" / "dev" / "law_dev.csv"
    dev.write_text("".join(dev.read_text().splitlines(keepends=True)[:3]))
    config = {"format": "mmlu", "path": "mmlu"}
    load_questions(TaskConfig(**config, shots=3), tmp_path)
    with pytest.raises(
        ConfigError, match=r"tasks\.shots: 4, but subject 'law' has 3 solved examples to draw"
    ):
        load_questions(TaskConfig(**config, shots=4), tmp_path)
    load_questions(TaskConfig(**config, shots=3, shots_path="test"), tmp_path)
    with pytest.raises(
        ConfigError, match="4, but subject 'anatomy' has 3"
    ):  # a question is not its own example
        load_questions(TaskConfig(**config, shots=4, shots_path="test"), tmp_path)
    write_lines(tmp_path / "t.jsonl", [{"question": "Which?", "options": ["a", "b"], "answer": 1}])
    write_lines(tmp_path / "more.jsonl", [{"question": "Or?", "options": ["a", "b"], "answer": 1}] * 2)
    few = TaskConfig(format="table", path="t.jsonl", shots=3, shots_path="more.jsonl")
    with pytest.raises(ConfigError, match="3, but there are 2 solved examples"):
        load_questions(few, tmp_path)


def test_mmlu_rows(tmp_path: Path) -> None:
    write_mmlu(tmp_path, "test", ["anatomy"], 1)
    path = tmp_path / "mmlu" / "test" / "anatomy_test.csv"
    path.write_text(path.read_text() + 'q,a,b,c,d\n"two\nlines ""quoted""",a,b,c,d,B\nq,a,b,c,d,E\n')
    loaded = load_questions(TaskConfig(format="mmlu", path="mmlu"), tmp_path)
    assert loaded.questions[1].question == 'two\nlines "quoted"'
    assert [(bad.record, bad.reason) for bad in loaded.bad] == [
        ("line 2", "5 columns instead of question, A, B, C, D, letter"),
        ("line 5", "letter 'E' instead of A, B, C or D"),
    ]


def test_a_table_of_ten_options_by_columns(tmp_path: Path) -> None:
    names = [f"o{number}" for number in range(10)]
    header = ["q", *names, "right", "topic", "name"]
    rows = [["Which?", *"abcdefghij", "10", "drugs", "one"], ["Or?", "a", "b", *[""] * 8, "b", "", "two"]]
    (tmp_path / "t.csv").write_text("".join(",".join(row) + "\n" for row in [header, *rows]))
    columns = ColumnsConfig(question="q", options=names, answer="right", subject="topic", id="name")
    loaded = load_questions(TaskConfig(format="table", path="t.csv", columns=columns), tmp_path)
    ten, two = loaded.questions
    assert (ten.id, ten.answer, ten.subject, len(ten.options)) == ("one", 9, "drugs", 10)
    assert (two.options, two.answer) == (("a", "b"), 1)


def test_a_table_as_json_lines(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "t.jsonl",
        [
            {"question": "Which?", "options": ["a", "b"], "answer": "B", "text": "Context."},
            {"question": "Which?", "A": "a", "B": "b", "C": "c", "answer": 3},
            {"question": "Which?", "options": [str(number) for number in range(11)], "answer": 1},
        ],
    )
    config = TaskConfig(format="table", path="t.jsonl", columns=ColumnsConfig(context="text"))
    loaded = load_questions(config, tmp_path)
    assert [question.answer for question in loaded.questions] == [1, 2]
    assert loaded.questions[0].context == "Context."
    assert [bad.reason for bad in loaded.bad] == ["11 options, 2 to 10 are possible"]


def test_a_limit_draws_evenly(tmp_path: Path) -> None:
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(number) for number in range(9)])
    loaded = load_questions(TaskConfig(format="medqa", path="medqa.jsonl", limit=3), tmp_path)
    assert [question.id for question in loaded.questions] == ["line 1", "line 5", "line 9"]


def test_ids_tell_questions_of_several_files_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "t.jsonl", [medqa_record(number) for number in range(3)])
    config = TaskConfig(format="medqa", path=["a/t.jsonl", "b/t.jsonl"], limit=2)
    ids = [question.id for question in load_questions(config, tmp_path).questions]
    assert ids == ["a/t.jsonl line 1", "a/t.jsonl line 3", "b/t.jsonl line 1", "b/t.jsonl line 3"]
    named = [{"question": "Which?", "options": ["a", "b"], "answer": 1, "name": name} for name in "xyx"]
    write_lines(tmp_path / "t.jsonl", named)
    config = TaskConfig(format="table", path="t.jsonl", columns=ColumnsConfig(id="name"))
    assert [question.id for question in load_questions(config, tmp_path).questions] == ["x", "y", "x (2)"]


def test_files_that_are_no_questions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: no such file; check evaluate\.tasks and data_root"):
        load_questions(TaskConfig(format="medqa", path="none.jsonl"), tmp_path)
    with pytest.raises(InputError, match=r"mmlu/test: holds no files <subject>_test\.csv"):
        load_questions(TaskConfig(format="mmlu", path="mmlu"), tmp_path)
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(1)])
    with pytest.raises(InputError, match=r"holds no usable question of format 'medmcqa'.*no text `opa`"):
        load_questions(TaskConfig(format="medmcqa", path="medqa.jsonl"), tmp_path)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes\.jsonl: cannot be read"):
        load_questions(TaskConfig(format="medqa", path="bytes.jsonl"), tmp_path)
    (tmp_path / "truth.json").write_text("[]")
    with pytest.raises(InputError, match=r"truth\.json: a list; give a JSON object"):
        load_questions(TaskConfig(format="pubmedqa", path="x.json", ground_truth="truth.json"), tmp_path)


@pytest.mark.parametrize(
    ("config", "count", "answers"),
    [
        ({"format": "medqa", "path": "medqa/us_dev_and_train_subset/medqa_full_dev.json"}, 1272, 5),
        ({"format": "medqa", "path": "medqa/us_dev_and_train_subset/medqa_focused_1030.json"}, 1030, 4),
        ({"format": "medmcqa", "path": "medmcqa/dev.json"}, 4183, 4),
        ({"format": "mmlu", "path": "mmlu", "subjects": ["medical-6"]}, 1089, 4),
        ({"format": "mmlu", "path": "mmlu", "subjects": ["medical-9"]}, 1871, 4),
        ({"format": "mmlu", "path": "mmlu"}, 14042, 4),
        (
            {
                "format": "pubmedqa",
                "path": "pubmedqa/ori_pqal.json",
                "ground_truth": "pubmedqa/test_ground_truth.json",
            },
            500,
            3,
        ),
    ],
)
def test_the_real_files_are_read_whole(
    shared_data: Path, config: dict[str, Any], count: int, answers: int
) -> None:
    loaded = load_questions(TaskConfig(**config), shared_data)
    assert len(loaded.questions) == count
    assert loaded.bad == []
    assert {question.answer for question in loaded.questions} == set(range(answers))
