"""What the trainer knows of an engine. Shapes: M micro-batches, B samples of a micro-batch, S tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from meditron.models.safetensors_folder import WeightSource


@dataclass(kw_only=True)
class StepResult:
    """Outcome of one optimizer step, the same on every process."""

    loss: float
    """Mean cross-entropy of the step's tokens, in nats."""
    grad_norm: float
    """Global gradient norm before clipping."""
    applied: bool
    """False when loss or gradient is not finite, and the weights therefore stayed as they were."""


class Engine(Protocol):
    """A model with its optimizer, over the processes of a run."""

    device: torch.device
    """Where batches go."""
    data_parallel_rank: int
    """Which part of each batch this process works on."""

    def build(self, weights: WeightSource) -> None:
        """Make model and optimizer, filled from Hugging Face tensors."""
        ...

    def forward_backward(self, inputs_MBS: Tensor, labels_MBS: Tensor) -> float:
        """Gradients of the mean loss of the global batch; returns that loss."""
        ...

    def update(self, loss: float, lr: float) -> StepResult:
        """Apply the gradients at a learning rate, unless loss or norm is not finite on any process."""
        ...

    def eval_step(self, inputs_MBS: Tensor, labels_MBS: Tensor) -> tuple[float, int]:
        """Sum of the losses and number of labelled tokens over all processes, without gradients."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state; every process calls it with the same empty folder."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, at any layout."""
        ...
