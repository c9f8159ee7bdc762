"""What the script of a training job does about signals, failures and unfit nodes, on a real Slurm.

A few lines of Python stand for the stage, so that each start takes a moment; the script, SLURM's part and the
health check are the real ones.
"""

import sys
from pathlib import Path

import pytest

from launch.queue import read_record
from meditron.cli import main
from meditron.config import LaunchConfig, Recipe
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import ParallelConfig, PretrainConfig
from tests.slurm.cluster import Cluster, until

STAGE = f"""#!{sys.executable}
import os, signal, sys, time

if sys.argv[2] != "meditron":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
signals = []
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda number, frame: signals.append(number))
start, rank = os.environ.get("SLURM_RESTART_COUNT", "0"), os.environ["RANK"]
local = os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]
print("start", start, "rank", rank, "of", os.environ["WORLD_SIZE"], "local", *local, flush=True)
BODY
print("end", start, "rank", rank, "signals", signals, "on", os.environ["SLURMD_NODENAME"], flush=True)
sys.exit(75 if signals or ALWAYS else 0)
"""
UNTIL_TOLD = """
while not signals and start == "0":
    time.sleep(0.05)
time.sleep(int(rank) * 0.7)  # one that saves longer is left alone
"""


def launch(folder: Path, body: str = "", always: bool = False, processes: int = 4, **settings: object) -> str:
    """Submit pretraining on two nodes; returns its job's number."""
    python = folder / "python"
    python.write_text(STAGE.replace("BODY", body).replace("ALWAYS", str(always)))
    python.chmod(0o755)
    fixed = {"gpus_per_node": 0, "nodes": 2, "time_limit": "10", "python": str(python)}
    recipe = Recipe(
        work_dir=str(folder / "work"),
        pretrain=PretrainConfig(train_steps=5, parallel=ParallelConfig(data_parallel_size=processes)),
        launch=LaunchConfig(**{**fixed, **settings}),  # type: ignore[arg-type]
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    assert main(["launch", "--config", str(folder / "recipe.yaml")]) == 0
    return next(str(job.id) for job in read_record(folder / "work/launch") if job.name == "pretrain")


def log(folder: Path, job: str) -> str:
    path = folder / f"work/launch/pretrain-{job}.log"
    return path.read_text() if path.exists() else ""


def test_a_job_that_saved_is_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    job = launch(tmp_path, UNTIL_TOLD)
    until(lambda: log(tmp_path, job).count("start 0 rank") == 4, 60)
    cluster.run("scancel", "--signal=USR2", "--batch", job)
    until(lambda: cluster.state(job) == "COMPLETED", 90)
    told = log(tmp_path, job)
    for rank in range(4):
        assert f"start 0 rank {rank} of 4 local {rank % 2} 2\n" in told
        assert f"end 0 rank {rank} signals [12] on" in told  # once: a second one would mean "exit at once"
        assert f"end 1 rank {rank} signals [] on" in told
    assert (tmp_path / "work/launch/done/pretrain").exists()


def test_a_preempted_job_saves_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """SLURM gives the processes TERM and some time, and takes a script that ends by itself for finished."""
    job = launch(tmp_path, UNTIL_TOLD, partition="low")
    until(lambda: log(tmp_path, job).count("start 0 rank") == 4, 60)
    everything = (f"--nodes={cluster.size}", "--ntasks-per-node=32", "--output=/dev/null", "--wrap=sleep 1")
    cluster.run("sbatch", "--partition=main", *everything)
    until(lambda: cluster.state(job) == "COMPLETED", 120)
    told = log(tmp_path, job)
    for rank in range(4):
        assert f"end 0 rank {rank} signals [15] on" in told
        assert f"end 1 rank {rank} signals [] on" in told


def test_a_cancelled_job_does_not_come_back(cluster: Cluster, tmp_path: Path) -> None:
    job = launch(tmp_path, UNTIL_TOLD)
    until(lambda: log(tmp_path, job).count("start 0 rank") == 4, 60)
    cluster.run("scancel", job)
    until(lambda: not cluster.run("squeue", "--noheader").strip(), 60)
    assert cluster.state(job) == "CANCELLED"
    assert "queued again" not in log(tmp_path, job)
    assert "start 1 rank" not in log(tmp_path, job)


def test_starts_without_progress_end(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = launch(tmp_path, always=True, max_idle_restarts=2)
    until(lambda: cluster.state(job) == "FAILED", 90)
    told = log(tmp_path, job)
    assert "2 starts in a row of pretrain brought no new checkpoint; it is not started again" in told
    assert told.count("end 1 rank") == 4
    assert "start 2 rank" not in told
    assert main(["launch", "status", "--work_dir", str(tmp_path / "work")]) == 0
    assert "pretrain: no progress: The job was started again and again" in capsys.readouterr().err


def test_an_unfit_node_is_left_out_of_the_next_start(cluster: Cluster, tmp_path: Path) -> None:
    bad = cluster.nodes[0]
    check = f'[ "$SLURMD_NODENAME" != {bad} ] || {{ echo "fan $((1 + 1)) broken" >&2; false; }}'
    job = launch(tmp_path, processes=2, health_check=True, health_command=check, min_free_gb=0.01)
    until(lambda: cluster.state(job) in ("COMPLETED", "FAILED"), 240)
    told = log(tmp_path, job)
    assert f"{bad} is not fit: launch.health_command ended with code 1: fan 2 broken" in told
    assert f"queued again without {bad}" in told
    assert cluster.state(job) == "COMPLETED"
    assert "health: 2 nodes are fit" in told
    assert told.count("end 1 rank") == 2
    assert f"signals [] on {bad}" not in told
