"""Speed of a step in tokens, FLOP and share of the device's peak."""

import torch

from meditron.config.pretrain import PretrainConfig
from meditron.models.architecture import Architecture

PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "H800": 989.4e12,
    "GH200": 989.4e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "RTX 4090": 165.2e12,
}
"""Dense bf16 FLOP/s of the SXM form, from NVIDIA's data sheets."""


def peak_flops(config: PretrainConfig) -> float | None:
    """Peak FLOP/s of one device: declared, or of a known GPU at bf16; None where neither is known."""
    if config.peak_flops is not None:
        return config.peak_flops
    if not torch.cuda.is_available() or config.precision != "bf16":
        return None
    name = torch.cuda.get_device_name()
    known = [peak for key, peak in PEAK_BF16_FLOPS.items() if key in name]
    return known[-1] if known else None


def speed(
    architecture: Architecture, config: PretrainConfig, seconds: float, peak: float | None
) -> dict[str, float | None]:
    """Figures of one step.

    MFU is model FLOP/s (`Architecture.flops_per_token`, recomputation not counted) over the peak of all
    devices (PaLM, arXiv 2204.02311, appendix B).
    """
    tokens = config.global_batch_size * config.sequence_length
    flops = architecture.flops_per_token(config.sequence_length) * tokens / seconds
    return {
        "tokens_per_second": tokens / seconds,
        "flops_per_second": flops,
        "mfu": flops / (peak * config.parallel.world_size) if peak else None,
        "peak_flops": peak,
    }
