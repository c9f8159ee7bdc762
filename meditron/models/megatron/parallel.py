"""Process groups: joined from the launcher's environment, or a group of one for work on a single process."""

import datetime
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from meditron.models.megatron.cpu import quiet_import, redirect_cuda_to_cpu


def join_group(timeout_minutes: float) -> None:
    """Join the processes that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe.

    NCCL where there is a GPU, gloo elsewhere. Without RANK this process is alone.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    timeout = datetime.timedelta(minutes=timeout_minutes)
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(
            backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1, timeout=timeout
        )


def set_up_megatron(
    tensor_model_parallel_size: int,
    pipeline_model_parallel_size: int,
    seed: int,
    timeout_minutes: float,
    virtual_pipeline_model_parallel_size: int | None = None,
    context_parallel_size: int = 1,
) -> None:
    """Cut the joined processes up into Megatron's groups."""
    redirect_cuda_to_cpu()
    with quiet_import():
        from megatron.core import parallel_state, tensor_parallel

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size,
        pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size,
        context_parallel_size=context_parallel_size,
        distributed_timeout_minutes=max(1, round(timeout_minutes)),
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def leave_processes() -> None:
    """Undo `join_group` and `set_up_megatron`."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    comm = sys.modules.get("deepspeed.comm")
    if comm is not None and comm.is_initialized():
        comm.destroy_process_group()  # or it remembers groups that are no more
    else:
        dist.destroy_process_group()


@contextmanager
def alone(seed: int = 0) -> Iterator[None]:
    """A group of this one process, for conversion and comparison."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    join_group(30)
    set_up_megatron(1, 1, seed, 30)
    try:
        yield
    finally:
        leave_processes()
        os.environ.update(hidden)
