"""Tasks as an array of SLURM jobs, which the command submits and waits for."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from data_curation.executor.tasks import Tasks
from meditron.config import LaunchConfig
from meditron.errors import ConfigError, EnvironmentMissingError, InputError
from meditron.progress import console

POLL_SECONDS = 2.0
_SAFE_FOLDER = re.compile(r"[\w./+=,@][\w./+=,@-]*")
"""What sbatch takes literally in `#SBATCH --output`."""


class SlurmTasks(Tasks, SlurmPipelineExecutor):  # type: ignore[misc]
    """datatrove's SLURM executor with this project's `launch` settings, and jobs that are waited for.

    The numbers of submitted jobs are kept in `jobs.txt`, so that a command that is started again waits
    for those of the one before it and does not run a task twice.

    Args:
        launch: the cluster.
        memory_gb: memory of a task.
        title: what the tasks do, for the jobs' name.
        options: further arguments of datatrove's executor.
    """

    def __init__(self, *, launch: LaunchConfig, memory_gb: float, title: str, **options: Any) -> None:  # noqa: ANN401
        super().__init__(
            time=launch.time_limit,
            partition=launch.cpu_partition or launch.partition,
            job_name=f"{launch.job_name}-curate-{title}",
            max_array_size=1000,  # SLURM's default limit
            requeue=launch.requeue,
            with_srun=False,  # the script below has its own
            **options,
        )
        self._launch, self._memory_gb = launch, memory_gb
        self.job_id_retriever = partial(_remember, self.folder / "jobs.txt")
        if _SAFE_FOLDER.fullmatch(str(self.folder)) is None:
            raise ConfigError(
                f"curate.output: {str(self.folder)!r} cannot be the place of SLURM's logs; use letters, "
                "digits and _ . / + = , @ - only"
            )

    def start(self, ranks: Sequence[int]) -> None:
        """Submit these tasks and wait until the queue has none of them.

        Raises:
            EnvironmentMissingError: SLURM's commands are not here, or sbatch refuses the jobs.
            MeditronError: a task failed.
        """
        if shutil.which("sbatch") is None:
            raise EnvironmentMissingError(
                "curate.executor: sbatch is not on the PATH; start this on a login node of a SLURM cluster, "
                "or use the executor local"
            )
        self._wait()  # for jobs of a command that was interrupted
        if self.get_incomplete_ranks(ranks):
            self._submit()
            self._wait()
        log = f"{self.folder}/slurm_logs"
        end = (
            "ended without a result, most likely at its memory (curate.task_memory_gb) or time limit "
            f"(launch.time_limit); its log is in {log}; start the same command again, finished tasks are kept"
        )
        self.raise_failure(self.get_incomplete_ranks(ranks), end)

    def _submit(self) -> None:
        (self.folder / "jobs.txt").unlink(missing_ok=True)
        try:
            self.launch_job()
        except subprocess.CalledProcessError as error:
            raise EnvironmentMissingError(
                f"curate.executor: sbatch refuses the job (exit code {error.returncode}, its own words are "
                "above); correct launch.* or the --cluster file"
            ) from error
        jobs = ", ".join(self._jobs())
        console().print(f"{self.job_name}: job {jobs}; logs in {self.folder}/slurm_logs", markup=False)

    def _wait(self) -> None:
        while _any_in_queue(self._jobs()):
            time.sleep(POLL_SECONDS)

    def _jobs(self) -> list[str]:
        path = self.folder / "jobs.txt"
        return path.read_text().split() if path.exists() else []

    def launch_merge_stats(self) -> None:
        """No job for datatrove's statistics: the corpus has its own."""

    def get_distributed_env(self, node_rank: int = -1) -> dict[str, str]:
        """Nothing here asks for it; datatrove's own needs scontrol, which containers lack."""
        names = ("node_ips", "cpus_per_task", "mem_per_cpu", "gpus_on_node")
        return {**{f"datatrove_{name}": "" for name in names}, "datatrove_executor": "SLURM"}

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Options of sbatch; those without a value are left to the cluster."""
        launch = self._launch
        own = {
            "account": launch.account,
            "qos": launch.qos,
            "mem": f"{round(self._memory_gb * 1024)}M",
            "partition": self.partition,
        }
        given = super().get_sbatch_args(max_array)
        del given["mem-per-cpu"]
        return {name: value for name, value in {**given, **own}.items() if value is not None}

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """The script of every task: the recipe's `launch` settings around datatrove's own command."""
        launch = self._launch
        options = [
            f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}"
            for name, value in sbatch_args.items()
        ]
        variables = {**launch.environment, **({"TMPDIR": launch.scratch} if launch.scratch else {})}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        python = launch.python or ("python" if launch.setup or launch.container else sys.executable)
        words = ["srun", "--export=ALL", "--ntasks=1", *launch.srun_options, *launch.container, python]
        words += ["-m", "datatrove.tools.launch_pickled_pipeline", str(self.folder / "executor.pik")]
        lines = ["#!/bin/bash", *options, "set -eo pipefail", *launch.setup, *exports, shlex.join(words)]
        return "\n".join(lines) + "\n"


def require_idle(work: Path) -> None:
    """Refuse to touch a folder that jobs still write to.

    Raises:
        InputError: SLURM has jobs of an earlier command, or does not say that it has none.
    """
    jobs = [number for path in sorted(work.glob("*/jobs.txt")) for number in path.read_text().split()]
    if _any_in_queue(jobs):
        listed = " ".join(jobs)
        raise InputError(
            f"{work}: SLURM's jobs {listed} of an earlier command are still at work there; start that "
            f"command again to wait for them, or end them with: scancel {listed}"
        )


def _remember(path: Path, answer: str) -> str:
    """The job's number in what sbatch says, also written to a file."""
    number = answer.split()[-1]
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(f"{number}\n")
    return number


def _any_in_queue(jobs: Sequence[str]) -> bool:
    """Whether SLURM still has one of these jobs; while it does not answer, they are taken to be there."""
    if not jobs:
        return False
    if shutil.which("squeue") is None:
        return True
    words = ["squeue", "--noheader", "--format=%A", f"--jobs={','.join(jobs)}"]
    answer = subprocess.run(words, text=True, capture_output=True, check=False)
    if answer.returncode:
        return "Invalid job id" not in answer.stderr
    return bool(answer.stdout.strip())
