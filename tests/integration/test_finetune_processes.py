"""Instruction tuning on two processes: the same result as on one, resumable, one exit code."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.main import main
from meditron import processes
from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.errors import TrainingError
from meditron.runs import RunFolder
from tests.finetune.conftest import model_folder, recipe  # noqa: F401 - fixtures

LAUNCHERS = {
    "accelerate": [
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
}


def curve(run_dir: str) -> list[dict[str, Any]]:
    return [record for record in RunFolder(run_dir).read_log() if record["event"] in ("step", "validation")]


def assert_same(run_dir: str, other: str) -> None:
    one, two = curve(run_dir), curve(other)
    assert len(one) == len(two) == 9
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    weights, others = (load_file(f"{folder}/model/model.safetensors") for folder in (run_dir, other))
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], atol=1e-5, rtol=0)


def test_two_processes_equal_one(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    one, two = (f"{recipe.work_dir}/{name}" for name in ("one", "two"))
    recipe.finetune.run_dir = one
    assert main(recipe) == 0
    # Stopped after the first step, by both processes, and resumed: the exit code passes through.
    recipe.finetune.run_dir, recipe.finetune.nproc = two, 2
    (Path(two) / "triggers").mkdir(parents=True)
    (Path(two) / "triggers" / "exit").touch()
    assert main(recipe) == 75
    assert main(recipe) == 0
    assert_same(one, two)
    assert {record["path"] for record in RunFolder(two).read_log() if record["event"] == "resume"} == {
        "step_00000001"
    }


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_other_launchers(launcher: str, recipe: Recipe, tmp_path: Path) -> None:  # noqa: F811
    recipe.finetune.run_dir = str(tmp_path / "one")
    assert main(recipe) == 0
    recipe.finetune.run_dir = str(tmp_path / launcher)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    command = [sys.executable, *LAUNCHERS[launcher], "-m", "meditron", "finetune"]
    subprocess.run(
        [*command, "--config", str(tmp_path / "recipe.yaml")], check=True, env=os.environ, timeout=200
    )
    assert_same(str(tmp_path / "one"), recipe.finetune.run_dir)


def test_the_first_error_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.run_processes(["finetune", "--no-such-flag"], 2, tmp_path) == 2


def test_a_process_that_dies_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [
        "import time; time.sleep(60)",
        "import os; print('the end', flush=True); os.kill(os.getpid(), 9)",
    ]

    def start(arguments: object, rank: int, count: int, port: int, logs: Path) -> "subprocess.Popen[bytes]":
        with open(logs / f"process-{rank}.log", "wb") as log:
            return subprocess.Popen([sys.executable, "-c", programs[rank]], stdout=log)

    monkeypatch.setattr(processes, "_start", start)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    with pytest.raises(TrainingError, match=r"process 1 ended with code -9; its last line is 'the end'"):
        processes.run_processes(["finetune"], 2, tmp_path)
