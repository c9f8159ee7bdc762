"""Which process is slower than the others.

Most phases of a step end together on all processes, because they wait for one another: what differs is the
time to read the data, and the time of a fixed piece of work that needs nobody else.
"""

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

PROBE_SIZE = 512
"""Rows and columns of the matrices of the fixed work."""


class Stragglers:
    """Compares the processes over the steps since the last report; all call the same methods together.

    Args:
        device: what the fixed work runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._totals: dict[str, float] = {}
        self._matrix = torch.ones(PROBE_SIZE, PROBE_SIZE, device=device)

    def add(self, laps: dict[str, float]) -> None:
        """Count the phases of one step."""
        for name, seconds in laps.items():
            self._totals[name] = self._totals.get(name, 0.0) + seconds

    def report(self) -> dict[str, dict[str, Any]]:
        """For each phase, and `probe`, the slowest rank, its seconds and the median of all; starts anew."""
        mine = {**self._totals, "probe": self._probe()}
        self._totals = {}
        names = sorted(mine)
        seconds = torch.tensor([mine[name] for name in names], dtype=torch.float64, device=self._device)
        gathered = [torch.empty_like(seconds) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, seconds)
        table = torch.stack(gathered).tolist()
        return {name: _slowest([row[place] for row in table]) for place, name in enumerate(names)}

    def _probe(self) -> float:
        """Best of three products."""
        times = []
        for _ in range(3):
            started = time.perf_counter()
            torch.mm(self._matrix, self._matrix)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            times.append(time.perf_counter() - started)
        return min(times)


def _slowest(seconds: list[float]) -> dict[str, Any]:
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    return {"rank": rank, "seconds": seconds[rank], "median": statistics.median(seconds)}
