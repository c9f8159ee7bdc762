"""Configuration of running, launching and reporting."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from meditron.config.check import require, require_choice

STAGE_NAMES = (
    "curate",
    "import",
    "tokenize",
    "pretrain",
    "export",
    "finetune",
    "evaluate",
    "report",
)
"""Every stage, in the order of the work; `import` is before `tokenize`, which may need its tokenizer."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+,-]*", re.ASCII)
_OPTION = re.compile(r"--(?P<name>[a-z][a-z-]+)(?:=[A-Za-z0-9_.,:@+/%&|*()\[\]-]+)?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MEMORY = re.compile(r"\d+[KMGT]?", re.ASCII)
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})", re.ASCII)
OWN_OPTIONS = (
    "job-name",
    "partition",
    "account",
    "qos",
    "array",
    "nodes",
    "ntasks-per-node",
    "gpus-per-node",
    "cpus-per-task",
    "mem",
    "time",
    "signal",
    "open-mode",
    "output",
    "requeue",
    "no-requeue",
)
"""Options of sbatch that the launcher sets itself."""
_MAX_SIGNAL_SECONDS = 65535  # the limit of sbatch --signal


def slurm_seconds(time_limit: str) -> int | None:
    """Seconds of a Slurm time limit (`30`, `30:00`, `12:00:00`, `1-0`, `1-12:00:00`); None if it is none."""
    match = _TIME.fullmatch(time_limit)
    if match is None:
        return None
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        units = [3600, 60, 1]
    else:
        units = {1: [60], 2: [60, 1], 3: [3600, 60, 1]}[len(parts)]
    clock = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return 86400 * int(match["days"] or 0) + clock


@dataclass(kw_only=True)
class LaunchConfig:
    """The SLURM jobs: one a stage, each after those whose output it reads."""

    dry_run: bool = False
    """Print the exact scripts and the commands that submit them, and write nothing."""
    local: bool = False
    """Run the stages on this machine, in the background, instead of submitting jobs. What is SLURM's
    (partitions, nodes, limits, arrays) has no meaning then."""
    job: str | None = None
    """The one job that `launch status`, `logs` and `cancel` are about, such as `pretrain`. Default: all."""
    job_name: str = "meditron"
    """Name of the jobs, followed by `-<stage>`."""
    partition: str | None = None
    """Partition of the jobs that use GPUs. Default: the cluster's."""
    cpu_partition: str | None = None
    """Partition of the jobs that use no GPU. Default: `partition`."""
    account: str | None = None
    """Account to charge. Default: the user's."""
    qos: str | None = None
    """Quality of service. Default: the cluster's."""
    nodes: int | None = None
    """Nodes of pretraining. Default: as many as the processes of `pretrain.parallel` fill."""
    gpus_per_node: int = 8
    """GPUs of one node, each driven by one process; 0 for a cluster without GPUs."""
    cpus_per_task: int | None = None
    """CPU cores of one process; a stage with several `workers` gets at least one for each. Default: the
    cluster's."""
    time_limit: str = "24:00:00"
    """Longest run of one job, as sbatch writes it: minutes, `hours:minutes:seconds`, `days-hours`; in YAML
    in quotes, or it is read as a number. A training stage that needs longer saves, is queued again, and
    goes on."""
    memory: str | None = None
    """Memory of a node, such as `64G`; `0` is all of it. Default: the cluster's."""
    sbatch_options: list[str] = field(default_factory=list)
    """Further options of sbatch for every job, each `--name` or `--name=value`, such as `--constraint=a100`,
    `--reservation=med` or `--exclude=node[7-9]`; none that the launcher sets itself."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell at the head of each job, taken as they are: `module load cuda`,
    `source .venv/bin/activate`."""
    python: str | None = None
    """Python that this package is installed for. Default: the one that submits; `python` where `setup` or
    `container` is given."""
    container: list[str] = field(default_factory=list)
    """Words before each command, such as `[apptainer, exec, --nv, image.sif]`. Default: no container."""
    srun_options: list[str] = field(default_factory=list)
    """Further options of srun, such as `--container-image=...` where the cluster has pyxis."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the jobs, taken literally."""
    signal_seconds: int = 300
    """Seconds before the time limit at which a training stage is told to save (USR2); SLURM may do it up
    to a minute earlier."""
    requeue: bool = True
    """Queue a training job again when it has saved before its time limit, and any job whose node failed."""
    scratch: str | None = None
    """Folder for temporary files that exists on every node (TMPDIR). Default: the cluster's."""
    curate_tasks: int = 1
    """Tasks of the job array that reads the sources; more than 1 reads them on as many cores or nodes."""
    evaluate_tasks: int = 1
    """Tasks of the job array that answers the questions of evaluation; each takes its share of them, for
    every model."""
    snapshot: bool = True
    """Run the jobs from a copy of this package's code in `<work_dir>/launch/code`, so that a later change
    of the code does not reach jobs that wait or are queued again."""
    max_idle_restarts: int = 3
    """Starts in a row of a training job that brought no new checkpoint, after which it is given up."""
    health_check: bool | None = None
    """Look at every node before a training stage starts: GPUs visible and without memory errors, room on the
    disks, clocks that agree, an all-reduce over all processes. Default: where there are GPUs."""
    health_command: str | None = None
    """A further line of shell that must succeed on every node before a training stage, such as
    `dcgmi diag -r 1`. Nodes that fail are left out when the job is queued again."""
    min_free_gb: float = 10.0
    """Free room that the health check asks for in `work_dir` and `scratch`, GB."""

    def __post_init__(self) -> None:
        for name in ("job_name", "partition", "cpu_partition", "account", "qos"):
            value = getattr(self, name)
            fits = value is None or _NAME.fullmatch(value) is not None
            require(fits, f"launch.{name}", value, "may hold only letters, digits and . _ - @ + ,")
        for name, least in (
            ("nodes", 1),
            ("gpus_per_node", 0),
            ("cpus_per_task", 1),
            ("curate_tasks", 1),
            ("evaluate_tasks", 1),
            ("max_idle_restarts", 1),
            ("min_free_gb", 0),
        ):
            number = getattr(self, name)
            require(number is None or number >= least, f"launch.{name}", number, f"must be at least {least}")
        self._check_limits()
        self._check_texts()

    def _check_limits(self) -> None:
        seconds = slurm_seconds(self.time_limit)
        form = "is no time limit of SLURM; write it as 12:00:00 or 1-12:00:00"
        require(bool(seconds), "launch.time_limit", self.time_limit, form)
        fits = 1 <= self.signal_seconds <= min(_MAX_SIGNAL_SECONDS, (seconds or 0) - 60)
        rule = f"must be at least 1, and a minute less than launch.time_limit ({self.time_limit})"
        require(fits, "launch.signal_seconds", self.signal_seconds, rule)
        memory = self.memory
        fits = memory is None or _MEMORY.fullmatch(memory) is not None
        require(fits, "launch.memory", memory, "must be a number with K, M, G or T, such as 64G")

    def _check_texts(self) -> None:
        for option in self.sbatch_options:
            match, key = _OPTION.fullmatch(option), "launch.sbatch_options"
            require(match is not None, key, option, "is no plain --name or --name=value of sbatch")
            own = match is not None and match["name"] in OWN_OPTIONS
            require(not own, key, option, "is set by the launcher; see the other settings of `launch`")
        for name, value in self.environment.items():
            fits = _VARIABLE.fullmatch(name) is not None
            require(fits, "launch.environment", name, "is no name of an environment variable")
            _require_one_line(f"launch.environment.{name}", value)
        for name in ("setup", "container", "srun_options"):
            for value in getattr(self, name):
                _require_one_line(f"launch.{name}", value)
        for name in ("python", "scratch", "health_command", "job"):
            text = getattr(self, name)
            require(text is None or text, f"launch.{name}", text, "is empty; leave it out for the default")
            _require_one_line(f"launch.{name}", text or "")


def _require_one_line(name: str, value: str) -> None:
    one_line = value.isprintable() or all(letter.isprintable() or letter == "\t" for letter in value)
    require(one_line, name, value, "holds a line break or another control character; give one plain line")


@dataclass(kw_only=True)
class ReportConfig:
    """The HTML report."""

    output: str | None = None
    """HTML file; its numbers go beside it as `.json` and `.csv`. Default: `<work_dir>/report.html`."""
    title: str | None = None
    """Heading of the page. Default: the name of `work_dir`."""
    questions_per_task: int = 200
    """Questions of one task and protocol that the page carries, evenly spaced over the file; it says where
    there are more."""

    def __post_init__(self) -> None:
        suffix = Path(self.output or "report.html").suffix
        require(suffix in (".html", ".htm"), "report.output", self.output, "must end in .html")
        least = self.questions_per_task >= 0
        require(least, "report.questions_per_task", self.questions_per_task, "must be at least 0")


@dataclass(kw_only=True)
class RunConfig:
    """Which stages `meditron run` goes through."""

    from_stage: str | None = None
    """Start at this stage, finished or not: curate, import, tokenize, pretrain, export, finetune,
    evaluate or report. Default: the first unfinished one."""

    def __post_init__(self) -> None:
        if self.from_stage is not None:
            require_choice(self.from_stage, STAGE_NAMES, "run.from_stage")
