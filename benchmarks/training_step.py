"""A pretraining step of this project against Hugging Face's Trainer and a bare PyTorch loop, in turns.

Usage: python benchmarks/training_step.py [--rounds 5] [--steps 3] [--size 20m|135m] [--no-compile]
All three start from the same weights, read the same batches and take the same optimizer steps, in fp32 and in
one process; their losses are compared before any time is reported.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from meditron.config.pretrain import OptimizerConfig, PretrainConfig
from meditron.models.architecture import read_architecture
from meditron.models.megatron.parallel import alone
from meditron.models.safetensors_folder import FolderWeights

SIZES = {
    "20m": {
        "vocab_size": 16000,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 9,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
SAMPLES = {"20m": 4, "135m": 1}
"""Of a step."""
LENGTH, LR = 512, 1e-4
Seconds = dict[str, list[float]]


class Task(NamedTuple):
    """What a step learns from."""

    vocab_size: int
    samples: int

    def batch(self, number: int) -> torch.Tensor:
        """Tokens of one step, [samples, LENGTH + 1]."""
        generator = torch.Generator().manual_seed(number)
        return torch.randint(self.vocab_size, (self.samples, LENGTH + 1), generator=generator)


class Batches(Dataset):
    def __init__(self, start: int, steps: int, task: Task) -> None:
        self.rows = torch.cat([task.batch(start + n) for n in range(steps)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        return {"input_ids": row[:-1], "labels": row[:-1]}  # the model shifts the labels itself


def parameter_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    """The same for all ways; its fused kernel is `Trainer`'s default."""
    return torch.optim.AdamW(parameter_groups(model), lr=LR, betas=(0.9, 0.95), eps=1e-5, fused=True)


class Bare:
    """The loop a person would write."""

    def __init__(self, folder: Path) -> None:
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.optimizer = adamw(self.model)

    def run(self, start: int, steps: int, task: Task) -> list[float]:
        losses = []
        for number in range(start, start + steps):
            tokens = task.batch(number)
            output = self.model(input_ids=tokens[:, :-1], labels=tokens[:, :-1])
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(output.loss.item())
        return losses


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.found.append(logs["loss"])


class HuggingFace:
    """`transformers.Trainer`, one call of `train` a round, its optimizer kept."""

    def __init__(self, folder: Path, scratch: str, *, compiled: bool) -> None:
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.optimizer = adamw(self.model)
        self.scratch, self.compiled = scratch, compiled

    def run(self, start: int, steps: int, task: Task) -> list[float]:
        arguments = TrainingArguments(
            output_dir=self.scratch,
            per_device_train_batch_size=task.samples,
            max_steps=steps,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            torch_compile=self.compiled,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            lr_scheduler_type="constant",
        )
        losses = Losses()
        scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)
        trainer = Trainer(
            self.model,
            arguments,
            train_dataset=Batches(start, steps, task),
            optimizers=(self.optimizer, scheduler),
            callbacks=[losses],
        )
        trainer.train()
        return losses.found


class Ours:
    """The Megatron engine as `meditron pretrain` drives it."""

    def __init__(self, folder: Path, task: Task, *, compiled: bool) -> None:
        from pretrain.engines.megatron import MegatronEngine

        config = PretrainConfig(
            sequence_length=LENGTH,
            micro_batch_size=task.samples,
            global_batch_size=task.samples,
            precision="fp32",
            compile=compiled,
            optimizer=OptimizerConfig(lr=LR, min_lr=LR),
        )
        self.engine = MegatronEngine(read_architecture(folder), config, 128)
        self.engine.build(FolderWeights(folder))

    def run(self, start: int, steps: int, task: Task) -> list[float]:
        losses = []
        for number in range(start, start + steps):
            inputs = task.batch(number)[:, :-1]
            # As the other two shift them.
            labels = torch.cat([inputs[:, 1:], torch.full((task.samples, 1), -1)], 1)
            loss = self.engine.forward_backward(inputs[None], labels[None])
            losses.append(self.engine.update(loss, LR).loss)
        return losses


def matmul_peak() -> float:
    """FLOP/s of the fastest of ten fp32 products of square matrices."""
    a, b = torch.randn(2, 2048, 2048)
    found = []
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        found.append(2 * 2048**3 / (time.perf_counter() - started))
    return max(found)


def measure(ways: dict[str, Callable[..., list[float]]], rounds: int, steps: int, task: Task) -> Seconds:
    """Run all ways in turns over the same steps; seconds of a step, by way and round."""
    seconds: Seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        losses = {}
        for name, run in ways.items():
            started = time.perf_counter()
            losses[name] = run(number * steps, steps, task)
            if number:  # the first round warms up
                seconds[name].append((time.perf_counter() - started) / steps)
        for name, found in losses.items():
            worst = max(abs(a - b) for a, b in zip(found, losses["bare loop"], strict=True))
            assert worst < 2e-4, f"{name}: loss differs by {worst} from the bare loop's"
    return seconds


def report(seconds: Seconds, tokens: int, flops: float) -> None:
    """Medians, tokens/s and MFU of each way, and ratios of the same round."""
    peak = matmul_peak()
    print(f"fastest matrix product: {peak / 1e9:.1f} GFLOP/s; {flops / tokens / 1e6:.1f} MFLOP a token")
    for name, values in seconds.items():
        middle = statistics.median(values)
        line = f"| {name} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} |"
        print(line, f"{tokens / middle:,.0f} | {flops / middle / peak:.1%} |")
    for ours in [name for name in seconds if name.startswith("meditron")]:
        for name in [name for name in seconds if not name.startswith("meditron")]:
            ratios = sorted(a / b for a, b in zip(seconds[ours], seconds[name], strict=True))
            print(f"{ours} / {name}: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="20m")
    parser.add_argument("--no-compile", action="store_true", help="leave out the two compiled ways")
    chosen = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    names = ("torch", "transformers", "megatron-core")
    print(platform.processor() or platform.machine(), torch.get_num_threads(), "threads", end=", ")
    print(", ".join(f"{name} {version(name)}" for name in names))
    with tempfile.TemporaryDirectory() as scratch, alone():
        folder = Path(scratch) / "model"
        torch.manual_seed(0)
        shape = SIZES[chosen.size]
        model = LlamaForCausalLM(
            LlamaConfig(**shape, tie_word_embeddings=True, max_position_embeddings=LENGTH)
        )
        task = Task(shape["vocab_size"], SAMPLES[chosen.size])
        tokens = task.samples * LENGTH
        print(f"{model.num_parameters() / 1e6:.1f}M parameters, {task.samples} x {LENGTH} tokens a step")
        model.save_pretrained(folder)
        ways = {
            "meditron": Ours(folder, task, compiled=False).run,
            "bare loop": Bare(folder).run,
            "Trainer": HuggingFace(folder, scratch, compiled=False).run,
        }
        if not chosen.no_compile:
            ways["meditron, compile"] = Ours(folder, task, compiled=True).run
            ways["Trainer, torch_compile"] = HuggingFace(folder, scratch, compiled=True).run
        flops = read_architecture(folder).flops_per_token(LENGTH) * tokens
        report(measure(ways, chosen.rounds, chosen.steps, task), tokens, flops)


if __name__ == "__main__":
    main()
