"""Training checkpoints as whole tensors with Hugging Face's names, whichever engine wrote them.

It is the form that the engines have in common: a run that one of them stopped goes on under the other, a
checkpoint is converted, and a model is exported, all through it and a tensor at a time.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from meditron.errors import CheckpointError
from meditron.models.architecture import Architecture

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's, as torch calls them."""
KINDS = ("param", *MOMENTS)
"""What there is of each weight: itself in fp32, and its moments."""
STATE = "state.json"


class TrainingState(Protocol):
    """Weights and optimizer of a checkpoint."""

    folder: Path
    """Where it lies."""
    updates: int
    """Steps that AdamW has made."""

    def names(self) -> list[str]:
        """Names of all weights, those of `LlamaForCausalLM`."""
        ...

    def read(self, kind: str, name: str) -> Tensor:
        """One whole tensor of a kind of KINDS.

        Raises:
            CheckpointError: the checkpoint lacks it, or its bytes cannot be read.
        """
        ...


def open_state(folder: Path, architecture: Architecture) -> TrainingState:
    """The state in a checkpoint whose files were held against its manifest.

    Args:
        folder: the checkpoint.
        architecture: the whole model.

    Raises:
        CheckpointError: it cannot be read.
    """
    if is_whole(folder):
        return SafetensorsState(folder)
    from meditron.models.megatron.stored import MegatronState

    return MegatronState(folder, architecture)


def is_whole(folder: Path) -> bool:
    """Whether the checkpoint holds whole tensors, as the engine `deepspeed` writes them."""
    return (folder / STATE).is_file()


class SafetensorsState:
    """A `TrainingState` in `state-*.safetensors`, by names such as `exp_avg/model.norm.weight`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.updates = int(json.loads((folder / STATE).read_text())["adam_step"])
            files: list[Any] = [
                safe_open(path, framework="pt") for path in sorted(folder.glob("state-*.safetensors"))
            ]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: cannot be read ({error}); choose another") from None
        self._where = {key: file for file in files for key in file.keys()}  # noqa: SIM118

    def names(self) -> list[str]:
        """Names of all weights."""
        return [key.removeprefix("param/") for key in self._where if key.startswith("param/")]

    def read(self, kind: str, name: str) -> Tensor:
        """One whole tensor; raises CheckpointError where the checkpoint lacks it."""
        key = f"{kind}/{name}"
        if key not in self._where:
            raise CheckpointError(f"{self.folder}: lacks {key}; it is of another kind of model")
        tensor: Tensor = self._where[key].get_tensor(key)
        return tensor


class StoredWeights:
    """One kind of tensors of a `TrainingState`, as a `meditron.models.safetensors_folder.WeightSource`.

    Args:
        state: the checkpoint.
        kind: one of KINDS.
    """

    def __init__(self, state: TrainingState, kind: str) -> None:
        self._state, self._kind = state, kind

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor (its first axis)."""
        return self._state.read(self._kind, name)[start:stop]

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Columns `start` to `stop` of a matrix."""
        return self._state.read(self._kind, name)[:, start:stop]
