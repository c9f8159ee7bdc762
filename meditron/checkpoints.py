"""Checkpoints of a run folder: finding the newest whole one, and removing old ones."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meditron.errors import CheckpointError, ManifestError
from meditron.manifest import Manifest, read_manifest
from meditron.progress import console

TOLD = {"engine"}
"""What a checkpoint's `config` tells of, and a run that goes on may change."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return folder / f"step_{step:08d}"


def saved(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("step_" + "[0-9]" * 8), reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.removeprefix("step_"))


def prune(folder: Path, step: int, keep: int, keep_every: int = 0) -> None:
    """Remove what is older than the newest `keep` checkpoints; 0 keeps all.

    The one of `step`, just saved, is the newest: those of later steps are damaged, as the run went on from
    before them. Those of steps that are multiples of `keep_every` stay for good; 0 excepts none.
    """
    for old in [path for path in saved(folder) if step_of(path) <= step][keep:] if keep else []:
        if not keep_every or step_of(old) % keep_every:
            _remove(old)


def _remove(path: Path) -> None:
    """Remove a folder that a kill may not leave half removed under its name."""
    aside = path.with_name(f".{path.name}.old.part")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    shutil.rmtree(aside)


def remove_leftovers(folder: Path) -> None:
    """Remove what an earlier start left half written or half removed; only its successor may.

    To be called before it looks for the newest checkpoint: see `meditron.fencing`.
    """
    for left in folder.glob(".step_*.part"):
        shutil.rmtree(left, ignore_errors=True)
        if left.exists():  # that start still lives, and has just put a file there
            shutil.rmtree(left)


def newest_whole(folder: Path) -> tuple[Path, Manifest] | None:
    """The newest checkpoint whose files match its manifest; damaged ones are named and skipped."""
    for path in saved(folder):
        try:
            return path, read_manifest(path, kind="checkpoint", check_files="full")
        except ManifestError as error:
            console().print(f"{error} (this checkpoint is skipped)", soft_wrap=True)
    return None


def newest(folder: Path, identity: Mapping[str, Any], verb: str) -> tuple[Path, Manifest] | None:
    """As `newest_whole`, for the run that goes on from it.

    Args:
        folder: holds all checkpoints of the run.
        identity: `config` and `inputs` of the run, which the checkpoint's manifest must repeat.
        verb: the stage, for messages.

    Raises:
        CheckpointError: it was made by a run with other data, another model, or other settings.
    """
    found = newest_whole(folder)
    if found is not None:
        _check_identity(*found, identity, verb)
    return found


def _check_identity(path: Path, manifest: Manifest, identity: Mapping[str, Any], verb: str) -> None:
    for part in ("config", "inputs"):
        old, new = getattr(manifest, part), identity[part]
        changed = sorted(key for key in {*old, *new} - TOLD if old.get(key) != new.get(key))
        if changed:
            key = changed[0]
            name = f"{verb}.{key}" if part == "config" else f"the input {key!r}"
            raise CheckpointError(
                f"{path}: was made with another value of {name} ({old.get(key)!r}, now {new.get(key)!r}); "
                f"restore it, or choose another {verb}.run_dir for a new run"
            )
