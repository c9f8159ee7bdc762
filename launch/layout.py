"""Which layout to train with on a number of GPUs of one kind: the cheapest of those that fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from launch.estimate import Estimate, estimate
from meditron.config import ModelConfig, PretrainConfig
from meditron.config.pretrain import ParallelConfig
from meditron.devices import Device
from meditron.errors import ConfigError
from meditron.models.architecture import Architecture

NODE = 8
"""GPUs of a node, which tensor parallelism should not leave."""
FILL = 0.9
"""Share of the memory that is planned with; libraries and fragments take the rest."""
MICRO_BATCHES = (1, 2, 4, 8, 16)
TENSOR_COST = 0.06
"""Assumed loss of speed for each doubling of the tensor-parallel size, within a node with NVLink."""
RECOMPUTE_COST = {"none": 0.0, "selective": 0.03, "full": 1 / 3}
"""Work that is done twice, of the three passes (one forward, two backward)."""
SMALL_COST = 0.08
"""Assumed loss of speed with one sample of a short micro-batch; halves with each doubling of its tokens."""
SMALL_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A layout that fits."""

    config: PretrainConfig
    """Settings with it."""
    needs: Estimate
    """What it needs."""
    slowdown: float
    """Expected time over that of a layout without any losses."""


def plans(
    architecture: Architecture, model: ModelConfig, config: PretrainConfig, gpus: int, device: Device
) -> list[Plan]:
    """All layouts of `gpus` devices that fit, the fastest first.

    The global batch, and with it the training, stays as it is.
    """
    found = [
        Plan(config=each, needs=needs, slowdown=slowdown(each))
        for each in _layouts(architecture, config, gpus)
        if (needs := estimate(architecture, model, each)).rank_bytes <= FILL * device.memory
    ]
    return sorted(found, key=lambda plan: (plan.slowdown, plan.needs.rank_bytes))


def _layouts(a: Architecture, config: PretrainConfig, gpus: int) -> Iterator[PretrainConfig]:
    for tensor in (size for size in (1, 2, 4, 8) if size <= min(gpus, NODE)):
        for stages in range(1, gpus // tensor + 1):
            data, rest = divmod(gpus, tensor * stages)
            if rest or not _divides(a, tensor, stages):
                continue
            layout = ParallelConfig(
                tensor_model_parallel_size=tensor,
                pipeline_model_parallel_size=stages,
                data_parallel_size=data,
                sequence_parallel=tensor > 1,
            )
            for micro in MICRO_BATCHES:
                for recompute in RECOMPUTE_COST:
                    try:
                        yield replace(
                            config,
                            parallel=layout,
                            micro_batch_size=micro,
                            recompute=recompute,  # type: ignore[arg-type]
                        )
                    except ConfigError:
                        continue  # the global batch is no multiple of it


def _divides(a: Architecture, tensor: int, stages: int) -> bool:
    cut = (a.num_attention_heads, a.num_key_value_heads, a.intermediate_size)
    return all(size % tensor == 0 for size in cut) and a.num_hidden_layers % stages == 0


def slowdown(config: PretrainConfig) -> float:
    """Expected time over that without losses: the pipeline's bubble (arXiv 2104.04473), recomputation, and
    the assumed costs above."""
    layout = config.parallel
    doublings = (layout.tensor_model_parallel_size).bit_length() - 1
    bubble = (layout.pipeline_model_parallel_size - 1) / config.num_microbatches
    small = SMALL_COST * SMALL_TOKENS / (config.micro_batch_size * config.sequence_length)
    return (1 + bubble) * (1 + RECOMPUTE_COST[config.recompute]) * (1 + TENSOR_COST * doublings) * (1 + small)
