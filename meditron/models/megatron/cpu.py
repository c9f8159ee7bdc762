# ruff: noqa: ANN401 - stands in for calls of any type
"""Megatron-core without a GPU: its CUDA calls are redirected to the CPU, and to gloo by the caller.

For development and continuous integration. Nothing here touches a machine that has a GPU.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Modules of megatron-core 0.16 on the training path that write device="cuda" out, or pin memory.
_MODULES_NAMING_CUDA = (
    "megatron.core.dist_checkpointing.exchange_utils",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    "megatron.core.distributed.param_and_grad_buffer",
    "megatron.core.models.common.embeddings.rope_utils",
    "megatron.core.optimizer.clip_grads",
    "megatron.core.optimizer.grad_scaler",
    "megatron.core.optimizer.optimizer",
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.tensor_parallel.data",
    "megatron.core.utils",
)
_CPU = torch.device("cpu")
_redirected = False


class _Torch:
    """The `torch` module for those modules: factories asked for a CUDA tensor make a CPU tensor."""

    _FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "empty_like", "zeros_like")

    def __init__(self) -> None:
        for name in self._FACTORIES:
            setattr(self, name, _on_cpu(getattr(torch, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _Stream:
    """A stream or event of a device that runs everything in order: waiting is done already."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def _done(self, *_: object, **__: object) -> None:
        pass

    wait_stream = wait_event = record_event = record = wait = synchronize = _done


def redirect_cuda_to_cpu() -> None:
    """Make megatron-core's CUDA calls work on the CPU; does nothing where CUDA is available.

    Process-wide and idempotent. Call it before a Megatron model is built.
    """
    global _redirected
    if _redirected or torch.cuda.is_available():
        return
    _redirect_device_calls()
    _redirect_random_state()
    _redirect_tensor_methods()
    for name in _MODULES_NAMING_CUDA:
        importlib.import_module(name).torch = _Torch()  # type: ignore[attr-defined]
    _redirected = True


def _redirect_device_calls() -> None:
    # Megatron passes current_device() straight on as device=..., so the CPU device itself is the answer.
    replacements: dict[str, Any] = {
        "current_device": lambda: _CPU,
        "current_stream": _Stream,
        "default_stream": _Stream,
        "Stream": _Stream,
        "Event": _Stream,
        "stream": lambda _stream: contextlib.nullcontext(),
        "set_device": lambda _device: None,
        "synchronize": lambda _device=None: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda _device=None: 0,
        "max_memory_allocated": lambda _device=None: 0,
        "memory_reserved": lambda _device=None: 0,
        "manual_seed": torch.manual_seed,
        "get_rng_state": lambda _device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, _device=None: torch.set_rng_state(state),
    }
    for name, replacement in replacements.items():
        setattr(torch.cuda, name, replacement)


def _redirect_random_state() -> None:
    from megatron.core.tensor_parallel import random

    def get_state(device: object = None, clone: bool = False, graph_safe: bool = False) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(new_state: torch.Tensor, device: object = None, graph_safe: bool = False) -> None:
        torch.set_rng_state(new_state)

    random._get_cuda_rng_state = get_state
    random._set_cuda_rng_state = set_state


def _redirect_tensor_methods() -> None:
    name_or_cast = torch.Tensor.type

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # The optimizer tells precisions apart by names such as "torch.cuda.FloatTensor".
        result = name_or_cast(self, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.") if isinstance(result, str) else result

    def stay(self: Any, *_: object, **__: object) -> Any:
        return self

    torch.Tensor.type = type_  # type: ignore[assignment,method-assign]
    torch.Tensor.cuda = stay  # type: ignore[method-assign]
    torch.nn.Module.cuda = stay  # type: ignore[method-assign]


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        on_cuda = device is not None and torch.device(device).type == "cuda"
        return factory(*args, device=_CPU if on_cuda else device, **kwargs)

    return make


def training_device() -> torch.device:
    """The device this process computes on: its CUDA device, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else _CPU


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Import megatron-core without its warnings that TransformerEngine and Apex are not installed.

    And without torch's compiler, which is most of the time of that import: Megatron's fused functions are
    compiled when they are first called.
    """
    import warnings

    compile_now = torch.compile
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Transformer Engine.*")
        warnings.filterwarnings("ignore", message=".*Apex.*")
        torch.compile = _compiled_at_first_call  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.compile = compile_now


def _compiled_at_first_call(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
    """What `torch.compile` makes of a function, or of one that follows, but made when it is first called."""
    if function is None:
        return functools.partial(_compiled_at_first_call, **settings)

    @functools.cache
    def compiled() -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(function, **settings)
        return made

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return compiled()(*arguments, **named)

    return call
