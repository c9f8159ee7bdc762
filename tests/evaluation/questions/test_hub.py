"""Data sets of the hub, from a folder that `datasets` loads in the same way."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from evaluation.questions import load_questions
from meditron.config import ColumnsConfig, TaskConfig
from meditron.errors import ConfigError, InputError
from tests.evaluation.conftest import medqa_record, write_lines


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def data_set(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir()
    write_lines(folder / "test.jsonl", rows)
    return f"hub:{folder}:test"


def test_medqa(tmp_path: Path) -> None:
    path = data_set(tmp_path / "set", [medqa_record(number) for number in range(5)])
    loaded = load_questions(TaskConfig(format="medqa", path=path), tmp_path)
    write_lines(tmp_path / "medqa.jsonl", [medqa_record(number) for number in range(5)])
    local = load_questions(TaskConfig(format="medqa", path="medqa.jsonl"), tmp_path)
    assert loaded.questions == local.questions
    again = load_questions(TaskConfig(format="medqa", path=path), tmp_path)
    assert len(loaded.hashes) == 1
    assert again.hashes == loaded.hashes


def test_pubmedqa_has_other_names_there(tmp_path: Path) -> None:
    row = {"pubid": 12, "question": "Does it?", "context": {"contexts": ["It fell.", "p <0.05."]}}
    path = data_set(tmp_path / "set", [{**row, "final_decision": "maybe"}])
    (question,) = load_questions(TaskConfig(format="pubmedqa", path=path), tmp_path).questions
    assert (question.id, question.answer, question.context) == ("12", 2, "It fell.\np <0.05.")


def test_mmlu_is_a_table_there(tmp_path: Path) -> None:
    row = {"question": "Which?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 3}
    columns = ColumnsConfig(options="choices", subject="subject")
    path = data_set(tmp_path / "set", [row])
    config = TaskConfig(format="table", path=path, columns=columns, first_answer=0)
    (question,) = load_questions(config, tmp_path).questions
    assert (question.options, question.answer, question.subject) == (("a", "b", "c", "d"), 3, "anatomy")


@pytest.mark.parametrize("path", ["hub:", "hub:owner/name", "hub:a:b:c:d", "hub:owner/name:"])
def test_paths_that_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no hub:owner/name:split"):
        load_questions(TaskConfig(format="medqa", path=path), tmp_path)


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data_set(tmp_path / "set", [medqa_record(1)])
    with pytest.raises(InputError, match=r"hub:.*:train: cannot be loaded \(.*\); check its name"):
        load_questions(TaskConfig(format="medqa", path=path.replace(":test", ":train")), tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"cannot be loaded \(no route to host\)"):
        load_questions(TaskConfig(format="medqa", path=path), tmp_path)


def test_mmlu_as_files_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mmlu reads a folder of CSV files"):
        TaskConfig(format="mmlu", path="hub:cais/mmlu:all:test")
