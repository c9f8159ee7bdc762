"""What a checkpoint costs training, and how long a run takes to go on at a late sample.

Usage: python benchmarks/checkpoints.py save [--rounds 3] [--steps 12]
       python benchmarks/checkpoints.py resume [--rounds 3] [--sample 1000000]
`save`: a model of 135M parameters with AdamW's moments in fp32 on one process, saved synchronously, in the
background, and by a plain `torch.save`, in turns, each followed by the same training steps.
`resume`: a tiny model, so that the data counts; this project against Hugging Face's Trainer, over the same
windows as a map-style and as an iterable dataset, from the call to the end of the first step.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from data_curation.shards import write_index
from meditron.checkpoints import checkpoint_path
from meditron.config import Recipe, resolve
from meditron.config.model import ModelConfig
from meditron.config.pretrain import CheckpointConfig, PretrainConfig, ValidationConfig
from meditron.files import atomic_write_json
from meditron.manifest import MANIFEST, write_manifest
from meditron.models.architecture import PRESETS, Architecture
from meditron.models.megatron.parallel import alone
from meditron.models.safetensors_folder import RandomWeights
from meditron.runs import RunFolder
from pretrain.engines.megatron import MegatronEngine
from pretrain.saving import Saver

TOKENS = 256
"""Of a step between two saves; short, so that steps are many."""
LENGTH, BATCH = 64, 8


class Saving:
    """An engine that has made a step, and the ways to save it."""

    def __init__(self, architecture: Architecture, folder: Path) -> None:
        config = PretrainConfig(sequence_length=TOKENS, global_batch_size=1, precision="fp32")
        self.engine = MegatronEngine(architecture, config, 128)
        self.engine.build(RandomWeights(architecture, 0))
        self.folder, self.architecture = folder, architecture
        self.step()

    def step(self) -> None:
        tokens = torch.randint(self.architecture.vocab_size, (1, 1, TOKENS + 1))
        self.engine.update(self.engine.forward_backward(tokens[..., :-1], tokens[..., 1:]), 1e-5)

    def saver(self, *, background: bool) -> Saver:
        config = CheckpointConfig(interval=1, keep=1, async_save=background)
        identity: dict[str, Any] = {"config": {}, "inputs": {}}
        return Saver(
            folder=self.folder, config=config, identity=identity, extra={}, log=lambda *_, **__: None
        )

    def ours(self, steps: int, number: int, *, background: bool) -> tuple[float, float]:
        """(seconds that saving kept training waiting, seconds of everything)."""
        saver, began = self.saver(background=background), time.perf_counter()
        saver.start(self.engine, number, {})
        for _ in range(steps):
            self.step()
            saver.poll(self.engine.device)
        saver.finish()
        return saver.stall, time.perf_counter() - began

    def plain(self, steps: int, number: int) -> tuple[float, float]:
        """The same for `torch.save` of the same tensors, flushed; no checksum, no rename."""
        began = time.perf_counter()
        inner = self.engine._optimizer.chained_optimizers[0].optimizer
        with open(self.folder / "plain.pt", "wb") as file:
            torch.save({"model": self.engine._chunks[0].state_dict(), "adam": inner.state_dict()}, file)
            os.fsync(file.fileno())
        stall = time.perf_counter() - began
        for _ in range(steps):
            self.step()
        return stall, time.perf_counter() - began

    def nothing(self, steps: int, number: int) -> tuple[float, float]:
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        return 0.0, time.perf_counter() - began


def save(rounds: int, steps: int) -> None:
    """Print a table of the ways to save."""
    with tempfile.TemporaryDirectory() as scratch, alone():
        saving = Saving(PRESETS["smollm2-135m"], Path(scratch))
        ways: dict[str, Callable[[int, int], tuple[float, float]]] = {
            "no checkpoint": saving.nothing,
            "synchronous": lambda count, number: saving.ours(count, number, background=False),
            "in the background": lambda count, number: saving.ours(count, number, background=True),
            "torch.save": saving.plain,
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                stall, total = way(steps, number)
                print(f"round {number}: {name}: waited {stall:.2f} s, with {steps} steps {total:.2f} s")
                if number:  # the first round warms up
                    found[name].append((stall, total))
        size = sum(file.stat().st_size for file in checkpoint_path(Path(scratch), rounds).iterdir())
        print(f"checkpoint of {size / 1e9:.2f} GB")
    print("| way | training waits, s | saving and the steps, s | more than the steps alone, s |")
    alone_seconds = statistics.median(total for _, total in found["no checkpoint"])
    for name, pairs in found.items():
        stall, total = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"| {name} | {stall:.2f} | {total:.2f} | {total - alone_seconds:.2f} |")
    waits = {name: [stall for stall, _ in pairs] for name, pairs in found.items()}
    ratios = sorted(a / b for a, b in zip(waits["in the background"], waits["synchronous"], strict=True))
    print(f"background / synchronous: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


def write_shards(folder: Path, samples: int) -> None:
    """Shards of random documents of 500 tokens, a tenth more of them than `samples` windows need."""
    length, ids = 500, np.dtype(np.uint16)
    documents = int(samples * 1.1) * LENGTH // length
    generator = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    generator.integers(0, 512, documents * length, np.uint16).tofile(folder / "train" / "papers.bin")
    write_index(folder / "train" / "papers.idx", np.full(documents, length, np.int32), ids)
    source = {"kind": "medical", "train_tokens": documents * length, "validation_tokens": 0}
    atomic_write_json(folder / "tokens.json", {"sources": {"papers": source}, "vocab_size": 512})
    write_manifest(folder, kind="shards", config={}, inputs={}, counts={})


class Ours:
    """A run that stopped after its first step, and whose checkpoint then says that it is at `sample`."""

    def __init__(self, work: Path, shards: Path, sample: int) -> None:
        config = PretrainConfig(
            shards=str(shards),
            sequence_length=LENGTH,
            micro_batch_size=BATCH,
            global_batch_size=BATCH,
            train_steps=sample // BATCH + 1,
            precision="fp32",
            checkpoint=CheckpointConfig(interval=10**9, keep=0),
            validation=ValidationConfig(interval=10**9),
        )
        model = ModelConfig(base="tiny", parity_check=False)
        self.recipe = resolve(Recipe(work_dir=str(work), model=model, pretrain=config))
        self.run_folder = RunFolder(str(config.run_dir))
        triggers = self.run_folder.path / "triggers"
        triggers.mkdir(parents=True)
        (triggers / "exit").touch()
        self._start(75)
        self._move(sample // BATCH)

    def _start(self, code: int) -> None:
        from pretrain.main import main

        assert main(self.recipe) == code

    def _move(self, step: int) -> None:
        old, new = (checkpoint_path(self.run_folder.checkpoints, number) for number in (1, step))
        old.rename(new)
        manifest = json.loads((new / MANIFEST).read_text())
        manifest["counts"] |= {"step": step, "sample": step * BATCH}
        atomic_write_json(new / MANIFEST, manifest)

    def resume(self) -> float:
        began = time.time()
        self._start(0)
        last = [record for record in self.run_folder.read_log() if record["event"] == "step"][-1]
        newest = checkpoint_path(self.run_folder.checkpoints, self.recipe.pretrain.train_steps)
        shutil.rmtree(newest)  # of the end, which the next round must not find
        return float(last["time"]) - began


class Windows(Dataset):
    """The same tokens in windows, by number."""

    def __init__(self, shards: Path) -> None:
        tokens = np.memmap(shards / "train" / "papers.bin", np.uint16, "r")
        self.rows = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self.rows[index].astype(np.int64))
        return {"input_ids": row, "labels": row}


class Stream(IterableDataset):
    """The same windows as a stream, as tokenized text is often read."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self.windows[number] for number in range(len(self.windows)))


class FirstStep(TrainerCallback):
    ended = 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = self.ended or time.perf_counter()


class HuggingFace:
    """`Trainer` with a checkpoint whose state says that it is at `sample`."""

    def __init__(self, folder: Path, dataset: Windows | Stream, sample: int) -> None:
        self.folder, self.dataset, self.steps = folder, dataset, sample // BATCH
        self._trainer(1).train()
        checkpoint = folder / "checkpoint-1"
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        atomic_write_json(checkpoint / "trainer_state.json", {**state, "global_step": self.steps})
        self.checkpoint = checkpoint

    def _trainer(self, steps: int, *callbacks: TrainerCallback) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(self.folder),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            save_strategy="steps" if steps == 1 else "no",
            save_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        model = LlamaForCausalLM(LlamaConfig(**PRESETS["tiny"].to_hf()))
        return Trainer(model, arguments, train_dataset=self.dataset, callbacks=list(callbacks))

    def resume(self) -> float:
        first, began = FirstStep(), time.perf_counter()
        self._trainer(self.steps + 1, first).train(resume_from_checkpoint=str(self.checkpoint))
        return first.ended - began


def resume(rounds: int, sample: int) -> None:
    """Print a table of the ways to go on."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_shards(work / "shards", sample)
        windows = Windows(work / "shards")
        ways = {
            "meditron": Ours(work / "ours", work / "shards", sample).resume,
            "Trainer, map-style": HuggingFace(work / "map", windows, sample).resume,
            "Trainer, iterable": HuggingFace(work / "stream", Stream(windows), sample).resume,
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name, way in ways.items():
                found[name].append(way())
                print(f"round {number}: {name}: {found[name][-1]:.2f} s")
    for name, seconds in found.items():
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("save", "resume"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sample", type=int, default=1_000_000)
    chosen = parser.parse_args()
    if chosen.what == "save":
        save(chosen.rounds, chosen.steps)
    else:
        resume(chosen.rounds, chosen.sample)


if __name__ == "__main__":
    main()
