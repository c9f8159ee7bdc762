"""Lines of conversations: which are used, which are refused and why."""

import json
from pathlib import Path

import pytest

from finetune.chat import Chat
from finetune.data import check, find_files, parse_line, read_examples
from meditron.errors import InputError, QuarantineError
from tests.finetune.conftest import conversation, write_jsonl

USER = {"role": "user", "content": "Why?"}
ASSISTANT = {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("{", "not JSON"),
        (b"\xff{}", "not JSON"),
        ("[]", "no list `messages`"),
        ({"messages": []}, "no list `messages`"),
        ({"text": "x"}, "no list `messages`"),
        ({"messages": ["x"]}, "role must be one of"),
        ({"messages": [{"role": "doctor", "content": "x"}]}, "role must be one of"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "empty content of the assistant"),
        ({"messages": [USER, {"role": "assistant"}]}, "empty content of the assistant"),
        ({"messages": [SYSTEM, USER]}, "no assistant turn"),
        ({"messages": [USER, ASSISTANT, USER]}, "must alternate"),
        ({"messages": [ASSISTANT, USER]}, "must alternate"),
        ({"messages": [USER, USER, ASSISTANT]}, "must alternate"),
        ({"messages": [USER, SYSTEM, ASSISTANT]}, "must alternate"),
    ],
)
def test_bad_lines(record: object, reason: str) -> None:
    line = (
        record
        if isinstance(record, bytes)
        else (record if isinstance(record, str) else json.dumps(record)).encode()
    )
    with pytest.raises(ValueError, match=reason):
        parse_line(line)


def test_a_good_line_keeps_only_role_and_content() -> None:
    line = json.dumps({"id": 7, "messages": [SYSTEM, {**USER, "name": "x"}, ASSISTANT]}).encode()
    assert parse_line(line) == [SYSTEM, USER, ASSISTANT]


def test_counts_and_quarantine(tmp_path: Path, model_folder: Path) -> None:
    long = {"messages": [{"role": "user", "content": "why " * 200}, ASSISTANT]}
    half = {"messages": [USER, {"role": "assistant", "content": "because " * 200}]}
    file = write_jsonl(tmp_path / "x.jsonl", [conversation(1), long, half])
    with open(file, "a") as handle:
        handle.write("\n{broken\n")
    examples = read_examples([file], Chat(model_folder), max_length=96)
    counts = examples.counts[str(file)]
    assert (counts.lines, counts.examples, counts.dropped, counts.cut, counts.quarantined) == (4, 2, 1, 1, 1)
    assert counts.answer_tokens == sum(int(example.answer.sum()) for example in examples.encoded)
    assert [len(example.ids) for example in examples.encoded][1] == 96
    assert examples.where == [f"{file}:1", f"{file}:3"]
    assert examples.bad[0]["record"] == "line 5"
    with pytest.raises(QuarantineError, match=r"1 of 4 lines \(25.00%\).*line 5.*not JSON"):
        check(examples, 0.1, tmp_path / "quarantine.jsonl", "finetune.data")
    check(examples, 0.25, tmp_path / "quarantine.jsonl", "finetune.data")


def test_nothing_left_is_refused(tmp_path: Path, model_folder: Path) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", [])
    with pytest.raises(InputError, match="none of the 0 conversations"):
        check(read_examples([file], Chat(model_folder), 64), 0.0, tmp_path / "q", "finetune.data")


def test_finding_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        write_jsonl(tmp_path / name, [])
    both = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert find_files(tmp_path, ["*.jsonl"], "x") == both
    assert find_files(tmp_path, [str(tmp_path / "*.jsonl")], "x") == both
    with pytest.raises(InputError, match=r"finetune\.data: no file .*none\.jsonl"):
        find_files(tmp_path, ["none.jsonl"], "finetune.data")
