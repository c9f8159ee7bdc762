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
        (
            ["--pretrain.engine=deepspeed", "--pretrain.parallel.context_parallel_size=2"],
            r"context_parallel_size: 2 needs pretrain\.engine megatron",
        ),
        (
            ["--pretrain.parallel.overlap_param_gather=true"],
            r"overlap_param_gather: True needs distributed_optimizer and overlap_grad_reduce",
        ),
        (
            ["--pretrain.parallel.ddp_bucket_size=1000"],
            r"pretrain\.parallel\.ddp_bucket_size: 1000 needs overlap_grad_reduce",
        ),
        (
            ["--pretrain.engine=deepspeed", "--pretrain.parallel.overlap_grad_reduce=true"],
            r"overlap_grad_reduce: True needs pretrain\.engine megatron",
        ),
        (
            ["--pretrain.fp8=true", "--pretrain.precision=fp32"],
            r"pretrain\.fp8: True needs precision bf16",
        ),
        (
            ["--pretrain.engine=deepspeed", "--pretrain.fp8=true"],
            r"pretrain\.fp8: True needs pretrain\.engine",
        ),
        (
            ["--pretrain.engine=deepspeed", "--pretrain.deepspeed.zero_stage=0"],
            r"pretrain\.deepspeed\.zero_stage: 0 needs precision fp32; in bf16 use 1",
        ),
        (
            [
                "--pretrain.compile=true",
                "--pretrain.parallel.overlap_grad_reduce=true",
                "--pretrain.parallel.overlap_param_gather=true",
            ],
            r"pretrain\.compile: True does not go with parallel\.overlap_param_gather",
        ),
        (
            ["--pretrain.engine=deepspeed", "--pretrain.parallel.distributed_optimizer=false"],
            r"distributed_optimizer: False needs pretrain\.engine megatron; for this engine set .*zero_stage",
        ),
        (["--pretrain.optimizer.weight_decay=-1"], r"pretrain\.optimizer\.weight_decay: -1\.0 is negative"),
        (["--pretrain.optimizer.adam_eps=-1"], r"pretrain\.optimizer\.adam_eps: -1\.0 must be positive"),
        (["--pretrain.peak_flops=0"], r"pretrain\.peak_flops: 0\.0 must be positive"),
        (["--pretrain.timeout_minutes=-1"], r"pretrain\.timeout_minutes: -1\.0 must be positive"),
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
