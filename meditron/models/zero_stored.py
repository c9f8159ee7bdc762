"""Checkpoints of the DeepSpeed engine, read a tensor at a time: `state-*.safetensors` and `state.json`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from meditron.errors import CheckpointError

STATE = "state.json"


def is_zero_checkpoint(folder: Path) -> bool:
    """Whether the DeepSpeed engine wrote a checkpoint, and not Megatron."""
    return (folder / STATE).is_file()


class MomentsAndWeights:
    """The fp32 weights (`param/<name>`) and Adam's moments (`exp_avg/<name>`, `exp_avg_sq/<name>`).

    Args:
        folder: a checkpoint whose files were held against its manifest.

    Raises:
        CheckpointError: a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.step = float(json.loads((folder / STATE).read_text())["adam_step"])
            files: list[Any] = [
                safe_open(path, framework="pt") for path in sorted(folder.glob("state-*.safetensors"))
            ]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: cannot be read ({error}); choose another") from None
        self._where = {key: file for file in files for key in file.keys()}  # noqa: SIM118

    def weights(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of each weight."""
        for key in self._where:
            if key.startswith("param/"):
                yield key.removeprefix("param/"), self.read(key).to(dtype)

    def read(self, key: str) -> Tensor:
        """One whole tensor.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        if key not in self._where:
            raise CheckpointError(f"{self.folder}: lacks {key}; it is of another kind of model")
        tensor: Tensor = self._where[key].get_tensor(key)
        return tensor
