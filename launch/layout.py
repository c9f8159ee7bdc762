"""Which layout to train with on a number of GPUs of one kind: the cheapest of those that fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from launch.estimate import Estimate, estimate
from launch.speed import RECOMPUTE_COST, slowdown
from meditron.config import ModelConfig, PretrainConfig
from meditron.devices import Device
from meditron.errors import ConfigError
from meditron.models.architecture import Architecture

FILL = 0.9
"""Share of the memory that is planned with; libraries and fragments take the rest."""
MICRO_BATCHES = (1, 2, 4, 8, 16)
DISTINCT = 0.8
"""Memory of a proposed layout over that of the next faster one, at most."""


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
    architecture: Architecture,
    model: ModelConfig,
    config: PretrainConfig,
    gpus: int,
    device: Device,
    node: int,
) -> list[Plan]:
    """All layouts of `gpus` devices, `node` in each node, that fit, the fastest first.

    The global batch, and with it the training, stays as it is, and so do settings of `parallel` that are no
    sizes.
    """
    found = [
        Plan(config=each, needs=needs, slowdown=slowdown(each))
        for each in _layouts(architecture, config, gpus, node)
        if (needs := estimate(architecture, model, each)).rank_bytes <= FILL * device.memory
    ]
    return sorted(found, key=lambda plan: (plan.slowdown, plan.needs.rank_bytes))


def worth_showing(found: list[Plan]) -> list[Plan]:
    """Of layouts from the fastest on, those that need clearly less memory than the faster ones shown."""
    shown: list[Plan] = []
    for plan in found:
        if not shown or plan.needs.rank_bytes <= DISTINCT * shown[-1].needs.rank_bytes:
            shown.append(plan)
    return shown


def _layouts(a: Architecture, config: PretrainConfig, gpus: int, node: int) -> Iterator[PretrainConfig]:
    for tensor in (size for size in range(1, node + 1) if node % size == 0):
        for stages in range(1, gpus // tensor + 1):
            data, rest = divmod(gpus, tensor * stages * config.parallel.context_parallel_size)
            if rest or not data or not _divides(a, tensor, stages):
                continue
            layout = replace(
                config.parallel,
                tensor_model_parallel_size=tensor,
                pipeline_model_parallel_size=stages,
                virtual_pipeline_model_parallel_size=None,
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
                        continue  # the global batch is no multiple of it, or the engine knows no such layout


def _divides(a: Architecture, tensor: int, stages: int) -> bool:
    cut = (a.num_attention_heads, a.num_key_value_heads, a.intermediate_size)
    return all(size % tensor == 0 for size in cut) and a.num_hidden_layers % stages == 0
