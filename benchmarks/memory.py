"""Memory of a training process as `meditron doctor` reckons it, against what the allocator hands out on CPUs.

Usage: python benchmarks/memory.py [--size small|20m] [--json]
Two processes of each engine, layout by layout and ZeRO stage by stage: the most that is in use within two
steps of two micro-batches, over what was in use before the engine was made. tests/integration/test_memory.py
runs the small size.
"""

import argparse
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from launch.estimate import estimate
from meditron.allocation import peak_allocation
from meditron.config import ModelConfig
from meditron.config.pretrain import DeepSpeedConfig, ParallelConfig, PretrainConfig
from meditron.models.architecture import Architecture
from meditron.models.megatron.parallel import join_group, set_up_megatron
from meditron.models.safetensors_folder import RandomWeights

MODEL = ModelConfig(vocab_padding_multiple=16)
SIZES = {
    "small": Architecture(
        vocab_size=1000,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    ),
    "20m": Architecture(
        vocab_size=16000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=9,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    ),
}
TENSOR, PIPELINE = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
WAYS: dict[str, dict[str, Any]] = {
    "megatron, DP2, plain": {"data_parallel_size": 2, "distributed_optimizer": False},
    "megatron, DP2, distributed optimizer": {"data_parallel_size": 2},
    "megatron, TP2": TENSOR,
    "megatron, TP2, sequence parallel": {**TENSOR, "sequence_parallel": True},
    "megatron, CP2": {"context_parallel_size": 2},
    "megatron, PP2": PIPELINE,
    "megatron, PP2, two virtual stages": {**PIPELINE, "virtual_pipeline_model_parallel_size": 2},
    **{f"deepspeed, ZeRO {stage}": {"zero_stage": stage} for stage in range(4)},
}

RECOMPUTED = ("megatron, DP2, plain", "megatron, TP2", "megatron, TP2, sequence parallel", "megatron, PP2")
"""Also measured with `recompute: full`."""


def configs() -> Iterator[tuple[str, PretrainConfig]]:
    """Names and settings of all that is measured: two micro-batches each."""
    for name, way in WAYS.items():
        for precision in ("fp32", "bf16"):
            if (way.get("zero_stage"), precision) == (0, "bf16"):
                continue  # refused
            yield name, config_of(way, precision, "none")
            if name in RECOMPUTED:
                yield name, config_of(way, precision, "full")


def config_of(way: dict[str, Any], precision: Any, recompute: Any) -> PretrainConfig:
    is_deepspeed = "zero_stage" in way
    parallel = ParallelConfig(data_parallel_size=2) if is_deepspeed else ParallelConfig(**way)
    return PretrainConfig(
        engine="deepspeed" if is_deepspeed else "megatron",
        deepspeed=DeepSpeedConfig(**way, overlap_comm=False) if is_deepspeed else DeepSpeedConfig(),
        sequence_length=256,
        micro_batch_size=1,
        global_batch_size=2 * parallel.data_parallel_size,
        precision=precision,
        recompute=recompute,
        parallel=parallel,
    )


def make_engine(architecture: Architecture, config: PretrainConfig) -> Any:
    if config.engine == "deepspeed":
        from pretrain.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(architecture, config)
    from pretrain.engines.megatron import MegatronEngine

    return MegatronEngine(architecture, config, MODEL.vocab_padding_multiple)


def measure(architecture: Architecture, config: PretrainConfig) -> int:
    """Bytes in use at most."""
    shape = (config.num_microbatches, config.micro_batch_size, config.sequence_length + 1)
    tokens = torch.randint(architecture.vocab_size, shape)
    inputs, labels = tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous()

    def train() -> None:
        engine = make_engine(architecture, config)
        engine.build(RandomWeights(architecture, 1))
        for _ in range(2):
            engine.update(engine.forward_backward(inputs, labels), 1e-4)

    return peak_allocation(train)


@contextlib.contextmanager
def groups(config: PretrainConfig) -> Iterator[None]:
    """Megatron's process groups, where it is the engine."""
    if config.engine != "megatron":
        yield
        return
    from megatron.core import parallel_state

    layout = config.parallel
    set_up_megatron(
        layout.tensor_model_parallel_size,
        layout.pipeline_model_parallel_size,
        0,
        5,
        layout.virtual_pipeline_model_parallel_size,
        layout.context_parallel_size,
    )
    yield
    parallel_state.destroy_model_parallel()


def work(size: str) -> None:
    """One of two processes: a line of JSON for each way and precision."""
    join_group(5)
    for way, config in configs():
        needs = estimate(SIZES[size], MODEL, config)
        with contextlib.redirect_stdout(io.StringIO()), groups(config):
            measured = measure(SIZES[size], config)
        row = {"way": way, "precision": config.precision, "recompute": config.recompute}
        row |= {"measured": measured, "together": needs.rank_bytes}
        row |= {name: getattr(needs, name) for name in ("weights", "gradients", "optimizer")}
        row |= {name: getattr(needs, name) for name in ("buffers", "activations")}
        print(json.dumps(row), flush=True)
    dist.barrier()


def start(rank: int, port: int, size: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    command = [sys.executable, __file__, "--size", size, "--work"]
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True)


def larger(size: str) -> list[dict[str, Any]]:
    """Rows of the process that needed more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(rank, port, size) for rank in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "a process failed, see above"
    rows = [[json.loads(line) for line in output.splitlines() if line[:1] == "{"] for output in outputs]
    return [max(pair, key=lambda row: row["measured"]) for pair in zip(*rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="20m")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", action="store_true")
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.size)
        return
    for row in larger(chosen.size):
        if chosen.json:
            print(json.dumps(row))
            continue
        sizes = ("weights", "gradients", "optimizer", "buffers", "activations", "together", "measured")
        cells = [
            row["way"],
            row["precision"],
            row["recompute"],
            *(f"{row[name] / 1e6:.1f}" for name in sizes),
        ]
        print(f"| {' | '.join(cells)} | {row['together'] / row['measured']:.2f} |")


if __name__ == "__main__":
    main()
