"""The SLURM jobs of a recipe: which there are, how big each is, and which waits for which."""

from collections.abc import Sequence
from dataclasses import dataclass

from launch.stages import BY_NAME, STAGES, Stage
from meditron.config import Recipe
from meditron.errors import ConfigError


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
    run_dir: str | None = None
    """Run folder of a stage that saves on USR2 and then exits with the code that asks for a requeue."""

    @property
    def processes(self) -> int:
        """Processes that SLURM starts."""
        return self.nodes * self.tasks_per_node


def plan_jobs(recipe: Recipe, stages: Sequence[Stage] = STAGES) -> list[Job]:
    """The jobs of a recipe in the order of submission.

    Raises:
        ConfigError: the recipe has no stage, or its layout does not fit the nodes.
    """
    chosen = chosen_stages(recipe, stages)
    names = {stage.name for stage in chosen}
    jobs: list[Job] = []
    for stage in chosen:
        after = tuple(name for name in stage.after if name in names)
        tasks = stage.tasks(recipe)
        if tasks > 1:
            jobs.append(_job(recipe, stage, f"{stage.name}-parts", after, tasks))
            after = (jobs[-1].name,)
        jobs.append(_job(recipe, stage, stage.name, after))
    return jobs


def chosen_stages(recipe: Recipe, stages: Sequence[Stage] = STAGES) -> list[Stage]:
    """The stages that a recipe has.

    Raises:
        ConfigError: it has none.
    """
    chosen = [stage for stage in stages if stage.left_out(recipe) is None]
    if not chosen:
        raise ConfigError("launch: the recipe has no stage to run; give one that has, or curate.sources")
    return chosen


def task_recipes(job: Job, recipe: Recipe) -> list[Recipe]:
    """What each task of an array does: a recipe of its own; none for a single job."""
    count = job.tasks or 0
    return [BY_NAME[job.stage].part(recipe, index, count) for index in range(count)]


def _job(recipe: Recipe, stage: Stage, name: str, after: tuple[str, ...], tasks: int | None = None) -> Job:
    launch = recipe.launch
    on_gpus = stage.on_gpus and launch.gpus_per_node > 0
    nodes, processes = _size(recipe, stage)
    return Job(
        name=name,
        stage=stage.name,
        after=after,
        tasks=tasks,
        nodes=nodes,
        tasks_per_node=processes,
        gpus_per_node=_gpus(recipe, stage, processes) if on_gpus else 0,
        cpus_per_task=_cores(recipe, stage),
        partition=launch.partition if on_gpus or launch.cpu_partition is None else launch.cpu_partition,
        run_dir=stage.run_dir(recipe),
    )


def _gpus(recipe: Recipe, stage: Stage, processes: int) -> int:
    """GPUs on each node: one a process, but all for vLLM, which spreads one process over them."""
    takes_all = stage.name == "evaluate" and recipe.evaluate.backend == "vllm"
    return recipe.launch.gpus_per_node if takes_all else processes


def _cores(recipe: Recipe, stage: Stage) -> int | None:
    cores = max(recipe.launch.cpus_per_task or 1, stage.cores(recipe))
    return cores if cores > 1 else recipe.launch.cpus_per_task


def _size(recipe: Recipe, stage: Stage) -> tuple[int, int]:
    """(nodes, processes on each) of a stage.

    Raises:
        ConfigError: its processes do not fit.
    """
    if stage.name == "pretrain":
        return pretraining_size(recipe)
    processes, gpus = stage.processes(recipe), recipe.launch.gpus_per_node
    if stage.on_gpus and 0 < gpus < processes:
        raise ConfigError(
            f"{stage.name}.nproc: {processes} processes need a GPU each, a node has {gpus} "
            f"(launch.gpus_per_node); this stage works on one node, lower {stage.name}.nproc"
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
            f"pretrain.parallel: tensor x pipeline x context x data = {world_size} processes do not fit "
            f"evenly on {nodes} {'node' if nodes == 1 else 'nodes'}{limit}; change it, launch.nodes or "
            "launch.gpus_per_node"
        )
    return nodes, tasks
