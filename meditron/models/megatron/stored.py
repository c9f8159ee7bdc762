"""Megatron's training checkpoints, read a tensor at a time, however many processes wrote them."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from meditron.errors import CheckpointError
from meditron.models.architecture import Architecture
from meditron.models.megatron.weights import whole_to_hf

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_OPTIMIZER = "optimizer.state."
# The distributed optimizer's fp32 weights, those of the other one in bf16, and the model's own.
_PREFIXES = {"param": (f"{_OPTIMIZER}param.", f"{_OPTIMIZER}fp32_param.", "")}
COMMON = "common.pt"


class MegatronState:
    """A `meditron.models.stored.TrainingState` in a folder of Megatron's `dist_checkpointing`.

    Megatron stores each parameter of all layers as one tensor with the layer as its first axis, in the
    chunks that the processes held, the optimizer's state likewise.

    Args:
        folder: a checkpoint whose files were held against its manifest.
        architecture: the whole model.

    Raises:
        CheckpointError: its index cannot be read.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.folder, self._architecture = folder, architecture
        try:
            metadata = FileSystemReader(folder).read_metadata()
        except Exception as error:  # any: the library unpickles it
            raise CheckpointError(f"{folder}: its index cannot be read ({error}); choose another") from error
        self._places: Any = metadata.storage_data
        self._tensors = {
            name: stored
            for name, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        self._owners = {
            hf: name for name in self.parameters() for hf, _ in self._split(name, self._like(name))
        }
        self._latest: tuple[tuple[str, str], dict[str, Tensor]] = (("", ""), {})
        self.updates = _updates(read_common(folder))

    def names(self) -> list[str]:
        """Names of all weights, those of `LlamaForCausalLM`."""
        return list(self._owners)

    def read(self, kind: str, name: str) -> Tensor:
        """One whole tensor of a kind of `meditron.models.stored.KINDS`.

        Raises:
            CheckpointError: the checkpoint lacks it, or its bytes cannot be read.
        """
        if name not in self._owners:
            raise CheckpointError(f"{self.folder}: lacks {name}; it is of another kind of model")
        owner = self._owners[name]
        if self._latest[0] != (kind, owner):  # one Megatron tensor is up to three of Hugging Face's
            self._latest = ((kind, owner), dict(self._split(owner, self.parameter(owner, kind))))
        return self._latest[1][name]

    def parameters(self) -> Iterator[str]:
        """Megatron's names, layers numbered from 0, a layer's together, embedding first."""
        own = [name for name in self._tensors if not name.startswith("optimizer.")]
        layered = [name for name in own if name.startswith("decoder.layers.")]
        layers = self._tensors[layered[0]].size[0] if layered else 0
        yield from (name for name in own if name.startswith("embedding."))
        for layer in range(layers):
            for name in layered:
                yield name.replace("decoder.layers.", f"decoder.layers.{layer}.")
        yield from (name for name in own if not name.startswith(("embedding.", "decoder.layers.")))

    def parameter(self, name: str, kind: str = "param") -> Tensor:
        """One whole tensor by Megatron's name, with the vocabulary's padding; raises as `read`."""
        key, layer = _key(name)
        prefixes = _PREFIXES.get(kind, (f"{_OPTIMIZER}{kind}.",))
        for prefix in prefixes:
            if prefix + key in self._tensors:
                return self._whole(prefix + key, [] if layer is None else [layer])
        raise CheckpointError(f"{self.folder}: lacks {prefixes[-1]}{key}; it is of another kind of model")

    def _split(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        return whole_to_hf(name, tensor, self._architecture)

    def _like(self, name: str) -> Tensor:
        """A tensor of the parameter's shape without content."""
        key, layer = _key(name)
        return torch.empty(self._tensors[key].size[0 if layer is None else 1 :], device="meta")

    def _whole(self, key: str, first: list[int]) -> Tensor:
        """A tensor, or with `first` one layer of it, from its chunks."""
        stored, axes = self._tensors[key], len(first)
        whole = torch.empty(stored.size[axes:], dtype=stored.properties.dtype)
        for chunk in stored.chunks:
            if list(chunk.offsets[:axes]) == first:
                cut = zip(chunk.offsets[axes:], chunk.sizes[axes:], strict=True)
                place = tuple(slice(start, start + size) for start, size in cut)
                whole[place] = self._chunk(key, chunk.offsets).reshape(whole[place].shape)
        return whole

    def _chunk(self, key: str, offsets: torch.Size) -> Tensor:
        place = self._places[MetadataIndex(key, offsets)]
        try:
            with open(self.folder / place.relative_path, "rb") as handle:
                handle.seek(place.offset)
                tensor: Tensor = torch.load(io.BytesIO(handle.read(place.length)), weights_only=True)
        except Exception as error:  # any: the file may be cut or overwritten
            raise CheckpointError(
                f"{self.folder / place.relative_path}: {key} cannot be read ({error}); choose another"
            ) from error
        return tensor


def _key(name: str) -> tuple[str, int | None]:
    """Name of the stored tensor that a parameter is in, and which layer of it."""
    layered = _LAYER.fullmatch(name)
    return (f"decoder.layers.{layered[2]}", int(layered[1])) if layered else (name, None)


def read_common(folder: Path) -> dict[str, Any]:
    """What Megatron stores once for all processes.

    Raises:
        CheckpointError: it holds anything but plain data, or cannot be read.
    """
    try:
        found: dict[str, Any] = torch.load(folder / COMMON, weights_only=True, map_location="cpu")
    except Exception as error:  # any: unpickling what is not plain
        raise CheckpointError(
            f"{folder / COMMON}: holds more than plain data ({error}); it is not of this program"
        ) from error
    return found


def by_distributed_optimizer(folder: Path) -> bool:
    """Whether Megatron's distributed optimizer wrote the checkpoint; raises as `read_common`."""
    return "param_state_sharding_type" in read_common(folder)["optimizer"]


def _updates(common: dict[str, Any]) -> int:
    """Steps of AdamW; the distributed optimizer keeps them in its groups, the other one beside them."""
    optimizer = common["optimizer"]
    optimizer = optimizer.get("optimizer", optimizer)
    if "state" in optimizer:
        return int(optimizer["state"].get("common_step", 0))
    return int(optimizer["param_groups"][0].get("step", 0))
