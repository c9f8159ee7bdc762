"""Time from pressing return to the help text: `meditron --help` against `lm_eval --help`, in turns."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 7
BIN = Path(sys.executable).parent


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    commands = {
        "meditron --help": [str(BIN / "meditron"), "--help"],
        "meditron pretrain --help": [str(BIN / "meditron"), "pretrain", "--help"],
        "lm_eval --help": [str(BIN / "lm_eval"), "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    for name, values in times.items():
        print(
            f"{name:<26} median {statistics.median(values):.3f} s "
            f"(min {min(values):.3f}, max {max(values):.3f})"
        )


if __name__ == "__main__":
    main()
