"""Attention over a sequence that two processes share, and what such a layout refuses."""

import pytest

from meditron.config import Recipe
from meditron.config.pretrain import ParallelConfig
from meditron.errors import ConfigError
from pretrain.main import main
from tests.pretrain.conftest import start_together


def test_outputs_and_gradients_are_those_of_the_whole_sequence() -> None:
    processes = start_together(2, "tests.pretrain.exchange", [])
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


@pytest.mark.parametrize(
    ("count", "length", "sentence"),
    [
        (4, 24, r"context_parallel_size: 4 does not divide the 2 key/value heads"),
        (2, 26, r"sequence_length: 26 must be a multiple of 2 x context_parallel_size \(4\)$"),
    ],
)
def test_what_cannot_be_shared_is_refused(recipe: Recipe, count: int, length: int, sentence: str) -> None:
    recipe.pretrain.parallel = ParallelConfig(context_parallel_size=count)
    recipe.pretrain.sequence_length = length
    with pytest.raises(ConfigError, match=sentence):
        main(recipe)
