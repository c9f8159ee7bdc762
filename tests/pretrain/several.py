"""`python -m tests.pretrain.several RECIPE...`: one process of a group that runs recipes one after another.

A recipe with `stop:` before its name is asked to stop after its first step.

Starting Python and importing Megatron takes longer than twenty steps of a tiny model, so that tests of
many layouts share the processes.
"""

import os
import sys
from pathlib import Path

import torch.distributed as dist

from meditron.config import Recipe
from meditron.config.loading import load_recipe
from meditron.errors import MeditronError
from meditron.models.megatron import parallel


def run(paths: list[str]) -> None:
    """Run each recipe; ends with the code of the first that does not end as well as it should."""
    parallel.join_group(4)
    parallel.join_group = lambda timeout_minutes: None  # DeepSpeed remembers its groups for good
    parallel.leave_processes = leave_megatron
    from pretrain.main import main

    for path in paths:
        recipe = load_recipe(path.removeprefix("stop:"))
        if path.startswith("stop:"):
            ask_to_stop(recipe)
        code = main(recipe)
        if code not in (0, 75):
            sys.exit(code)
    dist.destroy_process_group()


def ask_to_stop(recipe: Recipe) -> None:
    """As an operator does; each process may be the first."""
    triggers = Path(str(recipe.pretrain.run_dir)) / "triggers"
    triggers.mkdir(parents=True, exist_ok=True)
    (triggers / "exit").touch()


def leave_megatron() -> None:
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()


if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except MeditronError as error:
        print(error, file=sys.stderr)
        os._exit(error.exit_code)  # the other processes may wait in a collective call
