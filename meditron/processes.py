"""Starting several processes of this program on one machine, and ending them together."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from meditron.errors import EXIT_CODES, TrainingError
from meditron.stopping import SIGNALS, Listener

GRACE_SECONDS = 20.0
"""How long the others may take to end after one has ended with an error."""


def run_processes(arguments: Sequence[str], count: int, logs: Path) -> int:
    """Run `meditron <arguments>` as `count` processes that find each other.

    The first one has this terminal, the others write to `<logs>/process-<rank>.log`. Signals to save
    and stop are passed on to all (torchrun would hide their exit code).

    Returns:
        0, or the exit code of the first that failed, if it is one of the documented ones.

    Raises:
        TrainingError: one ended in another way.
    """
    logs.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    processes = [_start(arguments, rank, count, port, logs) for rank in range(count)]

    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    with Listener(SIGNALS, forward):
        try:
            rank, code = _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if code in EXIT_CODES and (code == 0 or rank == 0 or code == 75):
        return code
    raise TrainingError(f"{arguments[0]}: process {rank} ended with code {code}; {_last_words(logs, rank)}")


def _start(
    arguments: Sequence[str], rank: int, count: int, port: int, logs: Path
) -> "subprocess.Popen[bytes]":
    threads = max((os.cpu_count() or 1) // count, 1)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, "-m", "meditron", *arguments]
    if rank == 0:
        return subprocess.Popen(command, env=environment)
    with open(logs / f"process-{rank}.log", "wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(processes: "Sequence[subprocess.Popen[bytes]]") -> tuple[int, int]:
    """Rank and exit code of the first failure, or (0, 0); waits a little for the rest to end by itself."""
    failed: tuple[int, int] | None = None
    deadline = float("inf")
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code and failed is None:
                failed, deadline = (rank, code), time.monotonic() + GRACE_SECONDS
        if None not in codes:
            break
        time.sleep(0.05)
    if failed and processes[0].poll() == failed[1]:
        return 0, failed[1]  # all made the same mistake, and the first one has told the user
    return failed or (0, 0)


def _last_words(logs: Path, rank: int) -> str:
    if rank == 0:
        return "see its output above"
    log = logs / f"process-{rank}.log"
    lines = log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"]
    return f"its last line is {lines[-1]!r}, the rest is in {log}"
