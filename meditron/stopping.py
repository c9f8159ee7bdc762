"""Asking a run to save and stop: signals from a scheduler, trigger files from an operator."""

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class Listener:
    """Calls a function on signals, from entering to leaving it as a context.

    A signal that is ignored stays so: nohup ignores HUP.

    Args:
        numbers: the signals.
        handler: called with the number of the signal and the frame it came in.
    """

    def __init__(
        self, numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]
    ) -> None:
        self._numbers = tuple(numbers)
        self._handler = handler

    def __enter__(self) -> Self:
        """Listen to the signals."""
        heard = [number for number in self._numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handler) for number in heard}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back their meaning."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class StopRequest(Listener):
    """Whether this process was asked to stop, from entering to leaving it as a context.

    A second signal exits at once.

    Args:
        triggers: folder in which an operator drops `exit` (save and stop) or `save` (save and go on).
    """

    def __init__(self, triggers: Path) -> None:
        super().__init__(SIGNALS, self._note)
        self._triggers = triggers
        self._signalled = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            os._exit(128 + number)
        self._signalled = True

    def wants(self) -> tuple[bool, bool]:
        """(save, stop) as asked for until now."""
        return self._dropped("save"), self._signalled or self._dropped("exit")

    def _dropped(self, name: str) -> bool:
        return (self._triggers / name).exists()

    def clear(self) -> None:
        """Remove the trigger files once they have been obeyed."""
        for name in ("save", "exit"):
            (self._triggers / name).unlink(missing_ok=True)
