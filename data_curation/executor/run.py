"""Every unfinished task of a set, by the executor of the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data_curation.executor.local import LocalTasks
from data_curation.executor.tasks import Tasks, logs_to
from data_curation.executor.watch import watch
from meditron.config import CurateConfig, LaunchConfig
from meditron.files import disk_errors
from meditron.progress import progress


@dataclass(frozen=True)
class Runner:
    """Runs sets of tasks.

    Args:
        config: which executor, and how many tasks at a time.
        launch: the cluster, for SLURM.
    """

    config: CurateConfig
    launch: LaunchConfig

    def run(
        self,
        steps: Sequence[PipelineStep],
        *,
        sizes: Sequence[float],
        folder: Path,
        title: str,
        unit: str = "MB",
        part: tuple[int, int] | None = None,
    ) -> None:
        """Run every unfinished task, and show how far all of them are.

        Args:
            steps: datatrove steps; the task's rank chooses its work.
            sizes: size of each task, one task per entry.
            folder: markers, logs and reports of this set of tasks.
            title: what the progress line calls it.
            unit: of the sizes.
            part: (i, n) runs the i-th of n runs of consecutive tasks only.
        """
        folder.mkdir(parents=True, exist_ok=True)
        index, parts = part or (0, 1)
        own = range(index * len(sizes) // parts, (index + 1) * len(sizes) // parts)
        with disk_errors(folder), logs_to(folder / "datatrove.log"):
            executor = self._executor(list(steps), len(sizes), folder)
            left = executor.get_incomplete_ranks()
            with progress(sum(sizes), title, unit) as task:
                task.start_at(sum(sizes) - sum(sizes[rank] for rank in left))
                if unfinished := sorted(set(left) & set(own)):
                    with watch(folder, sizes, task):
                        executor.start(unfinished)

    def _executor(self, steps: list[PipelineStep], tasks: int, folder: Path) -> Tasks:
        config = self.config
        options: dict[str, Any] = {"pipeline": steps, "tasks": tasks, "workers": config.workers}
        options["logging_dir"] = str(folder)
        if config.executor == "slurm":
            from data_curation.executor.slurm import SlurmTasks

            memory = config.task_memory_gb
            return SlurmTasks(launch=self.launch, memory_gb=memory, title=folder.name, **options)
        if config.executor == "ray":
            from data_curation.executor.ray import RayTasks

            return RayTasks(memory_gb=config.task_memory_gb, **options)
        return LocalTasks(**options)
