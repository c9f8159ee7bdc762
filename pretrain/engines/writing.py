"""Writing Megatron's sharded checkpoints from a thread, so that training goes on meanwhile.

The library writes from processes that it forks and spawns. A thread needs neither a second import of
everything nor a copy of the process, and it ends with its process at whatever instant that is killed.
"""

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from meditron.models.megatron.cpu import quiet_import

with quiet_import():
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

FILES = 2
"""Files, and threads, of one process."""


class MegatronWriting:
    """A checkpoint on its way to the disk; every process makes one for the same folder.

    Args:
        state: Megatron's sharded state.
        folder: empty.
        background: return when the state is copied; else it must stay as it is until `finish`.
    """

    def __init__(self, state: dict[str, Any], folder: Path, *, background: bool) -> None:
        filesystem_async._results_queue = queue.SimpleQueue()
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=FILES)
        request = dist_checkpointing.save(
            state, str(folder), sharded_strategy=strategy, async_sharded_save=True
        )
        self._finalize: list[Callable[[], None]] = request.finalize_fns
        self._pool = ThreadPoolExecutor(max_workers=FILES + 1)
        self._written: Future[None] | None = None
        if request.async_fn is not None:
            transforms = request.async_fn.args[0]
            _, _, results = request.async_fn_args
            buckets = request.preload_fn()
            if background:
                buckets = list(self._pool.map(partial(_copied, _storages(state)), buckets))
            self._written = self._pool.submit(self._write, transforms, buckets, results)

    def _write(self, transforms: list[Any], buckets: list[Any], results: Any) -> None:  # noqa: ANN401
        numbers = range(len(buckets))
        found = dict(self._pool.map(partial_write, [transforms] * len(buckets), numbers, buckets))
        failed = [outcome for outcome in found.values() if isinstance(outcome, Exception)]
        results.put(failed[0] if failed else found)

    def done(self) -> bool:
        """Whether this process' files are written."""
        return self._written is None or self._written.done()

    def finish(self) -> None:
        """Wait for all processes' files, and write the index. Raises what the library raises."""
        if self._written is not None:
            self._written.result()
        self._pool.shutdown()
        for step in self._finalize:
            step()


def partial_write(transforms: list[Any], number: int, bucket: Any) -> tuple[int, Any]:  # noqa: ANN401
    """Write one file; returns its number and what the library tells of it, or an exception."""
    outcome: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    count: queue.Queue[int] = queue.Queue()  # the library counts its processes with it
    count.put(number)
    filesystem_async.FileSystemWriterAsync.write_preloaded_data(
        transforms, number, bucket, outcome, count, use_fsync=True
    )
    return outcome.get()


def _storages(state: dict[str, Any]) -> set[int]:
    """Addresses of the memory that training goes on to change."""
    tensors = (part.data for part in nested_values(state) if hasattr(part, "data"))
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if isinstance(tensor, torch.Tensor)}


def _copied(storages: set[int], bucket: Any) -> Any:  # noqa: ANN401
    """The same bucket, its tensors in memory of their own: views and a GPU's the library has copied."""
    file, key, (plain, tensors) = bucket
    return file, key, (plain, [(item, _own(tensor, storages)) for item, tensor in tensors])


def _own(tensor: torch.Tensor, storages: set[int]) -> torch.Tensor:
    return tensor.clone() if tensor.untyped_storage().data_ptr() in storages else tensor
