"""A stage's process: signals that reach this one are passed on to it."""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from meditron.stopping import Listener

PASSED_ON = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR2: signal.SIGUSR2,
    signal.SIGHUP: signal.SIGTERM,  # the terminal is gone: save and stop
}


class Relay(Listener):
    """Runs processes one after another, and passes signals on to the one that runs."""

    def __init__(self) -> None:
        super().__init__(PASSED_ON, self._note)
        self.received: signal.Signals | None = None
        """The first signal that came."""
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent: signal.Signals | None = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        passed_on = PASSED_ON[signal.Signals(number)]
        self.received = self.received or passed_on
        if self._process is None:
            self._unsent = passed_on
        else:
            self._process.send_signal(passed_on)

    def run(self, command: Sequence[str], lock: int) -> int:
        """Run `command` to its end.

        It gets its own process group: what a terminal sends on Ctrl-C then reaches it once, through this
        process, and a stage's second signal stays what it is, "exit at once".

        Args:
            command: program and arguments.
            lock: descriptor that it inherits.

        Returns:
            its exit code, or minus the number of the signal that killed it.
        """
        self._process = subprocess.Popen(command, pass_fds=(lock,), process_group=0, env=os.environ)
        if self._unsent is not None:
            self._process.send_signal(self._unsent)
        try:
            return self._process.wait()
        finally:
            self._process = None
            self._unsent = None
