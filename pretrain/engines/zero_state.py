"""Weights and Adam's moments of a model under ZeRO, whole and in fp32, in and out of safetensors files.

DeepSpeed's own checkpoints are pickles cut for one number of processes and one stage. Here every tensor is
gathered, one at a time, and written by the process whose turn it is: the files fit any layout, and nothing
in them is code.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from meditron.errors import CheckpointError
from meditron.files import atomic_write_json, disk_errors
from meditron.models.stored import KINDS, MOMENTS, STATE, TrainingState


class ZeroState:
    """What a checkpoint holds of an engine.

    Args:
        model: the module that DeepSpeed trains.
        adam: the optimizer given to DeepSpeed.
        optimizer: what DeepSpeed made of it.
    """

    def __init__(self, model: torch.nn.Module, adam: torch.optim.AdamW, optimizer: Any) -> None:  # noqa: ANN401
        self._parameters = dict(model.named_parameters())
        self._adam, self._optimizer = adam, optimizer
        self._is_plain = optimizer is adam

    @property
    def step(self) -> float:
        """Updates that Adam has made."""
        steps = [float(own["step"]) for own in self._adam.state.values() if "step" in own]
        return max(steps, default=0.0)

    def plain_norm(self) -> float | None:
        """Norm of all gradients where there is no ZeRO; None where there is."""
        if not self._is_plain:
            return None
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def gather(self) -> dict[str, Tensor]:
        """This process' share of the whole tensors, by names such as `exp_avg/model.norm.weight`."""
        mine = {}
        ranks, rank = dist.get_world_size(), dist.get_rank()
        for number, (name, parameter) in enumerate(self._parameters.items()):
            for kind in KINDS:
                whole = self._get(parameter, kind)
                if number % ranks == rank:
                    mine[f"{kind}/{name}"] = whole.detach().to("cpu", copy=True).contiguous()
        return mine

    def _get(self, parameter: torch.nn.Parameter, kind: str) -> Tensor:
        if self._is_plain:
            whole: Tensor = parameter.data if kind == "param" else self._adam.state[parameter][kind]
            return whole
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found = (
            safe_get_full_fp32_param(parameter)
            if kind == "param"
            else safe_get_full_optimizer_state(parameter, kind)
        )
        assert isinstance(found, Tensor), f"DeepSpeed has no {kind}"
        return found

    @torch.no_grad()
    def load(self, stored: TrainingState) -> None:
        """Set everything from a checkpoint of either engine.

        Raises:
            CheckpointError: it lacks a tensor, or holds one of another shape.
        """
        self.make_states()
        try:
            for kind in KINDS:
                for name, parameter in self._parameters.items():
                    self._set(parameter, kind, stored.read(kind, name))
        except RuntimeError as error:
            raise CheckpointError(f"{stored.folder}: cannot be loaded ({error})") from error
        for own in self._adam.state.values():
            own["step"] = torch.tensor(float(stored.updates))

    def make_states(self) -> None:
        """Give Adam the moments that it otherwise makes in its first step.

        DeepSpeed asks where they are after the step of the first group of parameters, when those of the
        second would not be there yet.
        """
        plain = [parameter for group in self._adam.param_groups for parameter in group["params"]]
        # ZeRO 3 shows Adam its flat parts only while it steps.
        for parameter in getattr(self._optimizer, "fp32_partitioned_groups_flat", plain):
            own = self._adam.state[parameter]
            own.setdefault("step", torch.zeros(()))
            for kind in MOMENTS:
                own.setdefault(kind, torch.zeros_like(parameter, dtype=torch.float32))
        # ZeRO 1 and 2 would look for them after their first step, a run that goes on needs them before.
        getattr(self._optimizer, "_lazy_init_hp_params_optimizer_state", lambda: None)()

    def _set(self, parameter: torch.nn.Parameter, kind: str, value: Tensor) -> None:
        value = value.to(parameter.device)
        if self._is_plain:
            (parameter.data if kind == "param" else self._adam.state[parameter][kind]).copy_(value)
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if kind != "param":
            safe_set_full_optimizer_state(parameter, value, kind)
            return
        safe_set_full_fp32_param(parameter, value)
        with _whole(parameter):  # that was the optimizer's copy; the weights that compute are others
            parameter.data.copy_(value)


def _whole(parameter: torch.nn.Parameter) -> AbstractContextManager[Any]:
    """Within it the parameter has its whole shape; only ZeRO 3 cuts it."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
    return gathered


class ZeroWriting:
    """Tensors on their way to one file of this process (see `pretrain.engines.Writing`)."""

    def __init__(self, tensors: dict[str, Tensor], step: float, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1)
        self._written = self._pool.submit(self._write, tensors, step)

    def _write(self, tensors: dict[str, Tensor], step: float) -> None:
        path = self._folder / f"state-{dist.get_rank():05d}.safetensors"
        with disk_errors(path):
            save_file(tensors, path)
        if dist.get_rank() == 0:
            atomic_write_json(self._folder / STATE, {"adam_step": step})

    def done(self) -> bool:
        """Whether this process' file is written."""
        return self._written.done()

    def finish(self) -> None:
        """Wait for the files of all processes."""
        self._written.result()
        self._pool.shutdown()
        dist.barrier()
