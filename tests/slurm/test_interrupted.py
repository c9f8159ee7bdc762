"""Training on 2 nodes x 2 tasks of a real Slurm, through time limits and dead daemons, to the same result."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_curation import tokenize
from launch.queue import read_record
from meditron.cli import main
from meditron.config import LaunchConfig, Recipe, TokenizeConfig, resolve
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import CheckpointConfig, ParallelConfig, ValidationConfig
from meditron.runs import RunFolder
from tests.pretrain.conftest import TEXTS, make_recipe, write_base, write_corpus
from tests.pretrain.test_trainer import file_hashes
from tests.slurm.cluster import Cluster, until

SECONDS = 90
"""Of steps in the whole run: more than two waits for a limit, of up to 30 s, and one of 20 s for a node."""
LAUNCH = LaunchConfig(
    gpus_per_node=0,
    nodes=2,
    time_limit="30",
    signal_seconds=120,
    environment={"OMP_NUM_THREADS": "1"},
    snapshot=False,
)


def write_data(folder: Path) -> None:
    base = write_base(folder / "base")
    corpus = write_corpus(folder / "corpus", TEXTS)
    config = TokenizeConfig(corpus=str(corpus), tokenizer=str(base))
    tokenize.main(resolve(Recipe(work_dir=str(folder), tokenize=config)))


def training(folder: Path, name: str, steps: int) -> Recipe:
    """TP 2 x DP 2, in a work folder of its own."""
    recipe = make_recipe(folder / name, folder / "base", folder / "shards")
    layout = ParallelConfig(tensor_model_parallel_size=2, data_parallel_size=2, distributed_optimizer=True)
    pretrain = replace(
        recipe.pretrain,
        parallel=layout,
        global_batch_size=16,
        train_steps=steps,
        checkpoint=CheckpointConfig(interval=math.ceil(steps / 9), keep=2),
        validation=ValidationConfig(interval=10 * steps),
    )
    return replace(recipe, pretrain=pretrain, launch=LAUNCH)


def submit(recipe: Recipe) -> str:
    """The number of pretraining's job."""
    work = Path(recipe.work_dir)
    work.mkdir()
    (work / "recipe.yaml").write_text(dump_recipe(recipe))
    assert main(["launch", "--config", str(work / "recipe.yaml")]) == 0
    return next(str(job.id) for job in read_record(work / "launch") if job.name == "pretrain")


def finish(cluster: Cluster, recipe: Recipe, job: str, seconds: float) -> None:
    until(lambda: cluster.state(job) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), seconds)
    assert cluster.state(job) == "COMPLETED", output(recipe, job)


def output(recipe: Recipe, job: str) -> str:
    return (Path(recipe.work_dir) / f"launch/pretrain-{job}.log").read_text()


def records(recipe: Recipe) -> list[dict[str, Any]]:
    log = RunFolder(str(recipe.pretrain.run_dir)).read_log()
    return [record for record in log if record["event"] == "step"]


def losses(recipe: Recipe) -> dict[int, float]:
    """Step to loss; a step that was done twice must have given the same one."""
    found: dict[int, float] = {}
    for record in records(recipe):
        assert found.setdefault(record["step"], record["loss"]) == record["loss"], record
    return found


def weights(recipe: Recipe) -> dict[str, str]:
    return file_hashes(recipe, recipe.pretrain.train_steps)


def go_on(recipe: Recipe) -> None:
    """Wait until the run has done some more steps."""
    before = len(records(recipe))
    until(lambda: len(records(recipe)) >= before + 3, 300)


def hit_by_its_limit(cluster: Cluster, job: str, restarts: int) -> None:
    """Let a job's limit come near, and wait for its next start; SLURM looks at limits every 30 s."""
    shown = cluster.run("scontrol", "show", "job", job)
    hours, minutes, seconds = map(int, re.findall(r"RunTime=(\d+):(\d+):(\d+)", shown)[0])
    elapsed = hours * 3600 + minutes * 60 + seconds
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={math.ceil((elapsed + 40) / 60)}")
    wait_for_restart(cluster, job, restarts)
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={LAUNCH.time_limit}")


def wait_for_restart(cluster: Cluster, job: str, restarts: int) -> None:
    until(lambda: f"Restarts={restarts} " in cluster.run("scontrol", "show", "job", job), 150)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_limits_and_dead_daemons_leave_no_trace_in_the_result(cluster: Cluster, tmp_path: Path) -> None:
    write_data(tmp_path)
    probe = training(tmp_path, "probe", 10)
    finish(cluster, probe, submit(probe), 300)
    # The fastest step, so that a machine that was busy meanwhile does not make the run too short.
    seconds = min(sum(record["seconds"].values()) for record in records(probe))

    recipe = training(tmp_path, "interrupted", math.ceil(SECONDS / seconds))
    job = submit(recipe)
    for restarts in (1, 2):
        go_on(recipe)
        hit_by_its_limit(cluster, job, restarts)
    go_on(recipe)
    # All tasks of this start live on without a daemon, and write, while SLURM starts the job again elsewhere.
    nodes = cluster.run(
        "scontrol", "show", "hostnames", cluster.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    )
    for node in nodes.split():
        cluster.kill_slurmd(node)
    wait_for_restart(cluster, job, 3)
    finish(cluster, recipe, job, 900)
    for node in nodes.split():
        cluster.start_slurmd(node)
    told = " ".join(output(recipe, job).split())
    assert told.count("pretrain ended with code 75; it is queued again") == 2
    assert told.count("an earlier start still works here; waiting for it to end") == 1
    starts = RunFolder(str(recipe.pretrain.run_dir)).path / "starts"
    assert len(list(starts.glob("0*"))) == 4

    whole = training(tmp_path, "whole", recipe.pretrain.train_steps)
    finish(cluster, whole, submit(whole), 900)
    assert losses(recipe) == losses(whole)
    assert sorted(losses(whole)) == list(range(1, whole.pretrain.train_steps + 1))
    assert weights(recipe) == weights(whole)
