"""Weights of a training checkpoint, read a tensor at a time, however many processes wrote it."""

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

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


class StoredWeights:
    """The model's tensors in a checkpoint folder; the optimizer's are never read.

    Megatron stores each parameter of all layers as one tensor with the layer as its first axis, in the
    chunks that the processes held.

    Args:
        folder: a checkpoint whose files were held against its manifest.

    Raises:
        CheckpointError: its index cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            metadata = FileSystemReader(folder).read_metadata()
        except Exception as error:  # any: the library unpickles it
            raise CheckpointError(f"{folder}: its index cannot be read ({error}); choose another") from error
        self._places: Any = metadata.storage_data
        self._tensors = {
            name: stored
            for name, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata) and not name.startswith("optimizer.")
        }

    def names(self) -> Iterator[str]:
        """Names of all parameters, layers numbered from 0, a layer's together, embedding first."""
        layered = [name for name in self._tensors if name.startswith("decoder.layers.")]
        layers = self._tensors[layered[0]].size[0] if layered else 0
        yield from (name for name in self._tensors if name.startswith("embedding."))
        for layer in range(layers):
            for name in layered:
                yield name.replace("decoder.layers.", f"decoder.layers.{layer}.")
        yield from (name for name in self._tensors if not name.startswith(("embedding.", "decoder.layers.")))

    def read(self, name: str) -> Tensor:
        """One whole parameter, with the vocabulary's padding.

        Raises:
            CheckpointError: the checkpoint lacks it, or its bytes cannot be read.
        """
        layered = _LAYER.fullmatch(name)
        key = f"decoder.layers.{layered[2]}" if layered else name
        first = [int(layered[1])] if layered else []
        if key not in self._tensors:
            raise CheckpointError(f"{self.folder}: lacks {key}; it is of another kind of model")
        stored = self._tensors[key]
        whole = torch.empty(stored.size[len(first) :], dtype=stored.properties.dtype)
        for chunk in stored.chunks:
            if list(chunk.offsets[: len(first)]) == first:
                place = tuple(
                    slice(start, start + size)
                    for start, size in zip(
                        chunk.offsets[len(first) :], chunk.sizes[len(first) :], strict=True
                    )
                )
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
