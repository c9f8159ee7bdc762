"""Stands for `python -m meditron`: each stage writes what the real one would, and its name to calls.txt."""

import signal
import sys
import time
from pathlib import Path

import yaml

from meditron.manifest import write_manifest
from meditron.runs import RunFolder

verb, recipe = sys.argv[1], yaml.safe_load(Path(sys.argv[3]).read_text())
work = Path(recipe["work_dir"])
with open(work / "calls.txt", "a") as calls:
    calls.write(verb + "\n")
fault = (work / f"{verb}.fault").read_text() if (work / f"{verb}.fault").exists() else ""
if fault.isdigit():
    sys.exit(int(fault))
if fault == "wait":
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: sys.exit(75))
if fault in ("wait", "wait-deaf"):
    (work / "waiting").touch()
    time.sleep(600)
if fault == "nothing":
    sys.exit(0)


def folder(path, kind):
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "content").write_text(verb)
    write_manifest(path, kind=kind, config={"seed": recipe["seed"]}, inputs={}, counts={})


if verb == "curate":
    folder(recipe["curate"]["output"], "corpus")
elif verb == "tokenize":
    folder(recipe["tokenize"]["output"], "shards")
elif verb == "import":
    folder(recipe["model"]["import_to"], "model")
elif verb == "pretrain":
    run = RunFolder(recipe["pretrain"]["run_dir"]).create({}, "pretrain")
    folder(run.checkpoints / "step_00000001", "checkpoint")
    run.mark("finished")
elif verb == "export":
    folder(recipe["export"]["output"], "model")
elif verb == "finetune":
    folder(Path(recipe["finetune"]["run_dir"]) / "model", "model")
elif verb == "evaluate":
    folder(Path(recipe["evaluate"]["output"]) / "model", "results")
elif verb == "report":
    Path(recipe["report"]["output"]).write_text("<html>")
