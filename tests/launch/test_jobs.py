"""Which jobs a recipe becomes, how big they are, and what they wait for."""

from dataclasses import replace
from pathlib import Path

import pytest

from launch.jobs import plan_jobs, task_recipes
from launch.script import script
from launch.stages import BY_NAME, STAGES, Stage
from meditron.config import LaunchConfig, Recipe, TaskConfig, resolve
from meditron.errors import ConfigError, ManifestError


def evaluating(launch: LaunchConfig, **settings: object) -> Recipe:
    recipe = Recipe(work_dir="runs/x", launch=launch)
    recipe.evaluate = replace(
        recipe.evaluate,
        models={"base": "base"},
        tasks={"medqa": TaskConfig(format="medqa", path="medqa.jsonl")},
        **settings,  # type: ignore[arg-type]
    )
    return resolve(recipe)


def test_evaluation_in_parts_is_an_array_and_a_job_that_joins(recipe: Recipe) -> None:
    recipe.launch.evaluate_tasks = 3
    recipe.evaluate = evaluating(recipe.launch).evaluate
    jobs = {job.name: job for job in plan_jobs(recipe)}
    parts, joined = jobs["evaluate-parts"], jobs["evaluate"]
    assert parts.tasks == 3
    assert parts.after == ("tokenize", "export", "finetune")
    assert (joined.tasks, joined.after) == (None, ("evaluate-parts",))
    assert "evaluate" in jobs["report"].after
    shares = [part.evaluate for part in task_recipes(parts, recipe)]
    assert [(share.part, share.parts) for share in shares] == [(0, 3), (1, 3), (2, 3)]
    assert all(replace(share, part=None, parts=1) == recipe.evaluate for share in shares)
    assert task_recipes(joined, recipe) == []
    assert "#SBATCH --array=0-2\n" in script(parts, recipe)
    assert 'runs/medical/launch/evaluate-parts."$SLURM_ARRAY_TASK_ID".yaml' in script(parts, recipe)


@pytest.mark.parametrize(
    ("settings", "tasks_and_gpus"),
    [({}, (1, 1)), ({"nproc": 4}, (4, 4)), ({"backend": "vllm"}, (1, 8))],
)
def test_evaluation_has_a_gpu_for_each_process(settings: dict, tasks_and_gpus: tuple[int, int]) -> None:
    job = plan_jobs(evaluating(LaunchConfig(gpus_per_node=8), **settings))[0]
    assert (job.stage, job.nodes) == ("evaluate", 1)
    assert (job.tasks_per_node, job.gpus_per_node) == tasks_and_gpus


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.nproc: 5 processes need a GPU each, a node has 4"):
        plan_jobs(evaluating(LaunchConfig(gpus_per_node=4), nproc=5))
    job = plan_jobs(evaluating(LaunchConfig(gpus_per_node=0), nproc=5))[0]
    assert (job.tasks_per_node, job.gpus_per_node) == (5, 0)


def test_a_further_stage_is_one_entry_of_the_table(recipe: Recipe) -> None:
    """A stage between `tokenize` and `pretrain` becomes a job there, an array and run folder included."""

    def identity(path: Path) -> str:
        raise ManifestError(str(path))

    scoring = Stage(
        name="score",
        settings=("pretrain", "seed"),
        after=("tokenize",),
        left_out=lambda recipe: None,
        output=lambda recipe: Path(recipe.work_dir) / "scores",
        identity=identity,
        on_gpus=True,
        processes=lambda recipe: 2,
        run_dir=lambda recipe: f"{recipe.work_dir}/proxy",
    )
    training = replace(BY_NAME["pretrain"], after=(*BY_NAME["pretrain"].after, "score"))
    place = STAGES.index(BY_NAME["pretrain"])
    jobs = {
        job.name: job for job in plan_jobs(recipe, (*STAGES[:place], scoring, training, *STAGES[place + 1 :]))
    }
    assert list(jobs)[:4] == ["curate", "tokenize", "score", "pretrain"]
    assert jobs["score"].after == ("tokenize",)
    assert jobs["pretrain"].after == ("tokenize", "score")
    assert (jobs["score"].tasks_per_node, jobs["score"].gpus_per_node) == (2, 2)
    text = script(jobs["score"], recipe)
    assert "-m meditron score --config runs/medical/launch/recipe.yaml" in text
    assert "ls -- runs/medical/proxy/checkpoints" in text
