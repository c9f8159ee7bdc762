"""`python several.py PORT RECIPE...`: one process of a group that runs recipes one after another.

Starting Python and importing Megatron takes longer than twenty steps of a tiny model, so that tests of
many layouts share the processes.
"""

import os
import sys

import torch.distributed as dist

from meditron.config.loading import load_recipe
from meditron.errors import MeditronError
from meditron.models.megatron import parallel


def run(port: int, paths: list[str]) -> None:
    """Run each recipe; ends with the code of the first that does not end as well as it should."""
    os.environ["MASTER_PORT"] = str(port)
    parallel.join_group(4)
    parallel.join_group = lambda timeout_minutes: None  # DeepSpeed remembers its groups for good
    parallel.leave_processes = leave_megatron
    from pretrain.main import main

    for path in paths:
        code = main(load_recipe(path))
        if code not in (0, 75):
            sys.exit(code)
    dist.destroy_process_group()


def leave_megatron() -> None:
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()


if __name__ == "__main__":
    try:
        run(int(sys.argv[1]), sys.argv[2:])
    except MeditronError as error:
        print(error, file=sys.stderr)
        os._exit(error.exit_code)  # the other processes may wait in a collective call
