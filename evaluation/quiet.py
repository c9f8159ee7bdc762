"""Keeping lm-eval's own output off the terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval from showing its own progress bars and notes beside ours."""
    import lm_eval.api.task as tasks
    import lm_eval.models.huggingface as models

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, (tasks.tqdm, models.tqdm)
    logger.setLevel(logging.ERROR)
    tasks.tqdm = models.tqdm = partial(tasks.tqdm, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        tasks.tqdm, models.tqdm = bars
