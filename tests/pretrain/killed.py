"""Kills a run at each instant at which it changes its folder of checkpoints, and starts it again every time.

python -m tests.pretrain.killed RECIPE STRIDE, with every STRIDE-th of those instants. Each run is a fork of
one process that has imported everything, which makes it cheap.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meditron.checkpoints import saved
from meditron.config import Recipe
from meditron.config.loading import load_recipe
from meditron.manifest import read_manifest
from pretrain import trainer  # noqa: F401 - imported once, for all forks
from pretrain.engines import megatron  # noqa: F401
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
    """Exit code of `work` in a process of its own, -9 where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(recipe: Recipe) -> dict[str, Any]:
    """Losses and weights of a finished run."""
    return {"losses": losses(recipe), "hashes": file_hashes(recipe, recipe.pretrain.train_steps)}


def finish(recipe: Recipe, expected: Path) -> int:
    """Run to the end; 0 where the outcome is what `expected` says, which the first run writes."""
    assert main(recipe) == 0
    found = json.loads(json.dumps(outcome(recipe)))
    if not expected.exists():
        expected.write_text(json.dumps(found))
    same: bool = found == json.loads(expected.read_text())
    return 0 if same else 1


def kill(recipe: Recipe, at: int) -> int:
    """Run, killed at a change; 0 where there are fewer."""
    Killer(Path(str(recipe.pretrain.run_dir)) / "checkpoints", at)
    return main(recipe)


def run(recipe: Recipe, stride: int) -> int:
    """Number of instants that runs were killed at."""
    expected = Path(recipe.work_dir) / "expected.json"
    assert fork(lambda: finish(recipe, expected)) == 0
    for at in range(0, NOWHERE, stride):
        folder = Path(recipe.work_dir) / "killed"
        recipe.pretrain.run_dir = str(folder)
        code = fork(lambda at=at: kill(recipe, at))  # type: ignore[misc]
        if code == 0:
            return at // stride
        assert code == -signal.SIGKILL, f"change {at}: exit code {code}"
        for checkpoint in saved(folder / "checkpoints"):
            read_manifest(checkpoint, kind="checkpoint", check_files="full")
        assert fork(lambda: finish(recipe, expected)) == 0, f"change {at}: another outcome"
        shutil.rmtree(folder)
    raise AssertionError("a run never ends")


if __name__ == "__main__":
    print(run(load_recipe(sys.argv[1]), int(sys.argv[2])))
