"""Continued pretraining with and without replay: what it does to medical and to general perplexity.

Usage: python benchmarks/replay.py MODEL SHARDS WORK_DIR [--steps 24] [--lr 3e-4] [--seeds 1] [--plot FILE]
    MODEL      Hugging Face folder of the base
    SHARDS     shards of configs/real-small.yaml (`meditron run`, or `curate` and `tokenize`)
    WORK_DIR   folder of the runs; a killed one goes on when started again

One run a share of replay and seed, all from the same base over the same validation text. Medical sources have
the same proportions in each; replay is spread over the general sources. Prints a Markdown table; `--plot`
needs matplotlib.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

SHARES = (0.0, 0.01, 0.05)
"""Replay's part of the training tokens; 0.01 is MEDITRON's."""
MEDICAL = {"plos": 0.5, "craft": 0.2, "medline": 0.1, "nursing": 0.1, "medquad": 0.1}
GENERAL = {"openstax": 0.5, "wikitext": 0.25, "gutenberg": 0.25}
Curve = dict[int, float]
"""Step to perplexity."""


def recipe(share: float, seed: int, work: Path, given: argparse.Namespace) -> dict[str, Any]:
    weights = {name: part * (1 - share) for name, part in MEDICAL.items()}
    weights |= {name: part * share for name, part in GENERAL.items()}
    warmup = max(1, given.steps // 8)
    return {
        "work_dir": str(work),
        "seed": seed,
        "model": {"base": given.model},
        "pretrain": {
            "shards": given.shards,
            "weights": {name: weight for name, weight in weights.items() if weight},
            "sequence_length": 256,
            "micro_batch_size": 4,
            "global_batch_size": 8,
            "train_steps": given.steps,
            "precision": "fp32",
            "optimizer": {"lr": given.lr, "min_lr": given.lr / 10, "warmup_steps": warmup},
            "validation": {"interval": given.steps // 2, "max_tokens": 2048},
            "checkpoint": {"interval": given.steps // 2, "keep": 1},
        },
    }


def curves(log: Path) -> dict[str, Curve]:
    """Perplexity of medical and of general text by step: over the mean loss of their sources."""
    losses: dict[tuple[str, int], list[float]] = defaultdict(list)
    seen: dict[tuple[int, str], float] = {}
    for line in log.read_text().splitlines():
        record = json.loads(line)
        if record["event"] == "validation":
            seen[record["step"], record["source"]] = record["loss"]
    for (step, source), loss in seen.items():
        for kind, sources in (("medical", MEDICAL), ("general", GENERAL)):
            if source in sources:
                losses[kind, step].append(loss)
    found: dict[str, Curve] = {"medical": {}, "general": {}}
    for (kind, step), values in sorted(losses.items()):
        found[kind][step] = math.exp(statistics.mean(values))
    return found


def train(share: float, seed: int, given: argparse.Namespace) -> dict[str, Curve]:
    work = Path(given.work_dir) / f"replay-{share:g}-seed-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    config = work / "study.yaml"
    config.write_text(yaml.safe_dump(recipe(share, seed, work, given)))
    command = [sys.executable, "-m", "meditron", "pretrain", "--config", str(config)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return curves(work / "pretrain" / "log.jsonl")


def mean(runs: list[dict[str, Curve]], kind: str) -> Curve:
    return {step: statistics.mean(run[kind][step] for run in runs) for step in runs[0][kind]}


def spread(runs: list[dict[str, Curve]], kind: str, step: int) -> str:
    if len(runs) == 1:
        return ""
    return f" ± {statistics.stdev(run[kind][step] for run in runs):.2f}"


def print_table(found: dict[float, list[dict[str, Curve]]]) -> None:
    steps = list(next(iter(found.values()))[0]["medical"])
    print("| replay | text | " + " | ".join(f"step {step}" for step in steps) + " | change |")
    print("|---|---|" + "---|" * (len(steps) + 1))
    for share, runs in found.items():
        for kind in ("medical", "general"):
            curve = mean(runs, kind)
            cells = [f"{curve[step]:.2f}{spread(runs, kind, step)}" for step in steps]
            change = f"{curve[steps[-1]] / curve[steps[0]] - 1:+.1%}"
            print(f"| {share:.0%} | {kind} | " + " | ".join([*cells, change]) + " |")


def draw(found: dict[float, list[dict[str, Curve]]], file: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, kind in zip(axes, ("medical", "general"), strict=True):
        for share, runs in found.items():
            curve = mean(runs, kind)
            axis.plot(list(curve), list(curve.values()), marker="o", label=f"{share:.0%} replay")
        axis.set(title=f"{kind} text, held out", xlabel="step", ylabel="perplexity")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("model", "shards", "work_dir"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plot")
    given = parser.parse_args()
    found: dict[float, list[dict[str, Curve]]] = {}
    for share in SHARES:
        found[share] = [train(share, seed, given) for seed in range(1, given.seeds + 1)]
        print(f"replay {share:.0%} done", file=sys.stderr)
    print_table(found)
    if given.plot:
        draw(found, given.plot)


if __name__ == "__main__":
    main()
