"""Kinds of GPU: memory and peak speed, from the makers' data sheets."""

from typing import NamedTuple


class Device(NamedTuple):
    """One GPU."""

    memory: float
    """Bytes."""
    bf16_flops: float
    """Dense FLOP/s in bf16, of the SXM form where there is one."""


DEVICES: dict[str, Device] = {
    "a100-40gb": Device(40e9, 312e12),
    "a100-80gb": Device(80e9, 312e12),
    "h100": Device(80e9, 989.4e12),
    "h200": Device(141e9, 989.4e12),
    "gh200": Device(96e9, 989.4e12),
    "b200": Device(180e9, 2250e12),
    "l40s": Device(48e9, 362e12),
    "rtx-4090": Device(24e9, 165.2e12),
}
