"""Several processes that share the work on one model: who does what, and waiting for each other."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Team:
    """This process among those that evaluate together."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Number of processes."""
    apart: bool = False
    """Whether each leaves its answers in the cache for a later evaluation, and waits for nobody."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the results."""
        return self.rank == 0 and not self.apart

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1 and not self.apart:
            import torch.distributed as dist

            dist.barrier()

    def agree(self, answer: bool) -> bool:
        """The first process's answer, for all."""
        if self.size == 1 or self.apart:
            return answer
        import torch.distributed as dist

        answers = [answer]
        dist.broadcast_object_list(answers, src=0)
        return answers[0]

    def share(self, costs: Sequence[int]) -> range:
        """This process's part of a row of jobs: neighbours, of about equal cost."""
        if self.size == 1 or not costs:
            return range(len(costs) if self.rank == 0 else 0)
        ends = np.cumsum(costs)
        bounds = np.searchsorted(ends, np.arange(1, self.size) / self.size * ends[-1], side="left") + 1
        cuts = [0, *np.minimum(bounds, len(costs)).tolist(), len(costs)]
        return range(cuts[self.rank], cuts[self.rank + 1])


def join(part: int | None = None, parts: int = 1) -> Team:
    """Find the other processes, where a launcher has started several (`WORLD_SIZE`).

    Args:
        part: which of `parts` equal shares of the work this program does, apart from the others.
        parts: see `part`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if part is not None:
        rank = part * size + int(os.environ.get("RANK", "0"))
        return Team(rank=rank, size=parts * size, apart=True)
    if size == 1:
        return Team()
    from datetime import timedelta

    import torch.distributed as dist

    if not dist.is_initialized():
        # A process may wait for another one's part of the work, which can take long.
        dist.init_process_group("gloo", timeout=timedelta(days=7))
    return Team(rank=dist.get_rank(), size=dist.get_world_size())


def leave(team: Team) -> None:
    """Part from the others."""
    if team.size > 1 and not team.apart:
        import torch.distributed as dist

        dist.destroy_process_group()
