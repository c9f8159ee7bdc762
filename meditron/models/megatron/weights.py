"""Weights between Hugging Face's layout and Megatron's, one tensor at a time.

Megatron joins what Hugging Face keeps apart: `linear_qkv` holds, for each key/value head, its query heads,
its key and its value; `linear_fc1` holds gate over up. Tensor parallelism cuts `linear_qkv`, `linear_fc1`
and the embeddings by rows, `linear_proj` and `linear_fc2` by columns.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from meditron.models.architecture import Architecture
from meditron.models.safetensors_folder import WeightSource

_NORMS = {
    "input_layernorm.weight": "input_layernorm.weight",
    "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
}
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


def shard_from_hf(
    name: str,
    shape: torch.Size,
    architecture: Architecture,
    weights: WeightSource,
    tensor_rank: int = 0,
    tensor_size: int = 1,
) -> Tensor:
    """One rank's part of a Megatron parameter.

    Args:
        name: the parameter, its layer counted over the whole model.
        shape: of the part.
        architecture: the whole model.
        weights: the Hugging Face tensors.
        tensor_rank: tensor-parallel rank.
        tensor_size: number of tensor-parallel ranks.

    Returns:
        tensor of `shape`; rows of the vocabulary's padding are 0.
    """
    layer = _LAYER.fullmatch(name)
    if layer:
        prefix, part = f"model.layers.{layer[1]}.", layer[2]
        if part in _NORMS:
            return weights.rows(prefix + _NORMS[part], 0, shape[0])
        if part == "self_attention.linear_qkv.weight":
            return _joined_qkv(prefix, architecture, weights, tensor_rank, tensor_size)
        if part == "mlp.linear_fc1.weight":
            half = shape[0] // 2
            cut = (tensor_rank * half, (tensor_rank + 1) * half)
            return torch.cat(
                [weights.rows(f"{prefix}mlp.{gate}_proj.weight", *cut) for gate in ("gate", "up")]
            )
        hf_name = {
            "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
            "mlp.linear_fc2.weight": "mlp.down_proj.weight",
        }[part]
        return weights.columns(prefix + hf_name, tensor_rank * shape[1], (tensor_rank + 1) * shape[1])
    if name == "decoder.final_layernorm.weight":
        return weights.rows("model.norm.weight", 0, shape[0])
    assert name in ("embedding.word_embeddings.weight", "output_layer.weight"), name
    tied = architecture.tie_word_embeddings or name.startswith("embedding")
    hf_name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    start = min(tensor_rank * shape[0], architecture.vocab_size)
    stop = min(start + shape[0], architecture.vocab_size)
    rows = weights.rows(hf_name, start, stop)
    return torch.cat([rows, rows.new_zeros(shape[0] - len(rows), shape[1])])


def _joined_qkv(
    prefix: str, a: Architecture, weights: WeightSource, tensor_rank: int, tensor_size: int
) -> Tensor:
    groups = a.num_key_value_heads // tensor_size
    parts = []
    for projection, heads in (("q", a.num_attention_heads // tensor_size), ("k", groups), ("v", groups)):
        rows = heads * a.head_dim
        name = f"{prefix}self_attn.{projection}_proj.weight"
        cut = weights.rows(name, tensor_rank * rows, (tensor_rank + 1) * rows)
        parts.append(cut.view(groups, -1, a.hidden_size))
    return torch.cat(parts, dim=1).reshape(-1, a.hidden_size)


def whole_to_hf(name: str, tensor: Tensor, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """The Hugging Face tensors that a whole (not tensor-parallel) Megatron parameter holds.

    The inverse of `shard_from_hf` at one rank, the vocabulary's padding removed.
    """
    a = architecture
    layer = _LAYER.fullmatch(name)
    if layer:
        prefix, part = f"model.layers.{layer[1]}.", layer[2]
        if part in _NORMS:
            yield prefix + _NORMS[part], tensor
        elif part == "self_attention.linear_qkv.weight":
            grouped = tensor.view(a.num_key_value_heads, -1, a.head_dim, a.hidden_size)
            per_group = a.num_attention_heads // a.num_key_value_heads
            for projection, heads in zip("qkv", torch.split(grouped, [per_group, 1, 1], dim=1), strict=True):
                yield f"{prefix}self_attn.{projection}_proj.weight", heads.reshape(-1, a.hidden_size)
        elif part == "mlp.linear_fc1.weight":
            gate, up = tensor.chunk(2)
            yield f"{prefix}mlp.gate_proj.weight", gate
            yield f"{prefix}mlp.up_proj.weight", up
        elif part == "self_attention.linear_proj.weight":
            yield f"{prefix}self_attn.o_proj.weight", tensor
        else:
            assert part == "mlp.linear_fc2.weight", name
            yield f"{prefix}mlp.down_proj.weight", tensor
    elif name == "decoder.final_layernorm.weight":
        yield "model.norm.weight", tensor
    elif name == "embedding.word_embeddings.weight":
        yield "model.embed_tokens.weight", tensor[: a.vocab_size]
    else:
        assert name == "output_layer.weight", name
        yield "lm_head.weight", tensor[: a.vocab_size]


def global_names(model: torch.nn.Module, layer_offset: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Parameters of this rank's part, layers numbered over the whole model from 0.

    Args:
        model: a `MegatronLlama`.
        layer_offset: number of the first layer. Default: as Megatron numbered it.
    """
    decoder = model.get_submodule("decoder")
    first = layer_offset
    if first is None:
        layers = list(decoder.get_submodule("layers").children())
        first = int(layers[0].layer_number) - 1 if layers else 0  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        layer = _LAYER.fullmatch(name)
        yield (f"decoder.layers.{int(layer[1]) + first}.{layer[2]}" if layer else name), parameter


@torch.no_grad()
def load_weights(model: torch.nn.Module, architecture: Architecture, weights: WeightSource) -> None:
    """Fill this rank's part of the model; each tensor is read only where this rank needs it."""
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    for name, parameter in global_names(model):
        parameter.copy_(shard_from_hf(name, parameter.shape, architecture, weights, rank, size))
