"""Time and memory of a training step."""

import time

import torch


class Clock:
    """Seconds of each phase of a step; waits for the device, so that a phase pays for its own work."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End the phase `name`, which began where the one before ended."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return max(self._last - self._started, 1e-9)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the GPU's allocator, or of the process where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
