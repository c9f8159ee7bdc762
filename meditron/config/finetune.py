"""Configuration of instruction tuning."""

from dataclasses import dataclass, field
from typing import Literal

from meditron.config.check import require


@dataclass(kw_only=True)
class FinetuneConfig:
    """Instruction tuning of a Hugging Face folder. Defaults are those of MEDITRON (arXiv 2311.16079)."""

    model: str | None = None
    """Hugging Face folder of a Llama to start from. Default: what `export` writes."""
    run_dir: str | None = None
    """Run folder; the tuned model goes to its `model/`. Default: `<work_dir>/finetune`."""
    data: list[str] = field(default_factory=list)
    """JSONL files, or globs, relative to `data_root`: one conversation a line, as
    `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`,
    with an optional system turn first."""
    validation: list[str] = field(default_factory=list)
    """JSONL files of held-out conversations; each gets its own loss in the log. Default: none."""
    max_bad_fraction: float = 0.001
    """Stop when more than this share of the lines cannot be used."""
    max_length: int = 2048
    """Tokens of one conversation; what is beyond is cut off, and a conversation without any answer left
    is dropped and counted."""
    epochs: int = 3
    """Passes over the conversations."""
    max_steps: int | None = None
    """Steps of the whole run, instead of `epochs`."""
    micro_batch_size: int = 4
    """Conversations of one forward and backward pass of one process."""
    global_batch_size: int = 64
    """Conversations of one step over all processes, reached by accumulating gradients; it decides the
    result, while `micro_batch_size` and the number of processes do not."""
    lr: float = 2e-5
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup_fraction: float = 0.1
    """Share of the steps over which the learning rate rises linearly from 0 to `lr`."""
    weight_decay: float = 0.1
    """Decoupled weight decay; not applied to norms."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-5
    """Added to the denominator of the update."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Number format of the computation; weights, gradients and optimizer states are fp32 always."""
    recompute: Literal["none", "full"] = "none"
    """Activation checkpointing: `full` keeps only each layer's input and computes the layer again in the
    backward pass."""
    validation_interval: int = 100
    """Steps between two validations; there is always one before the first step and one at the end."""
    checkpoint_interval: int = 200
    """Steps between two checkpoints; one is always saved at the end."""
    keep_checkpoints: int = 1
    """Newest checkpoints that stay; older ones are removed after a newer one is whole. 0 keeps all."""
    nproc: int = 1
    """Processes to start on this machine, one a GPU where there are any. Ignored inside a process that
    `accelerate launch`, `torchrun` or SLURM started as one of several."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the exported weights. Default: that of the model it started from."""

    def __post_init__(self) -> None:
        at_least_one = ("max_length", "epochs", "micro_batch_size", "validation_interval")
        for name in (*at_least_one, "checkpoint_interval", "nproc"):
            require(getattr(self, name) >= 1, f"finetune.{name}", getattr(self, name), "must be at least 1")
        for name in ("min_lr", "weight_decay", "clip_grad", "keep_checkpoints"):
            require(getattr(self, name) >= 0, f"finetune.{name}", getattr(self, name), "is negative")
        for name in ("adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"finetune.{name}", value, "must be at least 0 and under 1")
        for name in ("warmup_fraction", "max_bad_fraction"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"finetune.{name}", value, "must be between 0 and 1")
        for name in ("lr", "adam_eps"):
            require(getattr(self, name) > 0, f"finetune.{name}", getattr(self, name), "must be positive")
        require(self.min_lr <= self.lr, "finetune.min_lr", self.min_lr, f"is above finetune.lr ({self.lr})")
        steps = self.max_steps
        require(steps is None or steps >= 1, "finetune.max_steps", steps, "must be at least 1")
        require(
            self.micro_batch_size <= self.global_batch_size,
            "finetune.micro_batch_size",
            self.micro_batch_size,
            f"is above finetune.global_batch_size ({self.global_batch_size})",
        )
