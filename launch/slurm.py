"""`meditron launch`: the stages of a recipe as SLURM jobs that wait for each other."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from launch import local, queue
from launch.jobs import Job, plan_jobs, task_recipes
from launch.queue import Submitted, say
from launch.script import check_syntax, launch_folder, script
from launch.snapshot import write_snapshot
from meditron.config import Recipe
from meditron.config.loading import dump_recipe
from meditron.errors import EnvironmentMissingError
from meditron.files import atomic_write_text


def main(recipe: Recipe) -> None:
    """Submit a recipe's stages, print their scripts (`launch.dry_run`), or run them here (`launch.local`).

    Raises:
        ConfigError: a setting cannot be written safely into a script, or the layout does not fit the nodes.
        EnvironmentMissingError: SLURM's commands are not here, or sbatch refuses a script.
        InputError: jobs of the same work folder are still at work.
    """
    folder = launch_folder(recipe)
    if recipe.launch.local:
        local.launch(recipe, folder)
        return
    jobs = plan_jobs(recipe)
    scripts = {job.name: script(job, recipe) for job in jobs}
    check_syntax(scripts.values(), recipe.launch.setup)
    if recipe.launch.dry_run:
        print(dry_run(jobs, scripts, folder), end="")
        return
    require_slurm()
    local.require_idle(Path(recipe.work_dir))
    queue.require_idle(folder)
    _write(recipe, jobs, scripts, folder)
    submitted = [Submitted(name=job.name, stage=job.stage, after=job.after, tasks=job.tasks) for job in jobs]
    queue.check_scripts(submitted, folder)
    queue.submit(submitted, folder)
    say(f"output of the jobs: {folder}/<job>-<number>.log; see also: meditron launch status")


def require_slurm() -> None:
    """Refuse to go on where jobs cannot be submitted."""
    if shutil.which("sbatch") is None:
        raise EnvironmentMissingError(
            "launch: sbatch is not on the PATH; start this on a login node of a SLURM cluster, print the "
            "scripts with --launch.dry_run true, or run the stages here with --launch.local true"
        )


def _write(recipe: Recipe, jobs: Sequence[Job], scripts: dict[str, str], folder: Path) -> None:
    """Everything that the jobs read: recipes, scripts, and the code."""
    shutil.rmtree(folder / "done", ignore_errors=True)
    (folder / "done").mkdir(parents=True)
    local.forget(folder)
    atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))
    for job in jobs:
        atomic_write_text(folder / f"{job.name}.sbatch", scripts[job.name])
        for index, part in enumerate(task_recipes(job, recipe) if job.tasks else []):
            atomic_write_text(folder / f"{job.name}.{index}.yaml", dump_recipe(part))
    if recipe.launch.snapshot:
        write_snapshot(folder / "code")


def dry_run(jobs: Sequence[Job], scripts: dict[str, str], folder: Path) -> str:
    """All scripts, each under its name, then the commands that submit them."""
    parts = [f"==> {folder}/{name}.sbatch <==\n{text}\n" for name, text in scripts.items()]
    parts.append("==> submitting <==\n")
    for job in jobs:
        after = ":".join(f"${{{_variable(name)}%%;*}}" for name in job.after)
        words = [*queue.sbatch(after), f"{folder}/{job.name}.sbatch"]
        parts.append(f"{_variable(job.name)}=$({' '.join(words)})\n")
    return "".join(parts)


def _variable(name: str) -> str:
    return name.replace("-", "_")
