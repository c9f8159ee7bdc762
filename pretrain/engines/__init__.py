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


class Writing(Protocol):
    """Files of a checkpoint on their way to the disk."""

    def done(self) -> bool:
        """Whether this process' files are written."""
        ...

    def finish(self) -> None:
        """Wait until the files of all processes are whole; every process calls it."""
        ...


class Engine(Protocol):
    """A model with its optimizer, over the processes of a run."""

    device: torch.device
    """Where batches go."""
    data_parallel_rank: int
    """Which part of each batch this process works on."""

    def build(self, weights: WeightSource) -> None:
        """Make model and optimizer, filled from Hugging Face tensors."""
        ...

    def forward_backward(
        self, inputs_MBS: Tensor, labels_MBS: Tensor, documents_MBS: Tensor | None = None
    ) -> float:
        """Gradients of the mean loss of the global batch; returns that loss.

        Args:
            inputs_MBS: tokens.
            labels_MBS: the token after each, or IGNORE.
            documents_MBS: number of each token's document; tokens see those of their own document only.
                None: they see all that are before them.
        """
        ...

    def update(self, loss: float, lr: float, *, apply: bool = True) -> StepResult:
        """Apply the gradients at a learning rate, unless loss or norm is not finite on any process.

        Without `apply` they are dropped.
        """
        ...

    def eval_step(
        self, inputs_MBS: Tensor, labels_MBS: Tensor, documents_MBS: Tensor | None = None
    ) -> tuple[float, int]:
        """Sum of the losses and number of labelled tokens over all processes, without gradients."""
        ...

    def save(self, folder: Path, *, background: bool = False) -> Writing:
        """Begin to write weights and optimizer state; every process calls it with the same empty folder.

        With `background` training may go on as soon as it returns, else only after `Writing.finish`.
        """
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, at any layout."""
        ...


def document_mask(documents_BS: Tensor) -> Tensor:
    """Which tokens each token may see, those before it in its own document: bool [B, 1, S, S]."""
    same_BSS = documents_BS[:, :, None] == documents_BS[:, None, :]
    return same_BSS.tril()[:, None]
