"""The SLURM jobs of a recipe: which there are, how big each is, and which waits for which."""

from dataclasses import dataclass, replace

from launch.stages import STAGES
from meditron.config import Recipe
from meditron.errors import ConfigError

_ON_GPUS = ("pretrain", "finetune", "evaluate")
_SAVING = ("pretrain", "finetune")
PARTS = "curate-parts"
"""Name of the array that reads the sources before `curate` puts them together."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage as one job, or as an array of tasks."""

    name: str
    """Unique in the recipe."""
    stage: str
    """The verb."""
    after: tuple[str, ...]
    """Names of the jobs that must have succeeded."""
    tasks: int | None = None
    """Tasks of the array; None for a single job."""
    nodes: int = 1
    """Nodes."""
    tasks_per_node: int = 1
    """Processes that SLURM starts on each node."""
    gpus_per_node: int = 0
    """GPUs asked for on each node."""
    cpus_per_task: int | None = None
    """Cores of one process; None leaves it to the cluster."""
    partition: str | None = None
    """Partition; None leaves it to the cluster."""

    @property
    def processes(self) -> int:
        """Processes that SLURM starts."""
        return self.nodes * self.tasks_per_node

    @property
    def saves(self) -> bool:
        """Whether the stage saves on USR2 and then exits with the code that asks for a requeue."""
        return self.stage in _SAVING


def plan_jobs(recipe: Recipe) -> list[Job]:
    """The jobs of a recipe in the order of submission.

    Raises:
        ConfigError: the recipe has no stage, or its layout does not fit the nodes.
    """
    names = [stage.name for stage in STAGES if stage.left_out(recipe) is None]
    if not names:
        raise ConfigError(
            "launch: the recipe has no stage to run; give --config with a recipe that has, or curate.sources"
        )
    waits = {stage.name: tuple(name for name in stage.after if name in names) for stage in STAGES}
    jobs: list[Job] = []
    for name in names:
        if name == "curate" and recipe.launch.curate_tasks > 1:
            jobs.append(_job(recipe, PARTS, name, (), recipe.launch.curate_tasks))
            jobs.append(_job(recipe, name, name, (PARTS,)))
        else:
            jobs.append(_job(recipe, name, name, waits[name], _tasks(recipe, name)))
    return jobs


def _tasks(recipe: Recipe, stage: str) -> int | None:
    """Tasks of a stage that is one array."""
    tasks = min(recipe.launch.evaluate_tasks, len(recipe.evaluate.models))
    return tasks if stage == "evaluate" and tasks > 1 else None


def task_recipes(job: Job, recipe: Recipe) -> list[Recipe]:
    """What each task of an array does: a recipe of its own."""
    count = job.tasks or 0
    if job.name == PARTS:
        parts = [replace(recipe.curate, part=index, parts=count) for index in range(count)]
        return [replace(recipe, curate=part) for part in parts]
    models = list(recipe.evaluate.models.items())
    shares = [dict(models[index::count]) for index in range(count)]
    return [replace(recipe, evaluate=replace(recipe.evaluate, models=share)) for share in shares]


def _job(
    recipe: Recipe, name: str, stage: str, after: tuple[str, ...], tasks_of_array: int | None = None
) -> Job:
    launch = recipe.launch
    on_gpus = stage in _ON_GPUS and launch.gpus_per_node > 0
    nodes, tasks = _size(recipe, stage)
    return Job(
        name=name,
        stage=stage,
        after=after,
        tasks=tasks_of_array,
        nodes=nodes,
        tasks_per_node=tasks,
        gpus_per_node=tasks if on_gpus else 0,
        cpus_per_task=_cores(recipe, stage),
        partition=launch.partition if on_gpus or launch.cpu_partition is None else launch.cpu_partition,
    )


def _cores(recipe: Recipe, stage: str) -> int | None:
    workers = {"curate": recipe.curate.workers, "tokenize": recipe.tokenize.workers}.get(stage, 1)
    cores = max(recipe.launch.cpus_per_task or 1, workers)
    return cores if cores > 1 else recipe.launch.cpus_per_task


def _size(recipe: Recipe, stage: str) -> tuple[int, int]:
    """(nodes, processes on each) of a stage.

    Raises:
        ConfigError: its processes do not fit.
    """
    if stage == "pretrain":
        return pretraining_size(recipe)
    if stage != "finetune":
        return 1, 1
    processes, gpus = recipe.finetune.nproc, recipe.launch.gpus_per_node
    if 0 < gpus < processes:
        raise ConfigError(
            f"finetune.nproc: {processes} processes need a GPU each, a node has {gpus} "
            "(launch.gpus_per_node); finetuning works on one node, lower finetune.nproc"
        )
    return 1, processes


def pretraining_size(recipe: Recipe) -> tuple[int, int]:
    """(nodes, processes on each) for the processes of `pretrain.parallel`.

    Raises:
        ConfigError: they do not fill the nodes evenly.
    """
    launch, world_size = recipe.launch, recipe.pretrain.parallel.world_size
    per_node = launch.gpus_per_node or world_size
    nodes = launch.nodes or max(world_size // per_node, 1)
    tasks = world_size // nodes
    if tasks * nodes != world_size or tasks > per_node or tasks == 0:
        limit = f", at most {launch.gpus_per_node} on each" if launch.gpus_per_node else ""
        raise ConfigError(
            f"pretrain.parallel: tensor x pipeline x data = {world_size} processes do not fit evenly on "
            f"{nodes} {'node' if nodes == 1 else 'nodes'}{limit}; change it, launch.nodes or "
            "launch.gpus_per_node"
        )
    return nodes, tasks
