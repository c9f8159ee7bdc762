"""The job scripts on a running SLURM cluster; skipped where there is none."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from launch.slurm import main
from meditron.config import CurateConfig, LaunchConfig, Recipe, SourceConfig, resolve
from meditron.config.pretrain import ParallelConfig, PretrainConfig

pytestmark = pytest.mark.slow

FAKE_PYTHON = f"""#!{sys.executable}
\"\"\"Stands for `python -m meditron VERB`: says who it is; pretraining ends when told to save, or in its
second start.\"\"\"
import os, signal, sys, time

verb, rank = sys.argv[3], os.environ.get("RANK")
if verb == "pretrain":
    signals = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))
    start = os.environ.get("SLURM_RESTART_COUNT", "0")
    world = os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]
    print(f"start {{start}} rank {{rank}} of", *world, "meet", os.environ["MASTER_ADDR"], flush=True)
    for _ in range(600):
        if signals or start != "0":
            break
        time.sleep(0.1)
    time.sleep(2 * int(rank))  # a rank that is still saving is left alone
    print(f"end {{start}} rank {{rank}} signals {{signals}}", flush=True)
    sys.exit(75 if signals else 0)
print("done", verb, os.environ.get("NOTE"), flush=True)
"""


@cache
def answers() -> bool:
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=10).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


@pytest.fixture
def cluster() -> Iterator[Callable[..., str]]:
    """Runs a command of SLURM; whatever is left in the queue by this user's test is cancelled."""
    if not answers():
        pytest.skip("no SLURM cluster here (sinfo does not answer)")

    def command(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    yield command
    for stage in ("curate", "tokenize", "pretrain", "export", "report"):
        command("scancel", f"--name=medtest-{stage}")


def submit(tmp_path: Path) -> Path:
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    recipe = Recipe(
        work_dir=str(tmp_path / "work"),
        curate=CurateConfig(sources={"a": SourceConfig(path="a", reader="jsonl")}),
        pretrain=PretrainConfig(train_steps=5, parallel=ParallelConfig(data_parallel_size=4)),
        launch=LaunchConfig(
            job_name="medtest",
            gpus_per_node=2,
            time_limit="10",
            memory="1G",
            python=str(python),
            environment={"NOTE": "$(date) `id` 'x'"},
        ),
    )
    main(resolve(recipe))
    return tmp_path / "work" / "launch"


def output(folder: Path, stage: str) -> str:
    return "".join(path.read_text() for path in folder.glob(f"{stage}-*.log"))


def until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.3)


def pretrain_job(folder: Path) -> str:
    return next(folder.glob("pretrain-*.log")).stem.removeprefix("pretrain-")


def test_a_job_that_saved_is_queued_again_and_the_rest_follows(
    tmp_path: Path, cluster: Callable[..., str]
) -> None:
    folder = submit(tmp_path)
    until(lambda: output(folder, "pretrain").count("start 0 rank") == 4, 60)
    assert "done curate $(date) `id` 'x'" in output(folder, "curate")
    cluster("scancel", "--signal=USR2", "--batch", pretrain_job(folder))
    until(lambda: "done report" in output(folder, "report"), 240)
    told = output(folder, "pretrain")
    for rank in range(4):
        assert f"rank {rank} of 4 {rank % 2} 2 meet" in told
        assert f"end 0 rank {rank} signals [12]" in told  # once: a second signal would mean "exit at once"
        assert f"end 1 rank {rank} signals []" in told
    assert "done report" in output(folder, "report")


def test_a_cancelled_job_does_not_come_back(tmp_path: Path, cluster: Callable[..., str]) -> None:
    folder = submit(tmp_path)
    until(lambda: output(folder, "pretrain").count("start 0 rank") == 4, 60)
    job = pretrain_job(folder)
    cluster("scancel", job)
    until(lambda: "JobState=CANCELLED" in cluster("scontrol", "show", "job", job), 60)
    until(lambda: cluster("squeue", "--noheader", "--name=medtest-pretrain").strip() == "", 60)
    until(lambda: cluster("squeue", "--noheader", "--name=medtest-report").strip() == "", 60)
    assert "start 1" not in output(folder, "pretrain")
    assert output(folder, "report") == ""


def test_sbatch_accepts_every_header(tmp_path: Path, cluster: Callable[..., str]) -> None:
    folder = submit(tmp_path)
    assert os.listdir(folder)
    for path in folder.glob("*.sbatch"):
        checked = subprocess.run(["sbatch", "--test-only", str(path)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
