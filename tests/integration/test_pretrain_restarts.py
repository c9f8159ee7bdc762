"""A rank that dies under torchrun: all are started again, and the run goes on bitwise."""

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.config.pretrain import ParallelConfig
from meditron.errors import ConfigError
from meditron.runs import RunFolder
from pretrain.main import OWN_STORE, main
from tests.pretrain.conftest import base, no_group_is_left, recipe, shards  # noqa: F401
from tests.pretrain.test_trainer import file_hashes, losses


def rank_of(process: int) -> str | None:
    """RANK in the environment of a process."""
    entries = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((entry[5:].decode() for entry in entries if entry.startswith(b"RANK=")), None)


def kill_rank(launcher: int, rank: str) -> None:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (found,) = [int(child) for child in children if rank_of(int(child)) == rank]
    os.kill(found, signal.SIGKILL)


def test_restarts_with_the_store_of_an_earlier_start_are_refused(
    recipe: Recipe,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(OWN_STORE, raising=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ConfigError, match=f"needs {OWN_STORE}=1 in the environment"):
        main(recipe)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_starts_again_what_a_dead_rank_ended(recipe: Recipe, tmp_path: Path) -> None:  # noqa: F811
    recipe.pretrain.parallel = ParallelConfig(data_parallel_size=2)
    recipe.pretrain.checkpoint.interval = 2
    unbroken = copy.deepcopy(recipe)
    unbroken.pretrain.run_dir = str(tmp_path / "unbroken")
    assert main(unbroken) == 0
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "--max-restarts", "1", "-m", "meditron", "pretrain", "--config", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", OWN_STORE: "1"}
    torchrun = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    run = RunFolder(str(recipe.pretrain.run_dir))
    deadline = time.monotonic() + 150
    while not any(record["event"] == "checkpoint" for record in run.read_log()):
        assert time.monotonic() < deadline
        assert torchrun.poll() is None
        time.sleep(0.02)
    kill_rank(torchrun.pid, "1")
    error = torchrun.communicate(timeout=200)[1]
    assert torchrun.returncode == 0, error
    assert [record["event"] for record in run.read_log()].count("resume") == 1
    assert losses(recipe) == losses(unbroken)
    assert file_hashes(recipe, 20) == file_hashes(unbroken, 20)
