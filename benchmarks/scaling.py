"""A step of pretraining on one process and on two, the same work, and where the time of two goes.

Usage: python benchmarks/scaling.py [--rounds 2] [--steps 3]
Every process has one thread. All layouts start from the same weights and read the same batches; their losses
are compared before any time is reported. `two at once` are two runs of one process side by side that know
nothing of each other: what the machine itself loses when both cores work.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from meditron.config.pretrain import OptimizerConfig, ParallelConfig, PretrainConfig
from meditron.models.architecture import Architecture
from meditron.models.megatron.parallel import join_group, set_up_megatron
from meditron.models.safetensors_folder import RandomWeights

SMALL = Architecture(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1376,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)
SAMPLES, LENGTH, LR = 8, 128, 1e-4
ONE: dict[str, dict[str, Any]] = {"one process": {}}
TWO: dict[str, dict[str, Any]] = {
    "DP2": {"data_parallel_size": 2},
    "DP2, overlapping": {
        "data_parallel_size": 2,
        "overlap_grad_reduce": True,
        "overlap_param_gather": True,
        "ddp_bucket_size": 4_000_000,
    },
    "TP2": {"tensor_model_parallel_size": 2},
    "TP2 + SP": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "CP2": {"context_parallel_size": 2},
    "PP2": {"pipeline_model_parallel_size": 2},
    "PP2, interleaved": {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
}
Figures = dict[str, Any]


def config_of(layout: dict[str, Any]) -> PretrainConfig:
    return PretrainConfig(
        sequence_length=LENGTH,
        micro_batch_size=1,
        global_batch_size=SAMPLES,
        precision="fp32",
        parallel=ParallelConfig(**layout),
        optimizer=OptimizerConfig(lr=LR, min_lr=LR),
    )


def batch(number: int, rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of one data-parallel rank, each [M, 1, LENGTH]."""
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(SMALL.vocab_size, (SAMPLES, 1, LENGTH + 1), generator=generator)[rank::ranks]
    return tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous()


def measure(name: str, layout: dict[str, Any], steps: int) -> Figures:
    """Wall and CPU seconds of each step of this process, and what its messages alone take."""
    from megatron.core import parallel_state

    from pretrain.engines.megatron import MegatronEngine

    config = config_of(layout)
    cut = config.parallel
    set_up_megatron(
        cut.tensor_model_parallel_size,
        cut.pipeline_model_parallel_size,
        0,
        5,
        cut.virtual_pipeline_model_parallel_size,
        cut.context_parallel_size,
    )
    engine = MegatronEngine(SMALL, config, 128)
    engine.build(RandomWeights(SMALL, 1))
    ranks = config.parallel.data_parallel_size

    def step(number: int) -> float:
        tensors = batch(number, engine.data_parallel_rank, ranks)
        return engine.update(engine.forward_backward(*tensors), LR).loss

    found: Figures = {"name": name, "losses": [step(0)], "wall": [], "cpu": [], "messages": 0.0}
    for number in range(1, steps + 1):
        dist.barrier()
        wall, cpu = time.perf_counter(), time.thread_time()
        found["losses"].append(step(number))
        found["wall"].append(time.perf_counter() - wall)
        found["cpu"].append(time.thread_time() - cpu)
    if dist.get_world_size() > 1:
        messages = messages_of(lambda: step(steps + 1))
        found["messages"] = replayed(messages)
        found["sent"] = {kind: sum(n for k, n in messages if k == kind) for kind, _ in messages}
    parallel_state.destroy_model_parallel()
    return found


def messages_of(step: Any) -> list[tuple[str, int]]:
    """Kind and number of fp32 elements of each message of a step of the first process."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as seen:
        step()
    found = [
        (event.name.removeprefix("gloo:"), sum(torch.Size(shape).numel() for shape in event.input_shapes))
        for event in seen.events()
        if event.name.startswith("gloo:") and "barrier" not in event.name
    ]
    agreed = [found]
    dist.broadcast_object_list(agreed)
    return agreed[0]


def replayed(messages: list[tuple[str, int]]) -> float:
    """Seconds that these messages take when both processes are ready for each."""
    tensors = {size: torch.zeros(size) for _, size in messages}
    for kind, size in messages:
        send(kind, tensors[size])
    dist.barrier()
    started = time.perf_counter()
    for kind, size in messages:
        send(kind, tensors[size])
    return time.perf_counter() - started


def send(kind: str, tensor: torch.Tensor) -> None:
    """One message of the kind that the first process had; the other answers it."""
    is_first = dist.get_rank() == 0
    if kind in ("send", "recv"):
        (dist.send if (kind == "send") == is_first else dist.recv)(tensor, 1 if is_first else 0)
    elif "gather" in kind:
        dist.all_gather_into_tensor(tensor.new_zeros(2 * len(tensor)), tensor)
    elif "scatter" in kind:
        dist.reduce_scatter_tensor(tensor.new_zeros(len(tensor) // 2), tensor)
    elif "all_to_all" in kind or "alltoall" in kind:
        dist.all_to_all_single(torch.empty_like(tensor), tensor)
    elif kind == "broadcast":
        dist.broadcast(tensor, 0)
    else:
        assert kind == "all_reduce", kind
        dist.all_reduce(tensor)


def work(names: list[str], steps: int) -> None:
    """A process of a group: measure layouts one after the other, a line of JSON each."""
    torch.set_num_threads(1)
    join_group(5)
    for name in names:
        print(json.dumps(measure(name, {**ONE, **TWO}[name], steps)), flush=True)


def start(names: list[str], rank: int, count: int, port: int, steps: int) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"RANK": str(rank), "WORLD_SIZE": str(count)}
    command = [sys.executable, __file__, "--steps", str(steps), "--work", *names]
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True)


def group(names: list[str], count: int, steps: int) -> list[list[Figures]]:
    """Figures of `count` processes that work together: by process, then by layout."""
    return finished(
        [start(names, rank, count, port, steps) for port in [free_port()] for rank in range(count)]
    )


def finished(processes: "list[subprocess.Popen[str]]") -> list[list[Figures]]:
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "a process failed, see above"
    return [[json.loads(line) for line in output.splitlines() if line[0] == "{"] for output in outputs]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def one_round(steps: int) -> Iterator[tuple[str, list[Figures]]]:
    """Each layout with the figures of its processes."""
    yield "one process", group(list(ONE), 1, steps)[0]
    apart = [start(list(ONE), 0, 1, free_port(), steps) for _ in range(2)]
    yield "two at once", [figures for (figures,) in finished(apart)]
    yield from zip(TWO, map(list, zip(*group(list(TWO), 2, steps), strict=True)), strict=True)


def check_losses(found: dict[str, list[Figures]]) -> None:
    expected = found["one process"][0]["losses"]
    for name, processes in found.items():
        for each in processes:
            worst = max(abs(a - b) for a, b in zip(each["losses"], expected, strict=True))
            assert worst < 2e-4, f"{name}: loss differs by {worst} from that of one process"


def report(rounds: list[dict[str, list[Figures]]]) -> None:
    """One row a layout: medians over the steps of all rounds, of the process that waits least."""

    def median(name: str, value: str) -> float:
        each = [
            [v for found in rounds for v in found[name][rank][value]] for rank in range(len(rounds[0][name]))
        ]
        return max(statistics.median(values) for values in each)

    alone = median("one process", "wall")
    print("| layout | s a step | speed-up | efficiency | computing | messages | waiting |")
    print("|---|---|---|---|---|---|---|")
    for name in rounds[0]:
        wall, cpu = median(name, "wall"), median(name, "cpu")
        messages = statistics.median(found[name][0]["messages"] for found in rounds)
        work_done = 2 if name == "two at once" else 1
        gain = work_done * alone / wall
        share = gain / (1 if name == "one process" else 2)
        rest = max(wall - cpu - messages, 0.0)
        print(f"| {name} | {wall:.2f} | {gain:.2f} | {share:.0%} | {cpu:.2f} | {messages:.2f} | {rest:.2f} |")
        sent = rounds[0][name][0].get("sent", {})
        print("  ", ", ".join(f"{kind} {4 * n / 1e6:.1f} MB" for kind, n in sent.items()), file=sys.stderr)
    steps = [v for found in rounds for v in found["one process"][0]["wall"]]
    print(f"one process: {min(steps):.2f} to {max(steps):.2f} s")
    print(f"{SMALL.num_parameters / 1e6:.1f}M parameters, {SAMPLES} x {LENGTH} tokens a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--work", nargs="*")
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work, chosen.steps)
        return
    rounds = []
    for number in range(chosen.rounds):
        rounds.append(dict(one_round(chosen.steps)))
        check_losses(rounds[-1])
        print(f"round {number + 1} of {chosen.rounds} is done", file=sys.stderr)
    report(rounds)


if __name__ == "__main__":
    main()
