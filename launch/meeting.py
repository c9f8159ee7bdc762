"""How the processes of a job tell each other what they found, before there is a process group.

Through a store that the first one keeps, so that a process that never comes is missed by name, where a
collective operation would only wait for it.
"""

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

CLOCK_SECONDS = 5.0
"""How far a node's clock may be from the median."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one process found."""

    node: str
    """Name of its node, as SLURM has it."""
    problems: tuple[str, ...]
    """What is wrong there."""
    clock: float | None
    """Seconds since 1970, at about the same moment on all; None of one that said nothing."""


def open_store(rank: int, seconds: float) -> "Store":
    """The store at MASTER_ADDR and MASTER_PORT, kept by the first process.

    Raises:
        torch.distributed.DistError: the first process does not answer within `seconds`.
    """
    from torch._C._distributed_c10d import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=seconds)
    return TCPStore(address, port, None, rank == 0, timeout=wait, wait_for_workers=False)


def exchange(
    store: "Store", rank: int, nodes: Sequence[str], problems: Sequence[str], seconds: float
) -> dict[str, list[str]]:
    """Node to its problems, as all processes found them, on each of these.

    Args:
        store: shared by the processes.
        rank: number of this process.
        nodes: the node of each process.
        problems: what this one found.
        seconds: how long the first process waits for the others; one that it does not hear of is a problem of
            its node.
    """
    long = timedelta(seconds=2 * seconds)
    store.set(f"problems/{rank}", json.dumps(list(problems)))
    if rank == 0:
        told = _hear(store, "problems", range(len(nodes)), seconds)
        store.set("now", "")
    store.wait(["now"], long)
    store.set(f"clock/{rank}", repr(time.time()))
    if rank == 0:
        clocks = _hear(store, "clock", told, seconds)
        store.set("unfit", json.dumps(unfit_nodes(_findings(nodes, told, clocks))))
    store.wait(["unfit"], long)
    unfit: dict[str, list[str]] = json.loads(store.get("unfit"))
    store.set(f"heard/{rank}", "")
    if rank == 0:
        _hear(store, "heard", told, seconds)  # the store ends with this process
    return unfit


def _hear(store: "Store", what: str, ranks: Iterable[int], seconds: float) -> dict[int, bytes]:
    """What processes say, by rank; those that have said nothing after `seconds` are left out."""
    deadline = time.monotonic() + seconds
    silent, heard = list(ranks), []
    while silent and time.monotonic() < deadline:
        heard += [rank for rank in silent if store.check([f"{what}/{rank}"])]
        silent = [rank for rank in silent if rank not in heard]
        time.sleep(0.02)
    return {rank: store.get(f"{what}/{rank}") for rank in heard}


def _findings(nodes: Sequence[str], told: Mapping[int, bytes], clocks: Mapping[int, bytes]) -> list[Finding]:
    return [
        Finding(
            node=node,
            problems=tuple(json.loads(told[rank])) if rank in told else (f"process {rank} does not answer",),
            clock=float(clocks[rank]) if rank in clocks else None,
        )
        for rank, node in enumerate(nodes)
    ]


def unfit_nodes(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Node to its problems, the clocks compared."""
    median = statistics.median(finding.clock for finding in findings if finding.clock is not None)
    unfit: dict[str, list[str]] = {}
    for finding in findings:
        problems = list(finding.problems)
        if finding.clock is not None and abs(finding.clock - median) > CLOCK_SECONDS:
            problems.append(f"the clock is {finding.clock - median:+.0f} s off")
        if problems:
            unfit.setdefault(finding.node, []).extend(problems)
    return unfit
