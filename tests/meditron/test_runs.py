from pathlib import Path

import pytest

from meditron.errors import InputError
from meditron.runs import RunFolder


def test_states_and_starts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run").create({"lr": 1e-4}, "pretrain")
    assert run.info()["state"] == "running"
    run.mark("stopped", step=7)
    assert run.info()["step"] == 7
    assert RunFolder(tmp_path / "run").create({"lr": 1e-4}, "pretrain").info()["state"] == "running"
    assert len(run.info()["starts"]) == 2


def test_log_survives_a_line_cut_by_a_kill(tmp_path: Path) -> None:
    run = RunFolder(tmp_path).create({}, "pretrain")
    run.log({"event": "step", "step": 1})
    with open(run.log_path, "a") as handle:
        handle.write('{"event": "st')
    assert [record["step"] for record in run.read_log()] == [1]
    run.create({}, "pretrain")
    run.log({"event": "step", "step": 2})
    assert [record["step"] for record in run.read_log()] == [1, 2]


def test_damaged_run_json_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path).create({}, "pretrain")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: not readable"):
        run.info()
