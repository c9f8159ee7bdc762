"""`meditron curate` on real documents: records/s and MB/s of each source, peak memory, what each step costs.

Usage: python benchmarks/curation.py RECIPE DATA_ROOT [--workers N]
    RECIPE     a recipe with a section `curate`, such as configs/real-small.yaml
    DATA_ROOT  the folder that its paths are relative to
"""

import argparse
import glob
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("data_root")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    sources = yaml.safe_load(Path(arguments.recipe).read_text())["curate"]["sources"]
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in ("lxml", "datatrove", "pyarrow", "ftfy")))
    print("| source | records | input MB | text MB | seconds | records/s | input MB/s | peak MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, source in sources.items():
        measure(name, {name: source}, arguments)
    measure("all", sources, arguments)


def measure(name: str, sources: dict[str, object], arguments: argparse.Namespace) -> None:
    """Curate some sources in a process of their own, and print a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"sources": sources, "workers": arguments.workers, "max_bad_fraction": 0.1}
        seconds, peak, corpus = curate_and_watch(settings, arguments.data_root, Path(folder))
        read = sum(s["read"] for s in json.loads((corpus / "stats.json").read_text())["sources"].values())
        given = sum(size_of(arguments.data_root, line) for line in (corpus / "inputs.jsonl").open())
        text = text_bytes(corpus)
    print(
        f"| {name} | {read:,} | {given / 1e6:.1f} | {text / 1e6:.1f} | {seconds:.1f} | {read / seconds:,.0f} "
        f"| {given / 1e6 / seconds:.2f} | {peak / 2**20:.0f} |",
        flush=True,
    )


def curate_and_watch(settings: dict[str, object], data_root: str, folder: Path) -> tuple[float, int, Path]:
    """Run `meditron curate`; seconds, peak memory in bytes, and the corpus in `folder`."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"curate": settings}))
    command = [sys.executable, "-m", "meditron", "curate", "--config", str(recipe)]
    command += ["--data_root", data_root, "--work_dir", f"{folder}/work"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = watch_memory(process)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, peak, folder / "work" / "corpus"


def size_of(root: str, line: str) -> int:
    return Path(root, json.loads(line)["file"]).stat().st_size


def text_bytes(corpus: Path) -> int:
    import pyarrow.parquet as pq

    tables = [pq.read_table(file, columns=["text"]) for file in corpus.glob("*/*.parquet")]
    return sum(len(text.as_py().encode()) for table in tables for text in table["text"])


def watch_memory(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process; largest sum of the resident memory of it and its descendants, in bytes."""
    peak = 0

    def look() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, sum(map(resident, descendants(process.pid))))
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    process.wait()
    thread.join()
    return peak


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            after_name = Path(path).read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(after_name[1]), []).append(int(path.split("/")[2]))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    main()
