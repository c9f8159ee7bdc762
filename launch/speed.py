"""How long pretraining takes, by arithmetic: model FLOPs over the share of the peak that a layout leaves."""

import math

from launch.estimate import Estimate
from meditron.config import PretrainConfig

EFFICIENCY = 0.56
"""Share of the peak in bf16 that a layout without any of the losses below would reach.

From MEDITRON-70B's run (arXiv 2311.16079): 128 A100 at tensor 8 x pipeline 8 x data 2 made 40,200 tokens/s,
each of 428 GFLOP as `Architecture.flops_per_token` counts. That is 43.1 % of 128 x 312 TFLOP/s, and the
losses below are reckoned to lengthen that layout's steps 1.31 times: 0.431 x 1.31 = 0.56.
"""
TENSOR_COST = 0.06
"""Assumed loss of speed for each doubling of the tensor-parallel size, within a node with NVLink."""
RECOMPUTE_COST = {"none": 0.0, "selective": 0.03, "full": 1 / 3}
"""Work that is done twice, of the three passes (one forward, two backward)."""
SMALL_COST = 0.08
"""Assumed loss of speed with one sample of a short micro-batch; halves with each doubling of its tokens."""
SMALL_TOKENS = 2048


def seconds(needs: Estimate, config: PretrainConfig, peak_flops: float) -> float:
    """Expected time of the run on one device of `peak_flops` for each process."""
    return needs.flops / (peak_flops * config.parallel.world_size * expected_mfu(config))


def expected_mfu(config: PretrainConfig) -> float:
    """Model FLOP/s over the peak, after the layout's losses."""
    return EFFICIENCY / slowdown(config)


def slowdown(config: PretrainConfig) -> float:
    """Expected time over that without losses: the pipeline's bubble (arXiv 2104.04473), recomputation, and
    the assumed costs above."""
    layout = config.parallel
    doublings = math.log2(layout.tensor_model_parallel_size)
    chunks = layout.virtual_pipeline_model_parallel_size or 1
    bubble = (layout.pipeline_model_parallel_size - 1) / (chunks * config.num_microbatches)
    small = SMALL_COST * SMALL_TOKENS / (config.micro_batch_size * config.sequence_length)
    return (1 + bubble) * (1 + RECOMPUTE_COST[config.recompute]) * (1 + TENSOR_COST * doublings) * (1 + small)
