"""Settings of pretraining that contradict each other are refused with their dotted path."""

import re

import pytest

from meditron.cli import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--pretrain.global_batch_size=6", "--pretrain.parallel.data_parallel_size=4"],
            r"pretrain\.global_batch_size: 6 must be a multiple of micro_batch_size x data_parallel_size = 1",
        ),
        (
            ["--pretrain.optimizer.warmup_steps=11", "--pretrain.train_steps=10"],
            r"pretrain\.optimizer\.warmup_steps: 11 is more than pretrain\.train_steps \(10\)",
        ),
        (
            ["--pretrain.optimizer.min_lr=1", "--pretrain.optimizer.lr=0.1"],
            r"pretrain\.optimizer\.min_lr: 1\.0 must be in \[0, lr\]",
        ),
        (
            ["--pretrain.parallel.sequence_parallel=true"],
            r"pretrain\.parallel\.sequence_parallel: True needs tensor_model_parallel_size above 1",
        ),
        (["--pretrain.micro_bach_size=2"], r"--pretrain\.micro_bach_size; did you mean '.*micro_batch_size'"),
        (["--pretrain.precision=fp8x"], r"pretrain\.precision"),
    ],
)
def test_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error), error
    assert len(error.strip().splitlines()) == 1
