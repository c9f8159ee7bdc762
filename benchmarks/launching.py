"""Cost of a launch on a real Slurm: from `meditron launch` to the first finished training step.

Against the bare way, an sbatch script with `srun torchrun` around the same training, in turns: 2 nodes of 2
processes each, all on this machine (tests/slurm/cluster.py; needs root). The model is tiny, so that what is
left is the launch. Run as `python -m benchmarks.launching`.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.pretrain.conftest import TEXTS, write_base, write_corpus
from tests.slurm.cluster import Cluster, until, why_not

MEDITRON = [sys.executable, "-m", "meditron"]
CLUSTER = 8
"""Tells this cluster from those of tests that run at the same time."""
WAYS = ("meditron launch", "meditron launch, health check", "srun torchrun")
SETTINGS = {
    "pretrain.sequence_length": "32",
    "pretrain.global_batch_size": "4",
    "pretrain.train_steps": "2",
    "pretrain.precision": "fp32",
    "pretrain.checkpoint.interval": "100",
    "pretrain.parallel": "{tensor_model_parallel_size: 2, data_parallel_size: 2}",
    "launch.gpus_per_node": "0",
    "launch.nodes": "2",
    "launch.time_limit": "30",
    "launch.min_free_gb": "0.1",
    "launch.environment": '{OMP_NUM_THREADS: "1"}',
}
PYTHON = """\
#!{executable}
# Python that notes when it reached what, each process in a file of its own.
import atexit, functools, json, os, runpy, sys, time

marks = [("process", time.time())]
verb = sys.argv[3] if sys.argv[2] == "meditron" else sys.argv[2]

def mark(name):
    marks.append((name, time.time()))

@atexit.register
def write():
    mark("end")
    with open(os.environ["MARKS"] + "/" + verb + "-" + os.environ.get("RANK", "0") + ".json", "w") as file:
        json.dump(marks, file)

def watch(module, function, before=None, after=None):
    module = __import__(module, fromlist=["x"])
    inner = getattr(module, function)

    @functools.wraps(inner)
    def outer(*arguments, **named):
        mark(before) if before else None
        result = inner(*arguments, **named)
        mark(after) if after else None
        return result

    setattr(module, function, outer)

if verb == "pretrain":
    watch("meditron.models.megatron.parallel", "join_group", "imports", "rendezvous")
    watch("meditron.models.megatron.parallel", "set_up_megatron", None, "groups")
    watch("meditron.models.parity", "check_parity_apart", "checks", "parity")
    watch("pretrain.main", "_build", None, "engine")
    watch("pretrain.trainer", "validate", None, "validation")
    watch("pretrain.trainer", "train_step", None, "step")
sys.argv[:3] = sys.argv[2:3]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
BARE = """\
#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --output={folder}/bare.log
date +%s.%N > {marks}/script
export MARKS={marks} OMP_NUM_THREADS=1
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --export=ALL bash -c 'exec "$@" --node-rank "$SLURM_NODEID" --no-python {python} -m meditron pretrain \\
    --config {recipe}' node {torchrun} --nnodes 2 --nproc-per-node 2 \\
    --master-addr "$host" --master-port $((20000 + SLURM_JOB_ID))
"""


def prepare(folder: Path) -> None:
    """A base that `meditron import` has made, shards, and the Python that takes notes."""
    write_base(folder / "downloaded")
    write_corpus(folder / "corpus", TEXTS)
    importing = ["--model.import_from", str(folder / "downloaded"), "--model.import_to", str(folder / "base")]
    call([*MEDITRON, "import", *importing])
    tokenizing = ["--tokenize.corpus", str(folder / "corpus"), "--tokenize.output", str(folder / "shards")]
    call([*MEDITRON, "tokenize", *tokenizing, "--model.base", str(folder / "base")])
    python = folder / "python"
    python.write_text(PYTHON.format(executable=sys.executable))
    python.chmod(0o755)


def call(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measure(cluster: Cluster, way: str, data: Path, folder: Path) -> dict[str, float]:
    """Submit a training, wait for its end, and return when (seconds since the command) it reached what."""
    marks, work = folder / "marks", folder / "work"
    marks.mkdir(parents=True)
    words = [f"--{name}={value}" for name, value in SETTINGS.items()]
    words += [f"--work_dir={work}", f"--model.base={data / 'base'}", f"--pretrain.shards={data / 'shards'}"]
    words += [f"--launch.setup={json.dumps([f'date +%s.%N > {marks}/script', f'export MARKS={marks}'])}"]
    words += [f"--launch.python={data / 'python'}", f"--launch.health_check={'health' in way}"]
    recipe = folder / "recipe.yaml"
    recipe.write_text(call([*MEDITRON, "pretrain", *words, "--print_config"]))
    bare = folder / "bare.sbatch"
    torchrun = shlex.join([str(Path(sys.executable).parent / "torchrun")])
    bare.write_text(
        BARE.format(folder=folder, marks=marks, torchrun=torchrun, python=data / "python", recipe=recipe)
    )
    began = time.time()
    call(["sbatch", str(bare)] if "torchrun" in way else [*MEDITRON, "launch", str(recipe)])
    submitted = time.time()
    until(lambda: len(list(marks.glob("pretrain-*.json"))) == 4, 300)
    cluster.empty()  # the stages after it are not measured
    return {"submitted": submitted - began, **read_marks(marks, began)}


def read_marks(marks: Path, began: float) -> dict[str, float]:
    """Each mark at its last process, for processes wait for each other."""
    found = {"script": float((marks / "script").read_text()) - began}
    for file in sorted(marks.glob("*.json")):
        seen: set[str] = set()
        for name, at in json.loads(file.read_text()):
            key = f"health {name}" if file.name.startswith("launch.health") else name
            if key not in seen:  # the first validation, the first step
                seen.add(key)
                found[key] = max(found.get(key, 0.0), at - began)
    return found


def phases(at: dict[str, float]) -> dict[str, float]:
    """Seconds between one mark and the next."""
    order = [
        "submitted",
        "script",
        "health process",
        "health end",
        "process",
        "imports",
        "rendezvous",
        "groups",
    ]
    there = [name for name in [*order, "checks", "parity", "engine", "validation", "step"] if name in at]
    before = [0.0, *(at[name] for name in there)]
    lasted = {name: at[name] - start for name, start in zip(there, before, strict=False)}
    return {**lasted, "all": at["step"]}


def show(times: dict[str, list[dict[str, float]]]) -> None:
    names = list(dict.fromkeys(name for runs in times.values() for run in runs for name in run))
    print(f"{'seconds, median':<18}", *(f"{way:>30}" for way in times))
    for name in names:
        values = [[run[name] for run in runs if name in run] for runs in times.values()]
        cells = [f"{statistics.median(some):.2f}" if some else "" for some in values]
        print(f"{name:<18}", *(f"{cell:>30}" for cell in cells), flush=True)
    bare = [run["all"] for run in times[WAYS[-1]]]
    for way in WAYS[:-1]:
        ratios = [run["all"] / other for run, other in zip(times[way], bare, strict=True)]
        print(f"{way} / {WAYS[-1]}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    reason = why_not()
    if reason is not None:
        sys.exit(f"no Slurm: {reason}")
    cluster = Cluster(number=CLUSTER, size=2)
    times: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary)
        prepare(data)
        try:
            cluster.start()
            os.environ |= cluster.environment
            for number in range(rounds):
                for place, way in enumerate(WAYS):
                    at = measure(cluster, way, data, data / f"{number}-{place}")
                    times[way].append(phases(at))
                    print(f"round {number + 1}, {way}: {times[way][-1]['all']:.1f} s", flush=True)
        finally:
            cluster.stop()
    show(times)


if __name__ == "__main__":
    main()
