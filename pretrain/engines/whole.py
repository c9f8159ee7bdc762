"""Megatron's state filled from whole tensors, at any layout: how a run of the other engine goes on."""

from typing import Any

import torch
from torch import Tensor

from meditron.models.architecture import Architecture
from meditron.models.megatron.cpu import quiet_import
from meditron.models.megatron.weights import shard_from_hf
from meditron.models.stored import KINDS, StoredWeights, TrainingState

with quiet_import():
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
    from megatron.core.dist_checkpointing.mapping import (
        LocalNonpersistentObject,
        ShardedTensor,
        ShardedTensorFactory,
    )

_OPTIMIZER = "optimizer.state."


def fill(state: dict[str, Any], stored: TrainingState, architecture: Architecture) -> dict[str, Any]:
    """What `dist_checkpointing.load` would give for `state`, from a checkpoint that is not Megatron's.

    Args:
        state: Megatron's sharded state of this process; it names each tensor and its place.
        stored: the checkpoint.
        architecture: the whole model.

    Returns:
        the same state with this process' part of each tensor, and AdamW's number of updates.

    Raises:
        CheckpointError: the checkpoint lacks a tensor.
    """
    sources = {kind: StoredWeights(stored, kind) for kind in KINDS}
    rank = parallel_state.get_tensor_model_parallel_rank()
    ranks = parallel_state.get_tensor_model_parallel_world_size()

    def filled(leaf: Any) -> Any:  # noqa: ANN401 - whatever the library keeps
        if isinstance(leaf, LocalNonpersistentObject):
            return leaf.unwrap()
        if not isinstance(leaf, ShardedTensor | ShardedTensorFactory):
            return leaf
        kind, name = _place(leaf)
        part: Tensor = shard_from_hf(name, leaf.data.shape, architecture, sources[kind], rank, ranks)
        return part.clone()  # the file's own memory must not become the optimizer's

    found: dict[str, Any] = dict_list_map_outplace(filled, state)
    _set_updates(found["optimizer"], stored.updates)
    return found


def _place(leaf: ShardedTensor | ShardedTensorFactory) -> tuple[str, str]:
    """Kind of a tensor and Megatron's name of its parameter, its layer counted over the whole model."""
    first = leaf if isinstance(leaf, ShardedTensor) else leaf.build()[0]
    kind, name = "param", leaf.key
    if name.startswith(_OPTIMIZER):
        kind, name = name.removeprefix(_OPTIMIZER).split(".", 1)
        kind = "param" if kind == "fp32_param" else kind
    return kind, name.replace("decoder.layers.", f"decoder.layers.{first.global_offset[0]}.")


def _set_updates(optimizer: dict[str, Any], updates: int) -> None:
    inner = optimizer.get("optimizer", optimizer)
    if "state" in inner:
        inner["state"]["common_step"] = torch.tensor(float(updates))
        return
    for group in inner["param_groups"]:  # where the distributed optimizer looks for it
        group["step"] = updates
