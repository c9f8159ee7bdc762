"""The sbatch script of a job, whole: headers, environment, health check, the stage, and the next start."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.jobs import Job
from meditron.config import LaunchConfig, Recipe
from meditron.errors import REQUEUE_EXIT_CODE, ConfigError

_SAFE_FOLDER = re.compile(r"[\w./+=,@][\w./+=,@-]*")
"""What sbatch takes literally in `#SBATCH --output`: no quotes, spaces, `%` or backslashes."""

_START = 'echo "==> start $((${SLURM_RESTART_COUNT:-0} + 1)) of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"'
"""Divides the output of a job's starts, which are in one file; `explain` looks at the last one."""

_RANK = (
    "export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS "
    'LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE; exec "$@"'
)
"""Makes a task of srun one of the processes that torch.distributed knows. Not torchrun: that ends its
processes 30 s after a signal, and hides their exit code."""

# Each start has a port of its own: processes of an earlier one, whose node's daemon died, may still hold one.
_MEETING_POINT = """\
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + (SLURM_JOB_ID * 10 + ${SLURM_RESTART_COUNT:-0}) % 10000))
export MASTER_ADDR MASTER_PORT"""

# A start whose node's daemon died may live on beside the next one, which is not its to restart.
_IS_CURRENT = """
is_current() { # whether the job runs, and this is its last start
    job=$(scontrol show job --oneliner "$SLURM_JOB_ID") || return 1
    [[ "$job " == *" JobState=RUNNING "* && "$job " == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]]
}"""

_IDLE_STARTS = """
# Starts that bring no new checkpoint are counted, and end after {limit}.
starts={starts}-$SLURM_JOB_ID.starts
newest=$(ls -- {checkpoints} 2> /dev/null | tail -n 1 || true)
idle=0 before=
[ ! -f "$starts" ] || read -r idle before < "$starts" || true
if [ -n "${{SLURM_RESTART_COUNT:-}}" ] && [ "$newest" = "$before" ]; then idle=$((idle + 1)); else idle=0; fi
echo "$idle $newest" > "$starts"
if [ "$idle" -ge {limit} ]; then
    echo "meditron: {limit} starts in a row of {stage} brought no new checkpoint; it is not started again" >&2
    exit 1
fi"""

# A job's excluded nodes can be changed only while it waits, and requeuing ends this shell: so TERM is ignored
# for the KillWait seconds that SLURM gives it.
_HEALTH = """
# Nodes are looked at before the start; those that fail are left out of the next one.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -s -d ,)
unfit={unfit}-$SLURM_JOB_ID.unfit
if ! {command}; then
    if [ -s "$unfit" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {limit} ] && is_current; then
        excluded=$(sort -u "$unfit" | paste -s -d ,)
        echo "meditron: queued again without $excluded" >&2
        trap '' TERM
        scontrol requeuehold "$SLURM_JOB_ID"
        scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$excluded"
        scontrol release "$SLURM_JOB_ID"
        sleep 300
    fi
    echo "meditron: the nodes are not fit for {stage}; see above" >&2
    exit 10
fi"""

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

# srun's code is the highest of its processes'. After most errors of ours another start would end alike.
_REQUEUE = """
# {code}: the stage has saved and asks for another start; 1, 8, 128 and more: a process died, or lost another.
# The next start goes on from the newest checkpoint. There is none when scancel ended this one.
case $code in 1 | 8 | {code} | 1[2-9][0-9] | 2??)
    if is_current; then
        echo "meditron: {stage} ended with code $code; it is queued again" >&2
        scontrol requeue "$SLURM_JOB_ID" && sleep 300 # SLURM ends this shell; its own end would end the job
    fi
    ;;
esac"""


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
    lines += [_START, "set -eo pipefail", *launch.setup, *_exports(launch, folder)]
    if job.cpus_per_task is not None:
        lines.append(f"export SRUN_CPUS_PER_TASK={job.cpus_per_task}")  # since 22.05 srun does not inherit it
    if job.processes > 1:
        lines += _MEETING_POINT.splitlines()
    if job.run_dir:
        lines += _with_restarts(job, recipe, folder)
    else:
        lines += ["", _stage(job, launch, folder)]
    return "\n".join([*lines, f"touch {_done(job, folder)}"]) + "\n"


def _done(job: Job, folder: Path) -> str:
    return f"{folder}/done/{job.name}" + ('."$SLURM_ARRAY_TASK_ID"' if job.tasks else "")


def _options(job: Job, launch: LaunchConfig, folder: Path) -> list[str]:
    options = {
        "job-name": f"{launch.job_name}-{job.name}",
        "partition": job.partition,
        "account": launch.account,
        "qos": launch.qos,
        "array": f"0-{job.tasks - 1}" if job.tasks else None,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "gpus-per-node": job.gpus_per_node or None,
        "cpus-per-task": job.cpus_per_task,
        "mem": launch.memory,
        "time": launch.time_limit,
        "signal": f"B:USR2@{launch.signal_seconds}" if job.run_dir else None,
        "open-mode": "append",
        "output": folder / f"{job.name}-{'%A_%a' if job.tasks else '%j'}.log",
    }
    written = [f"{name}={value}" for name, value in options.items() if value is not None]
    further = [option.removeprefix("--") for option in launch.sbatch_options]
    return [*written, "requeue" if launch.requeue else "no-requeue", *further]


def local_script(recipe: Recipe) -> str:
    """The script that runs all stages on this machine."""
    launch, folder = recipe.launch, launch_folder(recipe)
    words = [*launch.container, _python(launch), "-m", "meditron", "run", "--config"]
    command = f"exec {shlex.join(words)} {folder}/recipe.yaml"
    lines = ["#!/bin/bash", "set -eo pipefail", *launch.setup, *_exports(launch, folder), command]
    return "\n".join(lines) + "\n"


def _exports(launch: LaunchConfig, folder: Path) -> list[str]:
    values = {**launch.environment}
    if launch.scratch is not None:
        values["TMPDIR"] = launch.scratch
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    if launch.snapshot:
        place = f"{folder}/code" if folder.is_absolute() else f'"$PWD"/{folder}/code'
        lines.append(f'export PYTHONPATH={place}"${{PYTHONPATH:+:$PYTHONPATH}}" PYTHONSAFEPATH=1')
    return lines


def _with_restarts(job: Job, recipe: Recipe, folder: Path) -> list[str]:
    """The stage between what looks before it and what starts it again."""
    launch, lines = recipe.launch, []
    fill = {"stage": job.stage, "limit": launch.max_idle_restarts, "code": REQUEUE_EXIT_CODE}
    if launch.requeue:
        lines.append(_IS_CURRENT)
        checkpoints = shlex.quote(f"{job.run_dir}/checkpoints")
        lines.append(_IDLE_STARTS.format(starts=folder / job.name, checkpoints=checkpoints, **fill))
    if _has_health_check(job, launch):
        command = _health(job, recipe, folder)
        text = _HEALTH if launch.requeue else _HEALTH.replace("&& is_current", "&& false")
        lines.append(text.format(unfit=folder / job.name, command=command, **fill))
    lines += ["", _WAIT.format(command=_stage(job, launch, folder))]
    if launch.requeue:
        lines.append(_REQUEUE.strip("\n").format(**fill))
    return [*lines, '[ "$code" -eq 0 ] || exit "$code"']


def _has_health_check(job: Job, launch: LaunchConfig) -> bool:
    wanted = job.gpus_per_node > 0 if launch.health_check is None else launch.health_check
    return wanted or launch.health_command is not None


def _health(job: Job, recipe: Recipe, folder: Path) -> str:
    """All processes of the job look at their nodes, and at each other."""
    launch = recipe.launch
    words = ["launch.health", "--gpus", str(job.gpus_per_node), "--min-free-gb", f"{launch.min_free_gb:g}"]
    words += [word for path in (recipe.work_dir, launch.scratch) if path for word in ("--folder", path)]
    if launch.health_command is not None:
        words += ["--command", launch.health_command]
    return f'{shlex.join([*_srun(job, launch), *words])} --nodes "$nodes" --unfit "$unfit"'


def _stage(job: Job, launch: LaunchConfig, folder: Path) -> str:
    command = shlex.join([*_srun(job, launch), "meditron", job.stage])
    if job.tasks:
        return f'{command} --config {folder}/{job.name}."$SLURM_ARRAY_TASK_ID".yaml'
    return f"{command} --config {folder}/recipe.yaml"


def _srun(job: Job, launch: LaunchConfig) -> list[str]:
    """What comes before the name of the Python module that all processes of a job run."""
    # A process that has saved and exits with 75 must not make srun kill the others, which may still save.
    words = ["srun", "--export=ALL", "--kill-on-bad-exit=0", *(["--wait=120"] if job.processes > 1 else [])]
    words += launch.srun_options
    if job.processes > 1:
        words += ["bash", "-c", _RANK, "rank"]
    return [*words, *launch.container, _python(launch), "-m"]


def _python(launch: LaunchConfig) -> str:
    return launch.python or ("python" if launch.setup or launch.container else sys.executable)


def check_syntax(scripts: Iterable[str], setup: Sequence[str]) -> None:
    """Have bash read every script.

    Raises:
        ConfigError: the lines of `launch.setup`, the only ones taken as they are, are no shell.
    """
    for text in scripts:
        checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        if checked.returncode:
            reason = checked.stderr.strip().splitlines()[-1]
            raise ConfigError(f"launch.setup: {setup!r} is no valid shell ({reason}); correct the lines")
