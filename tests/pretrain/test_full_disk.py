"""A disk that fills up while a checkpoint is saved: one sentence, and the checkpoint before it goes on."""

import os
from pathlib import Path

import pytest

from meditron.config import Recipe
from meditron.errors import DiskFullError
from meditron.runs import RunFolder
from pretrain.main import main
from tests.pretrain.conftest import leave


def test_it_is_one_sentence_and_loses_nothing_finished(recipe: Recipe, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1300k x {small}"):
        pytest.skip("cannot mount a small tmpfs here")
    try:
        recipe.pretrain.run_dir = str(small / "run")
        recipe.pretrain.train_steps, recipe.pretrain.checkpoint.interval = 4, 2
        with pytest.raises(DiskFullError, match=r"checkpoints: the disk is full") as error:
            main(recipe)
        leave()
        assert "\n" not in str(error.value)
        run = RunFolder(small / "run")
        assert [folder.name for folder in run.checkpoints.iterdir()] == ["step_00000002"]
        assert os.system(f"mount -o remount,size=20m {small}") == 0
        assert main(recipe) == 0
        assert [r["path"] for r in run.read_log() if r["event"] == "resume"] == ["step_00000002"]
    finally:
        os.system(f"umount {small}")
