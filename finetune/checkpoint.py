"""Checkpoints by accelerate, each whole or absent, with a manifest that carries the step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.checkpoints import checkpoint_path, prune
from meditron.files import atomic_dir
from meditron.manifest import write_manifest

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
    check_writer: Callable[[], None] = lambda: None,
) -> Path:
    """Save model, optimizer and random states, then remove what is older than the newest `keep`.

    Args:
        accelerator: knows what was prepared.
        folder: holds all checkpoints of the run.
        progress: `step` and further counters, for `Manifest.counts`.
        identity: `config` and `inputs` of the run, see `meditron.checkpoints.newest`.
        keep: checkpoints that stay; 0 keeps all.
        check_writer: called before the checkpoint is put in its place; raises where a later start owns it.
    """
    path = checkpoint_path(folder, progress["step"])
    with shared_atomic_dir(accelerator, path) as aside:
        accelerator.save_state(str(aside), safe_serialization=True)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_manifest(aside, kind="checkpoint", counts=progress, **identity)
            check_writer()
    if accelerator.is_main_process:
        prune(folder, progress["step"], keep)
    return path
