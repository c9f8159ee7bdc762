"""Putting the corpus together: one rename makes it visible, with its manifest."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_curation.card import write_card
from data_curation.decide import Decisions, load_ledgers
from data_curation.plan import Plan
from data_curation.timing import throughput
from meditron.config import Recipe
from meditron.files import atomic_dir, atomic_write, atomic_write_json
from meditron.manifest import write_manifest

LOGS = ("extract", "bands", "compare", "publish")
_NO_LOGS = shutil.ignore_patterns("completions", "reports", "failures", "executor.*")
LISTS = ("duplicates.jsonl", "contamination.jsonl")


def assemble(
    recipe: Recipe,
    plan: Plan,
    work: Path,
    output: Path,
    statistics: dict[str, dict[str, Any]],
    decisions: Decisions,
) -> None:
    """Move what the passes made into `output`, and their logs to `<work_dir>/logs/curate`."""
    # From here the second pass's files leave their place, so its markers must not outlive them.
    shutil.rmtree(work / "publish" / "completions")
    with atomic_dir(output) as folder:
        for split in ("train", "validation"):
            os.replace(work / "corpus" / split, folder / split)
        shutil.copyfile(work / "quarantine.jsonl", folder / "quarantine.jsonl")
        for name in LISTS:
            if (work / "decisions" / name).exists():
                shutil.copyfile(work / "decisions" / name, folder / name)
        found = {"benchmarks": decisions.benchmarks} if decisions.benchmarks else {}
        atomic_write_json(folder / "stats.json", {"sources": statistics, **found})
        write_card(folder, output.name, statistics, recipe.curate, decisions.benchmarks)
        inputs = _write_inputs(plan, work / "parts", folder / "inputs.jsonl")
        counts = {key: sum(s[key] for s in statistics.values()) for key in ("read", "kept", "chars")}
        for split in ("train", "validation"):
            counts[split] = sum(source[split] for source in statistics.values())
        write_manifest(
            folder,
            kind="corpus",
            config={"curate": asdict(recipe.curate), "seed": recipe.seed},
            inputs=inputs,
            counts=counts,
            licenses={name: source.license for name, source in plan.sources.items()},
        )
    _keep_logs(plan, work, Path(recipe.work_dir) / "logs" / "curate")
    shutil.rmtree(work)


def _write_inputs(plan: Plan, parts: Path, path: Path) -> dict[str, str]:
    """List every input file with its SHA-256; return one hash over each source's list."""
    hashes = {}
    with atomic_write(path) as handle:
        for name in plan.sources:
            digest = hashlib.sha256()
            for ledger in load_ledgers(plan, parts, name):
                for file, sha256 in ledger.inputs.items():
                    digest.update(f"{file}\n{sha256}\n".encode("utf-8", "surrogateescape"))
                    line = json.dumps({"source": name, "file": file, "sha256": sha256})
                    handle.write(line.encode() + b"\n")
            hashes[name] = digest.hexdigest()
    return hashes


def _keep_logs(plan: Plan, work: Path, logs: Path) -> None:
    shutil.rmtree(logs, ignore_errors=True)
    atomic_write_json(logs / "throughput.json", {"steps": throughput(plan, work, LOGS)})
    for name in LOGS:
        if (work / name).exists():
            shutil.copytree(work / name, logs / name, ignore=_NO_LOGS)
