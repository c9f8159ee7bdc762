"""Speed of a step in tokens, FLOP and share of the device's peak."""

import time

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


def peak_flops(config: PretrainConfig, device: torch.device) -> float | None:
    """Peak FLOP/s of one device: declared, measured, or of a known GPU at bf16 or fp8; None where unknown."""
    if config.peak_flops == "measured":
        return measured_peak(device, torch.bfloat16 if config.precision == "bf16" else torch.float32)
    if config.peak_flops is not None:
        return config.peak_flops
    if device.type != "cuda" or config.precision != "bf16":
        return None
    name = torch.cuda.get_device_name()
    known = [peak for key, peak in PEAK_BF16_FLOPS.items() if key in name]
    return known[-1] * (2 if config.fp8 else 1) if known else None  # as the same data sheets have it


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of the fastest of the square matrix products that fit in `seconds`, after a first one."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])


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
