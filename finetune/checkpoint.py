"""Checkpoints by accelerate, each whole or absent, with a manifest that carries the step."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.errors import CheckpointError, ManifestError
from meditron.files import atomic_dir
from meditron.manifest import Manifest, read_manifest, write_manifest
from meditron.progress import console

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def shared_atomic_dir(accelerator: "Accelerator", path: Path) -> Iterator[Path]:
    """`atomic_dir` for all processes: they write to one folder, the main one makes and renames it."""
    from accelerate.utils import broadcast_object_list

    if accelerator.is_main_process:
        with atomic_dir(path) as folder:
            broadcast_object_list([str(folder)])
            yield folder
            accelerator.wait_for_everyone()
    else:
        yield Path(broadcast_object_list([None])[0])
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()


def save(
    accelerator: "Accelerator",
    folder: Path,
    progress: Mapping[str, int],
    identity: Mapping[str, Any],
    keep: int,
) -> Path:
    """Save model, optimizer and random states, then remove what is older than the newest `keep`.

    Args:
        accelerator: knows what was prepared.
        folder: holds all checkpoints of the run.
        progress: `step` and further counters, for `Manifest.counts`.
        identity: `config` and `inputs` of the run, see `newest`.
        keep: checkpoints that stay; 0 keeps all.
    """
    path = folder / f"step_{progress['step']:08d}"
    with shared_atomic_dir(accelerator, path) as aside:
        accelerator.save_state(str(aside), safe_serialization=True)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_manifest(aside, kind="checkpoint", counts=progress, **identity)
    if keep and accelerator.is_main_process:
        for old in _saved(folder)[keep:]:
            shutil.rmtree(old)
    return path


def _saved(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("step_" + "[0-9]" * 8), reverse=True)


def newest(folder: Path, identity: Mapping[str, Any]) -> tuple[Path, Manifest] | None:
    """The newest checkpoint that is whole; damaged ones are named and skipped.

    Raises:
        CheckpointError: it was made by a run with other data, another model, or other settings.
    """
    for path in _saved(folder):
        try:
            manifest = read_manifest(path, kind="checkpoint", check_files="full")
        except ManifestError as error:
            console().print(f"{error} (this checkpoint is skipped)")
            continue
        _check_identity(path, manifest, identity)
        return path, manifest
    return None


def _check_identity(path: Path, manifest: Manifest, identity: Mapping[str, Any]) -> None:
    for part in ("config", "inputs"):
        old, new = getattr(manifest, part), identity[part]
        changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if changed:
            key = changed[0]
            name = f"finetune.{key}" if part == "config" else f"the input {key!r}"
            raise CheckpointError(
                f"{path}: was made with another value of {name} ({old.get(key)!r}, now {new.get(key)!r}); "
                "restore it, or choose another finetune.run_dir for a new run"
            )
