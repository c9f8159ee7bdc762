"""Checkpoints of a run: written aside, sealed with a manifest, renamed; while training goes on if wished."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from meditron import checkpoints
from meditron.config.pretrain import CheckpointConfig
from meditron.files import disk_errors, fsync_directory, fsync_tree
from meditron.manifest import write_manifest
from pretrain.engines import Engine, Writing

Log = Callable[..., None]


@dataclass(kw_only=True)
class Saver:
    """Saves the state of an engine; at most one checkpoint is on its way at a time.

    Every process has one and calls the same methods in the same order.
    """

    folder: Path
    """Where the checkpoints of the run are."""
    config: CheckpointConfig
    """What to keep, and whether to write while training goes on."""
    identity: Mapping[str, Any]
    """`config` and `inputs` of every manifest."""
    extra: Mapping[str, Any]
    """`extra` of every manifest."""
    log: Log
    """Called as `log("checkpoint", path=..., seconds=..., stall=...)` when one is whole."""
    check_writer: Callable[[], None] = lambda: None
    """Called before a checkpoint is put in its place; raises where another start owns the folder."""
    stall: float = 0.0
    """Seconds that training waited for saving since this was last set to 0."""
    _pending: "_Pending | None" = field(default=None, init=False)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)

    def start(self, engine: Engine, step: int, counts: Mapping[str, Any]) -> None:
        """Save the state after `step`: whole when this returns, or later with `async_save`.

        Raises:
            DiskFullError: it does not fit.
            CheckpointError: it cannot be written.
        """
        began = time.perf_counter()
        self.finish()
        path = checkpoints.checkpoint_path(self.folder, step)
        aside = _make_aside(path)
        with disk_errors(path), _removed_on_failure(aside):
            writing = engine.save(aside, background=self.config.async_save)
        self._pending = _Pending(path, aside, writing, dict(counts), began)
        if not self.config.async_save:
            self.finish()
        self._pending_stall(began)

    def poll(self, device: torch.device) -> None:
        """Go on with a checkpoint that is on its way, where that needs no waiting."""
        pending = self._pending
        if pending is None or pending.sealing is not None:
            return
        began = time.perf_counter()
        open_files = torch.tensor(0.0 if pending.writing.done() else 1.0, device=device)
        dist.all_reduce(open_files)
        if open_files == 0:
            self._seal(pending)
        self._pending_stall(began)

    def finish(self) -> None:
        """Wait until no checkpoint is on its way.

        Raises:
            DiskFullError, CheckpointError: it could not be written.
        """
        pending = self._pending
        if pending is None:
            return
        if pending.sealing is None:
            self._seal(pending)
        assert pending.sealing is not None
        self._pending = None
        seconds = pending.sealing.result()
        dist.barrier()
        self.log("checkpoint", path=pending.path.name, seconds=round(seconds, 4))

    def _seal(self, pending: "_Pending") -> None:
        with disk_errors(pending.path), _removed_on_failure(pending.aside):
            pending.writing.finish()
        pending.sealing = self._pool.submit(self._make_whole, pending)

    def _make_whole(self, pending: "_Pending") -> float:
        """On the main process: manifest, flush, rename, removal of old ones; returns seconds since start."""
        if dist.get_rank() == 0:
            with disk_errors(pending.path), _removed_on_failure(pending.aside):
                write_manifest(
                    pending.aside,
                    kind="checkpoint",
                    counts=pending.counts,
                    extra=self.extra,
                    **self.identity,
                )
                fsync_tree(pending.aside)
                self.check_writer()
                _replace(pending.aside, pending.path)
            checkpoints.prune(self.folder, pending.counts["step"], self.config.keep, self.config.keep_every)
        return time.perf_counter() - pending.began

    def _pending_stall(self, began: float) -> None:
        self.stall += time.perf_counter() - began


@dataclass
class _Pending:
    path: Path
    aside: Path
    writing: Writing
    counts: dict[str, Any]
    began: float
    sealing: "Future[float] | None" = None


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _make_aside(path: Path) -> Path:
    """An empty folder beside `path`, the same for all processes."""
    name: list[Any] = [None]
    if dist.get_rank() == 0:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            name[0] = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
            os.chmod(name[0], 0o755)
    dist.broadcast_object_list(name)
    return Path(name[0])


def _replace(aside: Path, path: Path) -> None:
    """Put a whole folder in its place; one there is damaged, or of before a rollback."""
    old = aside.with_suffix(".old.part")
    if path.exists():
        os.replace(path, old)
    os.replace(aside, path)
    fsync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)
