"""`python -m tests.pretrain.hanging RECIPE WHERE RANK`: a process of a run in which RANK sleeps for good."""

import os
import sys
import time
from typing import Any

from meditron.config.loading import load_recipe
from pretrain import trainer, watchdog
from pretrain.data import TrainingData
from pretrain.main import main


def sleep_for_good(*arguments: Any) -> None:
    time.sleep(1000)


if __name__ == "__main__":
    path, where, rank = sys.argv[1:]
    if where == "first step":
        watchdog.BEFORE_TIMEOUT = 0.005  # of thirty minutes
    if os.environ["RANK"] == rank and where == "first step":
        TrainingData.batch = sleep_for_good  # type: ignore[assignment, method-assign]
    elif os.environ["RANK"] == rank:
        trainer._log_step = sleep_for_good
    sys.exit(main(load_recipe(path)))
