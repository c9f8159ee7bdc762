import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.record import only_one
from launch.run import run_stages
from meditron.config import Recipe, RunConfig, resolve
from meditron.config.loading import dump_recipe
from meditron.errors import ConfigError, InputError, StageError
from tests.launch.conftest import calls, make_recipe, records

ALL = ["curate", "tokenize", "pretrain", "export", "finetune", "report"]


def test_runs_every_stage_of_the_recipe_once(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stages(make_recipe(tmp_path), command) == 0
    assert calls(tmp_path) == ALL
    told = capsys.readouterr().err
    assert "import    skipped: model.import_from is not set" in told
    assert "evaluate  skipped: no evaluate settings in the recipe" in told
    assert "[3/6] pretrain  finished in " in told
    assert f"report: {tmp_path}/work/report.html" in told
    assert all(
        record["state"] == "finished" and record["seconds"] > 0 for record in records(tmp_path).values()
    )
    assert run_stages(make_recipe(tmp_path), command) == 0
    assert calls(tmp_path) == []


def test_changed_settings_rerun_their_stage_and_all_after(tmp_path: Path, command: list[str]) -> None:
    run_stages(make_recipe(tmp_path), command)
    calls(tmp_path)
    run_stages(make_recipe(tmp_path, epochs=2), command)
    assert calls(tmp_path) == ["finetune", "report"]


def test_settings_that_only_change_the_speed_rerun_nothing(tmp_path: Path, command: list[str]) -> None:
    run_stages(make_recipe(tmp_path), command)
    calls(tmp_path)
    recipe = make_recipe(tmp_path)
    recipe.curate.workers = 4
    run_stages(recipe, command)
    assert calls(tmp_path) == []


def test_a_damaged_or_replaced_output_is_made_again(tmp_path: Path, command: list[str]) -> None:
    recipe = make_recipe(tmp_path)
    run_stages(recipe, command)
    calls(tmp_path)
    (Path(str(recipe.export.output)) / "content").write_text("cut")
    run_stages(recipe, command)
    assert calls(tmp_path) == ["export", "finetune", "report"]
    Path(str(recipe.report.output)).unlink()
    run_stages(recipe, command)
    assert calls(tmp_path) == ["report"]


def test_an_input_remade_by_hand_is_noticed(tmp_path: Path, command: list[str]) -> None:
    recipe = make_recipe(tmp_path)
    run_stages(recipe, command)
    other = make_recipe(tmp_path, seed=2)
    config = tmp_path / "by-hand.yaml"
    config.write_text(dump_recipe(other))
    subprocess.run([*command, "tokenize", "--config", str(config)], check=True)
    calls(tmp_path)
    run_stages(recipe, command)
    assert calls(tmp_path) == ["pretrain", "export", "finetune", "report"]


def test_from_stage_forces_a_finished_stage(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_stages(make_recipe(tmp_path), command)
    calls(tmp_path)
    assert run_stages(make_recipe(tmp_path, from_stage="export"), command) == 0
    assert calls(tmp_path) == ["export", "finetune", "report"]
    assert "left as it took last time" in capsys.readouterr().err


def test_a_failure_has_the_stage_s_code_and_the_next_start_goes_on_there(
    tmp_path: Path, command: list[str]
) -> None:
    recipe = make_recipe(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    (work / "pretrain.fault").write_text("8")
    with pytest.raises(
        StageError, match=r"pretrain failed with exit code 8; .* same command again"
    ) as failure:
        run_stages(recipe, command)
    assert failure.value.exit_code == 8
    assert calls(tmp_path) == ["curate", "tokenize", "pretrain"]
    assert records(tmp_path)["pretrain"]["state"] == "failed"
    (work / "pretrain.fault").unlink()
    assert run_stages(recipe, command) == 0
    assert calls(tmp_path) == ["pretrain", "export", "finetune", "report"]


def test_a_stage_that_leaves_nothing_has_failed(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "export.fault").write_text("nothing")
    with pytest.raises(
        StageError, match=r"export ended without an error, but .*model is not whole"
    ) as failure:
        run_stages(make_recipe(tmp_path), command)
    assert failure.value.exit_code == 11


def test_code_75_is_passed_on(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "pretrain.fault").write_text("75")
    assert run_stages(make_recipe(tmp_path), command) == 75
    assert calls(tmp_path) == ["curate", "tokenize", "pretrain"]
    assert records(tmp_path)["pretrain"]["state"] == "stopped"


@pytest.mark.parametrize(
    ("number", "fault", "code"),
    [
        (signal.SIGTERM, "wait", 75),
        (signal.SIGUSR2, "wait", 75),
        (signal.SIGHUP, "wait", 75),
        (signal.SIGTERM, "wait-deaf", 75),
        (signal.SIGINT, "wait-deaf", 130),
    ],
)
def test_signals_reach_the_stage(
    tmp_path: Path, command: list[str], number: signal.Signals, fault: str, code: int
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "tokenize.fault").write_text(fault)
    config = tmp_path / "recipe.yaml"
    config.write_text(dump_recipe(make_recipe(tmp_path)))
    program = (
        "import sys; from launch.run import run_stages; from meditron.config.loading import load_recipe;"
        f"sys.exit(run_stages(load_recipe({str(config)!r}), {command!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (work / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert "start the same command again" in told
    assert calls(tmp_path) == ["curate", "tokenize"]
    assert records(tmp_path)["tokenize"]["state"] == "stopped"


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, command: list[str]) -> None:
    with only_one(tmp_path / "work"), pytest.raises(InputError, match="another `meditron run`"):
        run_stages(make_recipe(tmp_path), command)


def test_the_lock_outlives_a_killed_run_as_long_as_its_stage_works(tmp_path: Path) -> None:
    with only_one(tmp_path) as lock:
        stage = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    try:
        with pytest.raises(InputError, match="a stage it left"), only_one(tmp_path):
            pass
    finally:
        stage.kill()
        stage.wait()
    with only_one(tmp_path):
        pass


def test_mistakes_are_refused_before_anything_runs(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(ConfigError, match="'evaluate' is not in this recipe"):
        run_stages(make_recipe(tmp_path, from_stage="evaluate"), command)
    with pytest.raises(ConfigError, match="has no stage to run"):
        run_stages(resolve(Recipe(work_dir=str(tmp_path / "work"))), command)
    with pytest.raises(ConfigError, match=r"run\.from_stage: 'exprot' is unknown; did you mean 'export'"):
        RunConfig(from_stage="exprot")
    (tmp_path / "work" / "run.json").write_text('{"stages": 3}')
    with pytest.raises(InputError, match=r"run.json: cannot be read as the record"):
        run_stages(make_recipe(tmp_path), command)
    assert calls(tmp_path) == []
