"""Before a training job: whether its nodes are fit, by all of its processes at once.

`python -m launch.health`: each process looks at its own node; the first gathers what they found, misses those
that say nothing, and names the unfit nodes in a file; all end with the same code.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from launch.meeting import exchange, open_store
from meditron.errors import EnvironmentMissingError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

GB = 1e9
COMMAND_SECONDS = 600.0
"""How long `launch.health_command` may take."""
TIMEOUT_SECONDS = 300.0
"""How long processes wait for each other besides."""
ELEMENTS = 2**22
"""Size of the all-reduce, fp32 numbers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the nodes of this job.

    Returns:
        0, or the exit code of EnvironmentMissingError when a node is unfit.
    """
    options = _options(arguments)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    hosts = options.nodes.split(",")
    nodes = [hosts[each * len(hosts) // size] for each in range(size)]  # SLURM fills one after the other
    store, unfit = _look(options, rank, nodes)
    if unfit:
        if rank == 0 or store is None:
            _report(unfit, options.unfit)
        return EnvironmentMissingError.exit_code
    seconds = all_reduce(store, rank, size)
    if rank == 0:
        megabytes = ELEMENTS * 4 / 1e6
        fit = f"{len(hosts)} nodes are fit"
        print(f"health: {fit}; an all-reduce of {megabytes:.0f} MB took {seconds:.3f} s")
    return 0


def _look(
    options: argparse.Namespace, rank: int, nodes: Sequence[str]
) -> "tuple[Store | None, dict[str, list[str]]]":
    """The store of the job's processes, if it has several, and the problems of each unfit node."""
    seconds = TIMEOUT_SECONDS + (COMMAND_SECONDS if options.command else 0.0)
    silent = {nodes[0]: ["its first process does not answer"]}
    try:
        store = open_store(rank, TIMEOUT_SECONDS) if len(nodes) > 1 else None
    except RuntimeError:  # of torch
        return None, silent
    problems = [*local_problems(options)] if os.environ.get("LOCAL_RANK", "0") == "0" else []
    if store is None:
        return None, {nodes[0]: problems} if problems else {}
    try:
        return store, exchange(store, rank, nodes, problems, seconds)
    except RuntimeError:
        return None, silent


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.health", description=__doc__)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that each node must show")
    parser.add_argument("--min-free-gb", type=float, default=0.0, help="room that each --folder must have")
    parser.add_argument("--folder", action="append", default=[], help="folder that must be writable")
    parser.add_argument("--command", help="line of shell that must succeed on each node")
    parser.add_argument("--nodes", required=True, help="names of the job's nodes, with commas between")
    parser.add_argument("--unfit", type=Path, required=True, help="file that unfit nodes are added to")
    return parser.parse_args(arguments)


def local_problems(options: argparse.Namespace) -> Iterator[str]:
    """What is wrong with this node."""
    yield from _gpu_problems(options.gpus)
    for folder in options.folder:
        yield from _disk_problems(Path(folder), options.min_free_gb)
    if options.command:
        yield from _command_problems(options.command)


def _gpu_problems(wanted: int) -> Iterator[str]:
    if not wanted:
        return
    import torch

    found = torch.cuda.device_count()
    if found < wanted:
        yield f"{found} of {wanted} GPUs are visible"
    query = ["nvidia-smi", "--query-gpu=index,ecc.errors.uncorrected.volatile.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        yield f"nvidia-smi does not answer ({error})"
        return
    yield from ecc_problems(told)


def ecc_problems(told: str) -> Iterator[str]:
    """GPUs with memory errors, from nvidia-smi's `index, errors` lines; `[N/A]` is a GPU that counts none."""
    for line in told.splitlines():
        index, _, errors = (word.strip() for word in line.partition(","))
        if errors.isdigit() and int(errors) > 0:
            yield f"GPU {index} has {errors} uncorrected memory errors"


def _disk_problems(folder: Path, min_free_gb: float) -> Iterator[str]:
    from launch.checks import free_disk

    probe = folder / f".health-{platform.node()}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("fit")
        probe.unlink()
        free = free_disk(folder) / GB
    except OSError as error:
        yield f"{folder} cannot be written ({error.strerror})"
        return
    if free < min_free_gb:
        yield f"{folder} has {free:.1f} GB free, {min_free_gb:g} are asked for"


def _command_problems(command: str) -> Iterator[str]:
    try:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        yield f"launch.health_command did not end in {COMMAND_SECONDS:.0f} s"
        return
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["it said nothing"]
        yield f"launch.health_command ended with code {done.returncode}: {last[0]}"


def _report(unfit: dict[str, list[str]], path: Path) -> None:
    for node, problems in unfit.items():
        print(f"health: {node} is not fit: {'; '.join(problems)}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as handle:
        handle.writelines(f"{node}\n" for node in unfit)


def all_reduce(store: "Store | None", rank: int, size: int) -> float:
    """Sum ones over all processes, twice, by NCCL on GPUs; returns the seconds of the second time.

    Raises:
        EnvironmentMissingError: the sum is wrong.
    """
    import torch
    import torch.distributed as dist

    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if has_gpu else torch.device("cpu")
    dist.init_process_group(
        "nccl" if has_gpu else "gloo",
        store=store or torch._C._distributed_c10d.HashStore(),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TIMEOUT_SECONDS),
        device_id=device if has_gpu else None,
    )
    for _ in range(2):
        numbers = torch.ones(ELEMENTS, device=device)
        began = time.perf_counter()
        dist.all_reduce(numbers)
        total = float(numbers[-1])  # waits for the device
        seconds = time.perf_counter() - began
    dist.destroy_process_group()
    if total != size:
        raise EnvironmentMissingError(f"health: an all-reduce over {size} processes gave {total}; check NCCL")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
