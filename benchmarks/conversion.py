"""Memory of converting a model, against the size of its weights: import, and export of a checkpoint.

Usage: python benchmarks/conversion.py [WORK_DIR]
    WORK_DIR  what `make demo` made. Default: runs/demo
Each conversion runs in a process of its own; counted is what it allocates beyond the libraries it has loaded
(anonymous memory, not the pages of mapped files), sampled every millisecond.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

CASES = ("import", "import, logits compared", "export", "export, logits compared")


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon: this measurement needs Linux")


def peak_while(action: Callable[[], None]) -> tuple[int, float]:
    """Most bytes that `action` held beyond those before it, and its seconds."""
    before, most, done = anonymous_bytes(), 0, threading.Event()

    def sample() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, anonymous_bytes() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    return most, seconds


def convert(case: str, work: Path, target: Path) -> None:
    """Run one case and print its figures; imports come first, so that they are not counted."""
    from meditron.config.loading import load_recipe
    from meditron.models import exporting, importing, parity  # noqa: F401
    from meditron.models.megatron import llama, parallel, stored  # noqa: F401

    compared = case.endswith("compared")
    recipe = load_recipe("configs/demo.yaml", ["--work_dir", str(work)])
    recipe.model.base = str(work / "base")
    recipe.model.parity_check = compared
    recipe.model.import_from, recipe.model.import_to = str(work / "base"), str(target)
    recipe.export.output = str(target)
    stage = importing.main if case.startswith("import") else exporting.main
    most, seconds = peak_while(lambda: stage(recipe))
    weights = (target / "model.safetensors").stat().st_size
    print(f"| {case} | {weights / 2**20:,.0f} | {most / 2**20:,.0f} | {most / weights:.2f} | {seconds:.1f} |")


def main() -> None:
    work = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    if len(sys.argv) > 2:
        convert(sys.argv[2], work, Path(sys.argv[3]))
        return
    print("| conversion | weights MiB | most held MiB | ratio | seconds |\n|---|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, str(work), case, f"{folder}/model"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            print(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
