"""Kills a run at each instant at which it changes its folder of checkpoints, and starts it again every time.

python -m tests.pretrain.killed RECIPE STRIDE, with every STRIDE-th of those instants, for each process.
Each process of a run is a fork of one that has imported everything, which makes it cheap.
"""

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from meditron.checkpoints import saved
from meditron.config import Recipe
from meditron.config.loading import load_recipe
from meditron.manifest import read_manifest
from pretrain import trainer  # noqa: F401 - imported once, for all forks
from pretrain.engines import megatron  # noqa: F401
from pretrain.engines.deepspeed import import_deepspeed
from pretrain.main import main
from tests.pretrain.test_trainer import file_hashes, losses

CHANGES = {"os.mkdir", "os.rename", "os.chmod", "shutil.rmtree"}
REMOVALS = {"os.remove", "os.rmdir"}
NOWHERE = 10**9


class Killer:
    """Ends this process by SIGKILL just before its change number `at`, counted from 0.

    A change is whatever makes, opens for writing, renames or removes something under `folder`, and every
    flush to the disk.
    """

    def __init__(self, folder: Path, at: int) -> None:
        self._prefix, self._left = f"{folder}/", at
        sys.addaudithook(self._hear)
        self._fsync = os.fsync
        os.fsync = self._flush

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        inside = bool(arguments) and str(arguments[0]).startswith(self._prefix)
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        nested = event in REMOVALS and len(arguments) > 1 and arguments[1] != -1  # of rmtree, by descriptor
        if nested or (inside and (writes or event in CHANGES | REMOVALS)):
            self._count()

    def _flush(self, descriptor: int) -> None:
        self._count()
        self._fsync(descriptor)

    def _count(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def fork(work: Callable[[], int]) -> int:
    """Number of a process that ends with the result of `work`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    return child


def together(count: int, work: Callable[[int], int]) -> list[int]:
    """Exit codes of `work(rank)` in a group of processes, -9 of one that was killed, as all are once one ends
    badly."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def join(rank: int) -> int:
        if count > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ.update({name: str(value) for name, value in names.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        return work(rank)

    ranks = {fork(partial(join, rank)): rank for rank in range(count)}
    codes: dict[int, int] = {}
    while len(codes) < count:
        child, status = os.wait()
        codes[ranks.pop(child)] = os.waitstatus_to_exitcode(status)
        if status:
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return [codes[rank] for rank in range(count)]


def outcome(recipe: Recipe) -> dict[str, Any]:
    """Losses and weights of a finished run."""
    return {"losses": losses(recipe), "hashes": file_hashes(recipe, recipe.pretrain.train_steps)}


def finish(recipe: Recipe, expected: Path, rank: int) -> int:
    """Run to the end; 0 where the outcome is what `expected` says, which the first run writes."""
    assert main(recipe) == 0
    if rank > 0:
        return 0
    found = json.loads(json.dumps(outcome(recipe)))
    if not expected.exists():
        expected.write_text(json.dumps(found))
    same: bool = found == json.loads(expected.read_text())
    return 0 if same else 1


def kill(recipe: Recipe, victim: int, at: int, rank: int) -> int:
    """Run, the process `victim` killed at a change; 0 where it makes fewer."""
    if rank == victim:
        Killer(Path(str(recipe.pretrain.run_dir)) / "checkpoints", at)
    return main(recipe)


def kills(recipe: Recipe, expected: Path, victim: int, stride: int) -> int:
    """Number of instants that a process was killed at."""
    folder, count = Path(str(recipe.pretrain.run_dir)), recipe.pretrain.parallel.world_size
    for at in range(0, NOWHERE, stride):
        codes = together(count, partial(kill, recipe, victim, at))
        if not any(codes):
            return at // stride
        assert codes[victim] == -signal.SIGKILL, f"process {victim}, change {at}: exit codes {codes}"
        for checkpoint in saved(folder / "checkpoints"):
            read_manifest(checkpoint, kind="checkpoint", check_files="full")
        codes = together(count, partial(finish, recipe, expected))
        assert not any(codes), f"process {victim}, change {at}: another outcome, exit codes {codes}"
        shutil.rmtree(folder)
    raise AssertionError("a run never ends")


def run(recipe: Recipe, stride: int) -> list[int]:
    """Number of instants that each process was killed at."""
    if recipe.pretrain.engine == "deepspeed":
        import_deepspeed()
    expected, count = Path(recipe.work_dir) / "expected.json", recipe.pretrain.parallel.world_size
    assert not any(together(count, partial(finish, recipe, expected)))
    recipe.pretrain.run_dir = str(Path(recipe.work_dir) / "killed")
    found = []
    for victim in range(count):
        found.append(kills(recipe, expected, victim, stride))
        shutil.rmtree(recipe.pretrain.run_dir)
    return found


if __name__ == "__main__":
    print(*run(load_recipe(sys.argv[1]), int(sys.argv[2])))
