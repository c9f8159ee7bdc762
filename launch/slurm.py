"""`meditron launch`: the stages of a recipe as SLURM jobs that wait for each other."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from launch.jobs import Job, plan_jobs
from meditron.config import LaunchConfig, Recipe
from meditron.config.loading import dump_recipe
from meditron.errors import REQUEUE_EXIT_CODE, ConfigError, EnvironmentMissingError
from meditron.files import atomic_write_text
from meditron.progress import console

_SAFE_FOLDER = re.compile(r"[\w./+=,@][\w./+=,@-]*")
"""What sbatch takes literally in `#SBATCH --output`: no quotes, spaces, `%` or backslashes."""

_RANK = (
    "export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS "
    'LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE; exec "$@"'
)
"""Makes a task of srun one of the processes that torch.distributed knows. Not torchrun: that ends its
processes 30 s after a signal, and hides their exit code."""

_MEETING_POINT = """\
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT"""

# By srun, not by `scancel --signal`: where another job depends on this one, that of SLURM 22.05 delivers
# the signal twice, and a second signal means "exit at once".
_WAIT = """\
# Before the time limit SLURM signals this shell alone; srun passes it on to its processes.
trap 'kill -USR2 "$step" || true' USR2
{command} &
step=$!
while kill -0 "$step" 2> /dev/null; do
    wait "$step" || true # it also ends when the trap ran
done
code=0
wait "$step" || code=$?"""

_REQUEUE = """
# {code}: the stage has saved and asks to be started again; not when it was scancel that stopped it.
if [ "$code" -eq {code} ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 300 # until SLURM ends this shell; its own end would end the job
fi"""


def main(recipe: Recipe) -> None:
    """Submit a recipe's stages, or print their scripts (`launch.dry_run`).

    Raises:
        ConfigError: a setting cannot be written safely into a script, or the layout does not fit the nodes.
        EnvironmentMissingError: SLURM's commands are not here, or sbatch refuses a script.
    """
    folder = launch_folder(recipe)
    jobs = plan_jobs(recipe)
    scripts = {job.stage: script(job, recipe) for job in jobs}
    _check_syntax(scripts, recipe.launch)
    if recipe.launch.dry_run:
        print(dry_run(jobs, scripts, folder), end="")
        return
    if shutil.which("sbatch") is None:
        raise EnvironmentMissingError(
            "launch: sbatch is not on the PATH; start this on a login node of a SLURM cluster, print the "
            "scripts with --launch.dry_run true, or run the stages here with `meditron run`"
        )
    atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))
    for job in jobs:
        atomic_write_text(folder / f"{job.stage}.sbatch", scripts[job.stage])
    submit(jobs, folder)


def launch_folder(recipe: Recipe) -> Path:
    """Where scripts, their recipe and the jobs' output go.

    Raises:
        ConfigError: `work_dir` holds characters that sbatch would not take literally.
    """
    if _SAFE_FOLDER.fullmatch(recipe.work_dir) is None:
        raise ConfigError(
            f"work_dir: {recipe.work_dir!r} cannot be the place of SLURM's logs; use letters, digits and "
            "_ . / + = , @ - only"
        )
    return Path(recipe.work_dir) / "launch"


def script(job: Job, recipe: Recipe) -> str:
    """The whole sbatch script of one job."""
    launch, folder = recipe.launch, launch_folder(recipe)
    lines = ["#!/bin/bash", *(f"#SBATCH --{option}" for option in _options(job, launch, folder)), ""]
    lines += ["set -eo pipefail", *launch.setup, *_exports(job, launch)]
    if job.processes > 1:
        lines += _MEETING_POINT.splitlines()
    command = _command(job, launch, folder)
    if job.saves:
        lines += ["", _WAIT.format(command=command)]
        if launch.requeue:
            lines += [_REQUEUE.strip("\n").format(code=REQUEUE_EXIT_CODE)]
        lines += ['exit "$code"']
    else:
        lines += ["", command]
    return "\n".join(lines) + "\n"


def _options(job: Job, launch: LaunchConfig, folder: Path) -> list[str]:
    options = {
        "job-name": f"{launch.job_name}-{job.stage}",
        "partition": job.partition,
        "account": launch.account,
        "qos": launch.qos,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "gpus-per-node": job.gpus_per_node or None,
        "cpus-per-task": job.cpus_per_task,
        "mem": launch.memory,
        "time": launch.time_limit,
        "signal": f"B:USR2@{launch.signal_seconds}" if job.saves else None,
        "open-mode": "append",
        "output": folder / f"{job.stage}-%j.log",
    }
    written = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [*written, "requeue" if launch.requeue else "no-requeue"]


def _exports(job: Job, launch: LaunchConfig) -> list[str]:
    values = {**launch.environment}
    if launch.scratch is not None:
        values["TMPDIR"] = launch.scratch
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    if job.cpus_per_task is not None:
        lines.append(f"export SRUN_CPUS_PER_TASK={job.cpus_per_task}")  # since 22.05 srun does not inherit it
    return lines


def _command(job: Job, launch: LaunchConfig, folder: Path) -> str:
    python = launch.python or ("python" if launch.setup or launch.container else sys.executable)
    # A process that has saved and exits with 75 must not make srun kill the others, which may still save.
    options = ["--export=ALL", "--kill-on-bad-exit=0"]
    words = ["srun", *options, *(["--wait=120"] if job.processes > 1 else [])]
    words += launch.srun_options
    if job.processes > 1:
        words += ["bash", "-c", _RANK, "rank"]
    words += [*launch.container, python, "-m", "meditron", job.stage]
    return shlex.join([*words, "--config", str(folder / "recipe.yaml")])


def _check_syntax(scripts: dict[str, str], launch: LaunchConfig) -> None:
    for text in scripts.values():
        checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        if checked.returncode:
            reason = checked.stderr.strip().splitlines()[-1]
            raise ConfigError(
                f"launch.setup: {launch.setup!r} is no valid shell ({reason}); correct the lines"
            )


def dry_run(jobs: list[Job], scripts: dict[str, str], folder: Path) -> str:
    """All scripts, each under its name, then the commands that submit them."""
    parts = [f"==> {folder}/{stage}.sbatch <==\n{text}\n" for stage, text in scripts.items()]
    parts.append("==> submitting <==\n")
    for job in jobs:
        after = ":".join(f"${{{name}%%;*}}" for name in job.after)
        words = [*_sbatch(after), f"{folder}/{job.stage}.sbatch"]
        parts.append(f"{job.stage}=$({' '.join(words)})\n")
    return "".join(parts)


def _sbatch(after: str) -> list[str]:
    waiting = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *waiting]


def submit(jobs: list[Job], folder: Path) -> dict[str, str]:
    """Submit the written scripts in order; returns stage to job id.

    Raises:
        EnvironmentMissingError: sbatch refuses one; names those that are in the queue already.
    """
    ids: dict[str, str] = {}
    for job in jobs:
        path = folder / f"{job.stage}.sbatch"
        command = [*_sbatch(":".join(ids[name] for name in job.after)), str(path)]
        answer = subprocess.run(command, text=True, capture_output=True, check=False)
        if answer.returncode:
            reason = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
            queued = f"; cancel what is queued with: scancel {' '.join(ids.values())}" if ids else ""
            raise EnvironmentMissingError(f"{path}: sbatch refuses it ({reason}); correct launch.*{queued}")
        ids[job.stage] = answer.stdout.strip().split(";")[0]
        waits = f" after {', '.join(job.after)}" if job.after else ""
        console().print(f"{job.stage:<9} job {ids[job.stage]}{waits}", markup=False, soft_wrap=True)
    console().print(f"output of the jobs: {folder}/<stage>-<job>.log", markup=False, soft_wrap=True)
    return ids
