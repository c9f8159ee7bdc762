"""The DeepSpeed engine: the Hugging Face model under ZeRO (arXiv 1910.02054), states offloaded if wished."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from meditron.config.pretrain import PretrainConfig
from meditron.errors import EnvironmentMissingError
from meditron.models.architecture import Architecture
from meditron.models.safetensors_folder import WeightSource
from meditron.models.stored import open_state
from pretrain.data import IGNORE
from pretrain.engines import StepResult, Writing, document_mask
from pretrain.engines.zero_state import ZeroState, ZeroWriting


def import_deepspeed() -> Any:  # noqa: ANN401 - the library is not typed
    """The package, told to be quiet, and to use the CPU where there is no GPU.

    Raises:
        EnvironmentMissingError: it is not installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        import deepspeed
    except ImportError as error:
        raise EnvironmentMissingError(
            f"pretrain.engine: deepspeed cannot be imported ({error}); "
            "run: pip install 'meditron[deepspeed]', or use the engine megatron"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not torch.cuda.is_available():  # gloo does; this one would be compiled when it is first used
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _local_rank() -> Iterator[None]:
    """DeepSpeed wants LOCAL_RANK even of a process that is alone; others take it for a sign of several."""
    given = "LOCAL_RANK" in os.environ
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        yield
    finally:
        if not given:
            del os.environ["LOCAL_RANK"]


class SkippableAdamW(torch.optim.AdamW):
    """AdamW that leaves out its next step when told so; DeepSpeed has no other way to drop gradients."""

    skip = False

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, or none."""
        return None if self.skip else super().step(closure)


class DeepSpeedEngine:
    """See `pretrain.engines.Engine`; needs an initialised default process group.

    Args:
        architecture: the whole model.
        config: settings of the run.
    """

    def __init__(self, architecture: Architecture, config: PretrainConfig) -> None:
        self._deepspeed = import_deepspeed()
        self._architecture, self._config = architecture, config
        self._check_nvme()
        has_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
        self.data_parallel_rank: int = dist.get_rank()

    def _check_nvme(self) -> None:
        zero = self._config.deepspeed
        wished = "nvme" in (zero.offload_optimizer, zero.offload_parameters)
        if wished and not self._deepspeed.ops.__compatible_ops__["async_io"]:
            raise EnvironmentMissingError(
                "pretrain.deepspeed: offloading to nvme needs DeepSpeed's operator async_io, which cannot be "
                "built here; install libaio with its headers, or offload to cpu"
            )

    def build(self, weights: WeightSource) -> None:
        """Make model and optimizer, filled from Hugging Face tensors."""
        with _local_rank():
            self._build(weights)

    def _build(self, weights: WeightSource) -> None:
        self._deepspeed.init_distributed(dist_backend=None, auto_mpi_discovery=False, verbose=False)
        model = self._model(weights)
        decayed = [p for p in model.parameters() if _rank(p) > 1]
        plain = [p for p in model.parameters() if _rank(p) == 1]
        settings = self._config.optimizer
        self._adam = SkippableAdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_eps,
        )
        self._engine, self._optimizer, _, _ = self._deepspeed.initialize(
            model=model, optimizer=self._adam, config=self._settings()
        )
        self._restore_rotary_frequencies()
        self._state = ZeroState(self._engine.module, self._adam, self._optimizer)
        self._state.make_states()

    def _model(self, weights: WeightSource) -> Any:  # noqa: ANN401 - of transformers
        from transformers import LlamaConfig, LlamaForCausalLM

        settings = {**self._architecture.to_hf(), "attn_implementation": "sdpa", "use_cache": False}
        config = LlamaConfig(**settings)
        dtype = torch.bfloat16 if self._config.precision == "bf16" else torch.float32
        cut = self._config.deepspeed.zero_stage == 3
        zero = self._deepspeed.zero
        # Given a dtype, it takes bf16 on every CPU; without one, that of the settings.
        with zero.Init(config_dict_or_path=self._settings()) if cut else nullcontext():
            model: Any = LlamaForCausalLM(config)
        for option in self._architecture.options:
            option.adapt_hf_model(model)
        model.to(dtype)
        for name, parameter in model.named_parameters():
            with zero.GatheredParameters([parameter], modifier_rank=0) if cut else nullcontext():
                if not cut or dist.get_rank() == 0:
                    parameter.data.copy_(weights.rows(name, 0, parameter.shape[0]))
        if self._config.recompute == "full":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model.to(self.device)

    def _restore_rotary_frequencies(self) -> None:
        """Make them anew in fp32, where Llama computes them: DeepSpeed rounds every buffer to bf16."""
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        inner = self._engine.module.model
        inner.rotary_emb = LlamaRotaryEmbedding(inner.config).to(self.device)

    def _settings(self) -> dict[str, Any]:
        config, zero = self._config, self._config.deepspeed
        optimization: dict[str, Any] = {
            "stage": zero.zero_stage,
            "overlap_comm": zero.overlap_comm and torch.cuda.is_available(),
            # DeepSpeed makes a buffer of this many elements, however small the model is.
            "reduce_bucket_size": min(500_000_000, self._architecture.num_parameters),
        }
        for part, where in (("optimizer", zero.offload_optimizer), ("param", zero.offload_parameters)):
            if where != "none":
                folder = {"nvme_path": zero.nvme_path} if where == "nvme" else {}
                pinned = torch.cuda.is_available()
                optimization[f"offload_{part}"] = {"device": where, "pin_memory": pinned, **folder}
        return {
            "train_micro_batch_size_per_gpu": config.micro_batch_size,
            "gradient_accumulation_steps": config.num_microbatches,
            "gradient_clipping": config.optimizer.clip_grad,
            "bf16": {"enabled": config.precision == "bf16"},
            "data_types": {"grad_accum_dtype": "fp32"} if zero.zero_stage else {},
            "communication_data_type": "fp32",  # gradients would be summed over processes in bf16
            "zero_optimization": optimization,
            "zero_force_ds_cpu_optimizer": False,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }

    def _losses(self, inputs_BS: Tensor, labels_BS: Tensor, documents_BS: Tensor | None) -> Tensor:
        """Sum of the losses of the labelled tokens."""
        mask = None if documents_BS is None else document_mask(documents_BS.to(self.device))
        logits_BSV = self._engine(inputs_BS.to(self.device), attention_mask=mask).logits
        flat = logits_BSV.flatten(0, 1).float()
        labels = labels_BS.to(self.device).flatten()
        return F.cross_entropy(flat, labels, ignore_index=IGNORE, reduction="sum")

    def forward_backward(
        self, inputs_MBS: Tensor, labels_MBS: Tensor, documents_MBS: Tensor | None = None
    ) -> float:
        """Gradients of the mean loss of the global batch; returns that loss."""
        self._engine.train()
        tokens = self._sum((labels_MBS != IGNORE).sum())
        share = dist.get_world_size() / max(float(tokens), 1.0)  # DeepSpeed takes the mean over processes
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        last = len(inputs_MBS) - 1
        for number, (inputs_BS, labels_BS) in enumerate(zip(inputs_MBS, labels_MBS, strict=True)):
            documents_BS = None if documents_MBS is None else documents_MBS[number]
            loss = self._losses(inputs_BS, labels_BS, documents_BS)
            total += loss.detach().double()
            self._engine.set_gradient_accumulation_boundary(number == last)
            self._engine.backward(loss * share, scale_wrt_gas=False)
            if number != last:
                self._engine.step()  # only counts the micro-batch
        return float(self._sum(total)) / max(float(tokens), 1.0)

    def update(self, loss: float, lr: float, *, apply: bool = True) -> StepResult:
        """Apply the gradients at a learning rate, unless loss or norm is not finite on any process."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = self._state.plain_norm()  # None under ZeRO, which finds it while it steps
        self._adam.skip = not (apply and math.isfinite(loss) and math.isfinite(norm or 0.0))
        self._engine.step()
        norm = norm if norm is not None else float(self._engine.get_global_grad_norm())
        applied = not self._adam.skip and not getattr(self._optimizer, "overflow", False)
        return StepResult(loss=loss, grad_norm=norm, applied=applied)

    @torch.no_grad()
    def eval_step(
        self, inputs_MBS: Tensor, labels_MBS: Tensor, documents_MBS: Tensor | None = None
    ) -> tuple[float, int]:
        """Sum of the losses and number of labelled tokens over all processes, without gradients."""
        self._engine.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, (inputs_BS, labels_BS) in enumerate(zip(inputs_MBS, labels_MBS, strict=True)):
            documents_BS = None if documents_MBS is None else documents_MBS[number]
            total += self._losses(inputs_BS, labels_BS, documents_BS).double()
        return float(self._sum(total)), int(self._sum((labels_MBS != IGNORE).sum()))

    def _sum(self, value: Tensor) -> Tensor:
        value = value.to(self.device)
        dist.all_reduce(value)
        return value

    def save(self, folder: Path, *, background: bool = False) -> Writing:
        """Begin to write weights and optimizer state; every process calls it with the same empty folder."""
        return ZeroWriting(self._state.gather(), self._state.step, folder)

    def load(self, folder: Path) -> None:
        """Read what `save` of either engine wrote, at any number of processes and any ZeRO stage.

        Raises:
            CheckpointError: the checkpoint holds other tensors than the model has.
        """
        self._state.load(open_state(folder, self._architecture))


def _rank(parameter: torch.nn.Parameter) -> int:
    """Number of axes; ZeRO 3 keeps the true shape apart."""
    return len(getattr(parameter, "ds_shape", parameter.shape))
