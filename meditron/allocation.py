"""Memory in use on the CPU, for checks of what `meditron doctor` reckons."""

import ctypes
import gc
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


def peak_allocation(work: Callable[[], object]) -> int:
    """The most bytes that `work` has in use on the CPU, looked at after each operator of torch.

    `work` is run twice, as its first run imports modules and makes the libraries' own buffers. On Linux with
    glibc.
    """
    work()
    watch = _AllocationWatch()
    with watch:
        work()
    return watch.most - watch.before


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class _AllocationWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the allocator after each operator, those of the backward pass included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        gc.collect()
        self._libc = ctypes.CDLL("libc.so.6")
        self._libc.mallinfo2.restype = _MallInfo
        self.before = self.most = self.in_use()

    def in_use(self) -> int:
        """Bytes handed out, in blocks of the heaps and in those that came straight from the system."""
        info = self._libc.mallinfo2()
        return int(info.uordblks + info.hblkhd)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        self.most = max(self.most, self.in_use())
        return result
