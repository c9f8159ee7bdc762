"""`meditron launch --launch.local true` and what is asked about it afterwards; the stages are stand-ins."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from launch import local
from launch.record import only_one
from meditron.cli import main
from meditron.config import LaunchConfig, Recipe
from meditron.config.loading import dump_recipe
from tests.launch.conftest import calls, make_recipe, records
from tests.slurm.cluster import until

PYTHON = """\
#!{executable}
import os, sys
import launch.run
from meditron.config.loading import load_recipe

print("code of", launch.run.__file__, "note", os.environ.get("NOTE"), "temporary", os.environ.get("TMPDIR"))
sys.exit(launch.run.run_stages(load_recipe(sys.argv[-1]), {command!r}))
"""


@pytest.fixture
def recipe(tmp_path: Path, command: list[str]) -> Recipe:
    python = tmp_path / "python"
    python.write_text(PYTHON.format(executable=sys.executable, command=command))
    python.chmod(0o755)
    recipe = make_recipe(tmp_path)
    recipe.launch = LaunchConfig(local=True, python=str(python))
    Path(recipe.work_dir).mkdir()
    return recipe


def launch(recipe: Recipe, *words: str) -> int:
    path = Path(recipe.work_dir).parent / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return main(["launch", *words, "--config", str(path)])


def wait(recipe: Recipe) -> None:
    until(lambda: not local.is_at_work(Path(recipe.work_dir)), 60)


def log(recipe: Recipe) -> str:
    return (Path(recipe.work_dir) / "launch" / local.LOG).read_text()


def test_stages_run_in_the_background_to_their_end(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.launch.environment = {"NOTE": "$(date) it's"}
    recipe.launch.scratch = str(tmp_path)
    recipe.launch.setup = ["export NOTE=before", "echo 'set up'"]
    assert launch(recipe) == 0
    assert "started as process" in capsys.readouterr().err
    wait(recipe)
    assert calls(tmp_path) == ["curate", "tokenize", "pretrain", "export", "finetune", "report"]
    code = f"{recipe.work_dir}/launch/code/launch/run.py"
    assert log(recipe).startswith(f"set up\ncode of {code} note $(date) it's temporary {tmp_path}\n")

    assert launch(recipe, "status") == 0
    told = capsys.readouterr().err
    assert told.count("finished") == 6
    assert "evaluate" not in told
    assert launch(recipe, "logs") == 0
    assert "[6/6] report    finished in" in capsys.readouterr().out
    assert launch(recipe, "cancel") == 0
    assert "nothing is at work here" in capsys.readouterr().err


def test_a_cancelled_run_goes_on_at_its_stage(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = tmp_path / "work/tokenize.fault"
    fault.write_text("wait")
    assert launch(recipe) == 0
    until((tmp_path / "work/waiting").exists, 30)
    capsys.readouterr()
    assert launch(recipe, "status") == 0
    assert "running" in capsys.readouterr().err
    for words in ((), ("resume",)):
        assert launch(recipe, *words) == 3
        assert "stages are at work here already" in capsys.readouterr().err

    assert launch(recipe, "cancel") == 0
    wait(recipe)
    assert records(tmp_path)["tokenize"]["state"] == "stopped"
    assert calls(tmp_path) == ["curate", "tokenize"]
    fault.unlink()
    assert launch(recipe, "resume") == 0
    wait(recipe)
    assert calls(tmp_path) == ["tokenize", "pretrain", "export", "finetune", "report"]


def test_a_killed_run_is_told_apart(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work/curate.fault").write_text("wait-deaf")
    assert launch(recipe) == 0
    until((tmp_path / "work/waiting").exists, 30)
    pid = json.loads((tmp_path / "work/launch" / local.RECORD).read_text())["pid"]
    stage = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    for number in (pid, stage):
        os.kill(number, signal.SIGKILL)
    wait(recipe)
    capsys.readouterr()
    assert launch(recipe, "status") == 0
    told = capsys.readouterr().err
    assert "killed" in told
    assert "waiting" in told


def test_what_fails_before_the_first_stage_is_said_at_once(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.launch.setup = ["module() { echo no such module; return 7; }", "module load cuda"]
    assert launch(recipe) == 7
    assert "launch: the run ended at once; see the end of" in capsys.readouterr().err
    assert log(recipe) == "no such module\n"


def test_beside_another_run_it_is_refused(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    with only_one(Path(recipe.work_dir)):
        assert launch(recipe) == 3
    assert "stages are at work here already" in capsys.readouterr().err
    assert not (Path(recipe.work_dir) / "launch").exists()


def test_dry_run_prints_the_script(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.launch = LaunchConfig(
        local=True, dry_run=True, snapshot=False, container=["apptainer", "exec", "my image.sif"]
    )
    assert launch(recipe) == 0
    assert capsys.readouterr().out == (
        f"==> {tmp_path}/work/launch/local.sh <==\n"
        "#!/bin/bash\n"
        "set -eo pipefail\n"
        "exec apptainer exec 'my image.sif' python -m meditron run --config "
        f"{tmp_path}/work/launch/recipe.yaml\n"
    )
    assert not (tmp_path / "work/launch").exists()


def test_a_recipe_without_stages_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--work_dir", str(tmp_path / "work"), "--launch.local", "true"]) == 2
    assert "launch: the recipe has no stage to run" in capsys.readouterr().err


def test_jobs_without_slurm_are_one_sentence(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(recipe.work_dir) / "launch"
    folder.mkdir()
    job = {"name": "curate", "stage": "curate", "after": [], "tasks": None, "id": "7"}
    (folder / "jobs.json").write_text(json.dumps({"jobs": [job]}))
    monkeypatch.setenv("PATH", str(folder))
    assert launch(recipe, "status") == 10
    assert "launch: job 7 is SLURM's, and scontrol is not on the PATH" in capsys.readouterr().err
