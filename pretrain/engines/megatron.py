"""The Megatron-core engine: tensor, pipeline and data parallelism with the distributed optimizer."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.nn.utils import clip_grads_with_norm_

from meditron.config.pretrain import PretrainConfig
from meditron.errors import CheckpointError, DiskFullError
from meditron.models.architecture import Architecture
from meditron.models.megatron import fp8
from meditron.models.megatron.cpu import quiet_import, training_device
from meditron.models.megatron.llama import build_chunks
from meditron.models.megatron.stored import by_distributed_optimizer
from meditron.models.megatron.weights import load_weights
from meditron.models.safetensors_folder import WeightSource
from meditron.models.stored import is_whole, open_state
from pretrain.data import IGNORE
from pretrain.engines import StepResult, Writing, document_mask
from pretrain.engines.whole import fill
from pretrain.engines.writing import MegatronWriting

with quiet_import():
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.transformer.module import Float16Module
    from megatron.core.utils import get_batch_on_this_cp_rank

# One file layout for every number of processes, so that a checkpoint can be loaded at another layout.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable"}
_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


class MegatronEngine:
    """See `pretrain.engines.Engine`; needs the groups of `meditron.models.megatron.parallel`.

    Args:
        architecture: the whole model.
        config: settings of the run.
        vocab_padding_multiple: the embedding's rows are padded to a multiple of this per rank.
    """

    def __init__(
        self, architecture: Architecture, config: PretrainConfig, vocab_padding_multiple: int
    ) -> None:
        self._architecture, self._config = architecture, config
        self._vocab_padding_multiple = vocab_padding_multiple
        self._bf16 = config.precision == "bf16"
        self.device = training_device()
        self.data_parallel_rank: int = parallel_state.get_data_parallel_rank()
        self._forward_backward = get_forward_backward_func()
        # One process has nothing to share, and gloo would copy all gradients and weights to itself.
        shared = parallel_state.get_data_parallel_world_size(with_context_parallel=True) > 1
        self._distributed_optimizer = shared and config.parallel.distributed_optimizer
        self._overlap_param_gather = shared and config.parallel.overlap_param_gather

    def build(self, weights: WeightSource) -> None:
        """Make model and optimizer, filled from Hugging Face tensors."""
        config = self._config
        self._chunks: list[Any] = build_chunks(
            self._architecture,
            dtype=torch.bfloat16 if self._bf16 else torch.float32,
            vocab_padding_multiple=self._vocab_padding_multiple,
            max_sequence_length=config.sequence_length,
            sequence_parallel=config.parallel.sequence_parallel,
            **_RECOMPUTE[config.recompute],
            **(fp8.SETTINGS if config.fp8 else {}),
        )
        for chunk in self._chunks:
            load_weights(chunk, self._architecture, weights)
            chunk.to(self.device)
            if config.compile:
                for layer in chunk.decoder.layers:
                    layer.compile()
        # All chunks share one configuration, which the schedules read.
        self._settings: Any = self._chunks[0].config
        self._ddp: list[Any] = [self._distributed(n, chunk) for n, chunk in enumerate(self._chunks)]
        self._optimizer: Any = get_megatron_optimizer(self._optimizer_config(), self._ddp)
        self._fuse_adam()
        self._settings.finalize_model_grads_func = finalize_model_grads
        if config.parallel.overlap_grad_reduce:  # buckets are sent in the last micro-batch only
            self._settings.no_sync_func = [chunk.no_sync for chunk in self._ddp]
            if len(self._ddp) == 1:
                (self._settings.no_sync_func,) = self._settings.no_sync_func

    def _distributed(self, number: int, chunk: Any) -> Any:  # noqa: ANN401 - the library is not typed
        layout = self._config.parallel
        inner = Float16Module(self._settings, chunk) if self._bf16 else chunk
        settings = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=self._distributed_optimizer,
            overlap_grad_reduce=layout.overlap_grad_reduce,
            overlap_param_gather=self._overlap_param_gather,
            bucket_size=layout.ddp_bucket_size,
        )
        # Only the first chunk's messages stand in anybody's way, as in Megatron-LM.
        return DistributedDataParallel(self._settings, settings, inner, disable_bucketing=number > 0)

    def _optimizer_config(self) -> OptimizerConfig:
        settings = self._config.optimizer
        return OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            min_lr=settings.min_lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad,
            bf16=self._bf16,
            params_dtype=torch.bfloat16 if self._bf16 else torch.float32,
            use_distributed_optimizer=self._distributed_optimizer,
            overlap_param_gather=self._overlap_param_gather,
        )

    def _fuse_adam(self) -> None:
        """One kernel for the whole update of torch's Adam, which the library leaves in a dozen."""
        for part in self._optimizer.chained_optimizers:
            if isinstance(part.optimizer, torch.optim.Adam):  # AdamW is one
                for group in part.optimizer.param_groups:
                    group["fused"] = True

    def _passes(self, tensors_MBS: tuple[Tensor | None, ...]) -> Iterator[tuple[Tensor | None, ...]]:
        assert tensors_MBS[0] is not None
        for number in range(len(tensors_MBS[0])):
            yield tuple(None if part is None else part[number].to(self.device) for part in tensors_MBS)

    def _run(
        self, inputs_MBS: Tensor, labels_MBS: Tensor, documents_MBS: Tensor | None, *, forward_only: bool
    ) -> tuple[float, int]:
        """Sum of the losses and number of labelled tokens over all processes."""
        batches, micro_batch_size, length = inputs_MBS.shape
        outputs = self._forward_backward(
            forward_step_func=_forward,
            data_iterator=[self._passes((inputs_MBS, labels_MBS, documents_MBS)) for _ in self._chunks],
            model=self._ddp,
            num_microbatches=batches,
            seq_length=length,
            micro_batch_size=micro_batch_size,
            forward_only=forward_only,
        )
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        if parallel_state.get_tensor_model_parallel_rank() == 0:  # the others have the same
            for output in outputs:  # empty but on the last pipeline stage
                total += output["loss"].double()
        dist.all_reduce(total)
        return float(total[0]), int(total[1])

    def forward_backward(
        self, inputs_MBS: Tensor, labels_MBS: Tensor, documents_MBS: Tensor | None = None
    ) -> float:
        """Gradients of the mean loss of the global batch; returns that loss."""
        for chunk in self._ddp:
            chunk.train()
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        total, tokens = self._run(inputs_MBS, labels_MBS, documents_MBS, forward_only=False)
        return total / max(tokens, 1)

    @torch.no_grad()
    def update(self, loss: float, lr: float, *, apply: bool = True) -> StepResult:
        """Apply the gradients at a learning rate, unless loss or norm is not finite on any process."""
        optimizer = self._optimizer
        optimizer.prepare_grads()
        norm = float(optimizer.get_grad_norm())
        good = apply and math.isfinite(norm) and math.isfinite(loss)
        bad = torch.tensor(0.0 if good else 1.0, device=self.device)
        dist.all_reduce(bad)
        if bad > 0:
            return StepResult(loss=loss, grad_norm=norm, applied=False)
        if self._config.optimizer.clip_grad > 0:
            total = torch.tensor(norm, device=self.device)
            for part in optimizer.chained_optimizers:
                clip_grads_with_norm_(part.get_parameters(), self._config.optimizer.clip_grad, total)
        for group in optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = self._config.optimizer.weight_decay * group.get("wd_mult", 1.0)
        optimizer.step_with_ready_grads()
        return StepResult(loss=loss, grad_norm=norm, applied=True)

    @torch.no_grad()
    def eval_step(
        self, inputs_MBS: Tensor, labels_MBS: Tensor, documents_MBS: Tensor | None = None
    ) -> tuple[float, int]:
        """Sum of the losses and number of labelled tokens over all processes, without gradients."""
        for chunk in self._ddp:
            chunk.eval()
        layout = self._config.parallel
        if layout.virtual_pipeline_model_parallel_size is not None:  # it takes rounds of micro-batches
            rest = (0, 0, 0, 0, 0, -len(inputs_MBS) % layout.pipeline_model_parallel_size)
            inputs_MBS, labels_MBS = F.pad(inputs_MBS, rest), F.pad(labels_MBS, rest, value=IGNORE)
            documents_MBS = None if documents_MBS is None else F.pad(documents_MBS, rest)
        return self._run(inputs_MBS, labels_MBS, documents_MBS, forward_only=True)

    def _state(self, *, is_loading: bool) -> dict[str, Any]:
        names = ["model"] if len(self._chunks) == 1 else [f"model{n}" for n in range(len(self._chunks))]
        models = {name: chunk.sharded_state_dict() for name, chunk in zip(names, self._chunks, strict=True)}
        whole = models if len(models) > 1 else models["model"]
        optimizer = self._optimizer.sharded_state_dict(whole, is_loading=is_loading, metadata=_SHARDING)
        return {**models, "optimizer": optimizer}

    def save(self, folder: Path, *, background: bool = False) -> Writing:
        """Begin to write weights and optimizer state; every process calls it with the same empty folder.

        Raises, then or while it is finished:
            DiskFullError: the disk or quota is used up.
            CheckpointError: it cannot be written for another reason.
        """
        self._finish_param_gather()
        with _saving_errors(folder):
            writing = MegatronWriting(self._state(is_loading=False), folder, background=background)
        return _Explained(writing, folder)

    def _finish_param_gather(self) -> None:
        """Fetch the weights that the other processes updated, if that was left to the next forward pass."""
        if self._overlap_param_gather:
            for chunk in self._ddp:
                chunk.start_param_sync(force_sync=True)

    def load(self, folder: Path) -> None:
        """Read what `save` of either engine wrote, at any layout.

        Raises:
            CheckpointError: the checkpoint holds other tensors than the model has.
        """
        for part in self._optimizer.chained_optimizers:
            _make_states(part.optimizer)
        state = self._read(folder)
        parts = [state[name] for name in sorted(state) if name.startswith("model")]
        for chunk, part in zip(self._chunks, parts, strict=True):
            chunk.load_state_dict(part)
        self._load_optimizer(dict(state["optimizer"]))
        self._fuse_adam()  # a checkpoint brings its own settings

    def _read(self, folder: Path) -> dict[str, Any]:
        if is_whole(folder) or by_distributed_optimizer(folder) != self._distributed_optimizer:
            stored = open_state(folder, self._architecture)
            return fill(self._state(is_loading=True), stored, self._architecture)
        try:
            return dict(dist_checkpointing.load(self._state(is_loading=True), str(folder)))
        except (Exception, CheckpointException) as error:  # as in `save`
            raise CheckpointError(f"{folder}: cannot be loaded ({error})") from error

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        # In two parts: without TransformerEngine the library's own load_state_dict looks for Adam's
        # step among the tensors of the checkpoint, where it is not.
        tensors = state.pop("param_state", None)
        if tensors is None:
            self._optimizer.load_state_dict(state)
            return
        del state["param_state_sharding_type"]
        (part,) = self._optimizer.chained_optimizers  # more than one only with experts
        part.load_state_dict(state)
        states = part.optimizer.state.values()
        steps = [own.pop("step", None) for own in states]
        part.load_parameter_state_from_fully_reshardable(tensors)
        for own, step in zip(states, steps, strict=True):
            own.update({} if step is None else {"step": step.clone()})  # the library gives all the same one


class _Explained:
    """A `Writing` whose errors are those of this project."""

    def __init__(self, writing: MegatronWriting, folder: Path) -> None:
        self._writing, self._folder = writing, folder
        self.done = writing.done

    def finish(self) -> None:
        with _saving_errors(self._folder):
            self._writing.finish()


_FULL_BELOW = 64 << 20
"""Free bytes under which a save that failed is put down to the disk."""


@contextmanager
def _saving_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (Exception, CheckpointException) as error:  # the latter, torch's own, is no Exception
        free = shutil.disk_usage(folder).free
        # A full disk reaches us as a broken zip file of torch's writer, without its errno.
        if free < _FULL_BELOW or "quota" in str(error).lower():
            raise DiskFullError(
                f"{folder.parent}: the disk is full ({free / 2**20:.1f} MiB free) or the quota is used up; "
                "free some space and start the same command again, finished checkpoints are kept"
            ) from error
        raise CheckpointError(f"{folder.parent}: cannot save a checkpoint ({error})") from error


def _make_states(optimizer: torch.optim.Optimizer) -> None:
    """Give torch's own Adam the states a checkpoint is loaded into; it has none before its first step."""
    if not isinstance(optimizer, torch.optim.Adam):
        return  # fused ones make theirs when they are made
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def _forward(
    batches: Iterator[tuple[Tensor, Tensor, Tensor | None]], model: torch.nn.Module
) -> tuple[Tensor, Any]:
    inputs_BS, labels_BS, documents_BS = next(batches)
    # Rotary embeddings depend on distances alone, so a document need not begin at position 0.
    positions_BS = torch.arange(inputs_BS.shape[1], device=inputs_BS.device).expand_as(inputs_BS)
    parts = get_batch_on_this_cp_rank({"inputs": inputs_BS, "labels": labels_BS, "positions": positions_BS})
    inputs_BS, labels_BS, positions_BS = parts.values()
    loss_mask_BS = labels_BS != IGNORE
    mask = None if documents_BS is None else document_mask(documents_BS)
    output = model(inputs_BS, positions_BS, attention_mask=mask, labels=labels_BS.clamp(min=0))
    return output, partial(_loss, loss_mask_BS)


def _loss(loss_mask_BS: Tensor, losses_BS: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum of the losses, number of labelled tokens, and both for the log."""
    mask_BS = loss_mask_BS.to(losses_BS.dtype)
    total, tokens = (losses_BS * mask_BS).sum(), loss_mask_BS.sum()
    return total, tokens.int(), {"loss": torch.stack([total.detach(), tokens.to(total.dtype)])}
