"""Weights of a Hugging Face folder, read slice by slice and written shard by shard."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from meditron.errors import InputError
from meditron.files import atomic_write_json, disk_errors
from meditron.models.architecture import Architecture

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class WeightSource(Protocol):
    """Where a model's weights come from; names are those of `LlamaForCausalLM`."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor (its first axis)."""
        ...

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Columns `start` to `stop` of a matrix."""
        ...


class FolderWeights:
    """The safetensors of a Hugging Face folder; only the slice asked for is read.

    Args:
        folder: holds `model.safetensors`, or the shards that `model.safetensors.index.json` names.

    Raises:
        InputError: no safetensors, a missing shard, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._files = {file: self._open(file) for file in self._file_names()}
        self._where = {key: file for file, handle in self._files.items() for key in handle.keys()}  # noqa: SIM118

    def _file_names(self) -> list[str]:
        if (self._folder / SINGLE).is_file():
            return [SINGLE]
        try:
            index = json.loads((self._folder / INDEX).read_text(encoding="utf-8"))
            return sorted(set(index["weight_map"].values()))
        except FileNotFoundError:
            raise InputError(
                f"{self._folder}: has neither {SINGLE} nor {INDEX}; save the model with safetensors"
            ) from None
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{self._folder / INDEX}: cannot be read ({error}); copy it again") from None

    def _open(self, file: str) -> Any:  # noqa: ANN401 - safetensors is not typed
        try:
            return safe_open(self._folder / file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self._folder / file}: cannot be read ({error}); copy it again") from None

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def _find(self, name: str) -> Any:  # noqa: ANN401 - safetensors is not typed
        if name not in self._where:
            raise InputError(f"{self._folder}: the weights lack {name}; is config.json of this model?")
        return self._files[self._where[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._find(name).get_slice(name).get_shape())

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor (its first axis)."""
        rows: torch.Tensor = self._checked(name, 0, stop)[start:stop]
        return rows

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Columns `start` to `stop` of a matrix."""
        columns: torch.Tensor = self._checked(name, 1, stop)[:, start:stop]
        return columns

    def _checked(self, name: str, axis: int, stop: int) -> Any:  # noqa: ANN401 - safetensors' own slice type
        stored = self._find(name).get_slice(name)
        shape = stored.get_shape()
        if shape[axis] < stop:
            raise InputError(
                f"{self._folder}: {name} has shape {shape}, config.json asks for {stop} on axis {axis}; "
                "config.json and weights are of two models"
            )
        return stored


class RandomWeights:
    """Fresh weights: the same for a name and a seed, however the model is cut.

    Matrices are normal with `initializer_range`, those that write to the residual stream scaled by
    1/sqrt(2 layers) (GPT-2); norms are 1.
    """

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self._architecture, self._seed = architecture, seed

    def _make(self, name: str) -> torch.Tensor:
        shape = tensor_shapes(self._architecture)[name]
        if len(shape) == 1:
            return torch.ones(shape)
        generator = torch.Generator().manual_seed(xxhash.xxh3_64_intdigest(name.encode(), self._seed) % 2**63)
        std = self._architecture.initializer_range
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= (2 * self._architecture.num_hidden_layers) ** 0.5
        return torch.randn(shape, generator=generator) * std

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor (its first axis)."""
        return self._make(name)[start:stop]

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Columns `start` to `stop` of a matrix."""
        return self._make(name)[:, start:stop]


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the `LlamaForCausalLM`, in the order of its layers."""
    a = architecture
    query, key = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (a.vocab_size, a.hidden_size)}
    for layer in range(a.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (a.hidden_size,),
            f"{prefix}self_attn.q_proj.weight": (query, a.hidden_size),
            f"{prefix}self_attn.k_proj.weight": (key, a.hidden_size),
            f"{prefix}self_attn.v_proj.weight": (key, a.hidden_size),
            f"{prefix}self_attn.o_proj.weight": (a.hidden_size, query),
            f"{prefix}post_attention_layernorm.weight": (a.hidden_size,),
            f"{prefix}mlp.gate_proj.weight": (a.intermediate_size, a.hidden_size),
            f"{prefix}mlp.up_proj.weight": (a.intermediate_size, a.hidden_size),
            f"{prefix}mlp.down_proj.weight": (a.hidden_size, a.intermediate_size),
        }
    shapes["model.norm.weight"] = (a.hidden_size,)
    if not a.tie_word_embeddings:
        shapes["lm_head.weight"] = (a.vocab_size, a.hidden_size)
    return shapes


def write_weights(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], max_shard_bytes: int = 2_000_000_000
) -> None:
    """Write tensors as they come, a file at a time, named and indexed as Hugging Face does.

    Holds one file's tensors. Raises DiskFullError when the disk or quota is used up.
    """
    written: list[tuple[Path, list[str]]] = []
    total = 0
    for shard in in_shards(tensors, max_shard_bytes):
        path = folder / f".part-{len(written):05d}"
        with disk_errors(path):
            save_file(shard, path, metadata={"format": "pt"})
            path.chmod(0o644)  # safetensors makes files for their owner alone
        written.append((path, list(shard)))
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(written) == 1:
        written[0][0].rename(folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, (path, names) in enumerate(written, start=1):
        file = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        path.rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    atomic_write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def in_shards(
    tensors: Iterable[tuple[str, torch.Tensor]], max_bytes: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors as they come, in groups of up to `max_bytes`, each the content of one file."""
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.contiguous()
        size += tensor.nbytes
    yield shard
