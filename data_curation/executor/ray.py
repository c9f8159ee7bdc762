"""Tasks on Ray: a cluster named by RAY_ADDRESS, or one started here."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from datatrove.executor.ray import RayPipelineExecutor

from data_curation.executor.tasks import Tasks
from meditron.errors import EnvironmentMissingError


class RayTasks(Tasks, RayPipelineExecutor):  # type: ignore[misc]
    """datatrove's Ray executor, with the errors of its tasks.

    Args:
        memory_gb: memory that a task reserves.
        options: further arguments of datatrove's executor.
    """

    def __init__(self, *, memory_gb: float, **options: Any) -> None:  # noqa: ANN401
        super().__init__(mem_per_cpu_gb=memory_gb, **options)

    def start(self, ranks: Sequence[int]) -> None:
        """Run these tasks on the cluster.

        Raises:
            EnvironmentMissingError: Ray is not installed, or its cluster does not answer.
            MeditronError: a task failed.
        """
        _connect(self.workers)
        self.run()
        self.raise_failure(
            self.get_incomplete_ranks(ranks),
            "died several times, for want of memory (curate.task_memory_gb) or of this package on its node; "
            "start the same command again, finished tasks are kept",
        )


def _connect(workers: int) -> None:
    """Connect this process to Ray once."""
    if importlib.util.find_spec("ray") is None:
        raise EnvironmentMissingError(
            "curate.executor: ray is not installed; pip install 'meditron[ray]', or use the executor local"
        )
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, **quiet)
    except ConnectionError as error:
        raise EnvironmentMissingError(
            f"RAY_ADDRESS: no Ray cluster answers at {address} ({error}); start one, or unset the variable "
            "to run Ray on this machine"
        ) from error
