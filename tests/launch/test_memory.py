"""Activation memory: the arithmetic against the tensors that real passes keep; the layouts it leads to."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from launch.estimate import estimate
from launch.layout import FILL, plans
from launch.memory import activation_bytes, head_bytes, layer_bytes
from launch.speed import slowdown
from meditron.allocation import peak_allocation
from meditron.config import ModelConfig, PretrainConfig
from meditron.config.pretrain import ParallelConfig
from meditron.devices import DEVICES
from meditron.models.architecture import PRESETS, Architecture
from meditron.models.megatron.parallel import alone
from meditron.models.safetensors_folder import RandomWeights

SMALL = Architecture(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=172,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)
MODEL = ModelConfig(vocab_padding_multiple=16)


def kept_bytes(config: PretrainConfig) -> int:
    """Bytes of the tensors that a forward pass saves, weights left out, each memory counted once."""
    from meditron.models.megatron.llama import build_chunks
    from meditron.models.megatron.weights import load_weights
    from pretrain.engines.megatron import _RECOMPUTE

    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    settings: Any = {"vocab_padding_multiple": 16, "max_sequence_length": config.sequence_length}
    (model,) = build_chunks(SMALL, dtype=dtype, **settings, **_RECOMPUTE[config.recompute])
    load_weights(model, SMALL, RandomWeights(SMALL, 1))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    shape = (config.micro_batch_size, config.sequence_length)
    tokens, positions = torch.randint(1000, shape), torch.arange(shape[1]).expand(shape)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(tokens, positions, attention_mask=None, labels=tokens).sum()
    loss.backward()  # the graph stays alive until here, so no memory is counted for two tensors
    return sum(size for place, size in kept.items() if place not in weights)


def test_it_is_what_real_passes_keep() -> None:
    with alone():
        for precision in ("fp32", "bf16"):
            for recompute in ("none", "selective", "full"):
                config = PretrainConfig(
                    precision=precision,  # type: ignore[arg-type]
                    recompute=recompute,  # type: ignore[arg-type]
                    sequence_length=96,
                    micro_batch_size=2,
                )
                # In full recomputation the estimate adds a layer, or the logits where they are larger.
                again = layer_bytes(SMALL, config) if recompute == "full" else 0.0
                head = head_bytes(SMALL, MODEL, config)
                expected = activation_bytes(SMALL, MODEL, config) - max(again, head) + head
                assert kept_bytes(config) == pytest.approx(expected, rel=0.03), (precision, recompute)


@pytest.mark.parametrize(("precision", "recompute"), [("fp32", "none"), ("bf16", "full")])
def test_a_run_takes_the_memory_that_is_reckoned(precision: Any, recompute: Any) -> None:
    """Weights, gradients, optimizer and activations together: the most that the allocator hands out."""
    from pretrain.engines.megatron import MegatronEngine

    deep = replace(SMALL, hidden_size=128, intermediate_size=344, head_dim=32, num_hidden_layers=8)
    config = PretrainConfig(
        precision=precision,
        recompute=recompute,
        sequence_length=128,
        micro_batch_size=2,
        global_batch_size=4,
        parallel=ParallelConfig(distributed_optimizer=False),  # gloo copies what it scatters, NCCL does not
    )
    tokens = torch.randint(1000, (2, 2, 128))

    def train() -> None:
        engine = MegatronEngine(deep, config, MODEL.vocab_padding_multiple)
        engine.build(RandomWeights(deep, 1))
        for _ in range(2):
            engine.update(engine.forward_backward(tokens, tokens), 1e-4)

    with alone():
        most = peak_allocation(train)
    assert estimate(deep, MODEL, config).rank_bytes == pytest.approx(most, rel=0.1)


def test_layouts_cut_it() -> None:
    a = PRESETS["llama2-7b"]

    def needs(**settings: Any) -> int:
        layout = ParallelConfig(**settings)
        return activation_bytes(a, ModelConfig(), PretrainConfig(parallel=layout, global_batch_size=64))

    whole = needs()
    assert needs(tensor_model_parallel_size=4) > whole / 4
    cut = needs(tensor_model_parallel_size=4, sequence_parallel=True)
    assert cut < needs(tensor_model_parallel_size=4)
    assert cut == pytest.approx(whole / 4, rel=0.05)
    # The first stage holds as many micro-batches as there are stages, so nothing but the head is saved.
    assert needs(pipeline_model_parallel_size=4) == pytest.approx(whole, rel=0.05)
    interleaved = needs(pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2)
    assert interleaved == pytest.approx(needs(pipeline_model_parallel_size=4) * (1 + 3 / 8), rel=0.01)
    # There is no more to hold than all micro-batches.
    few = needs(pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2, data_parallel_size=16)
    assert few == needs(pipeline_model_parallel_size=4, data_parallel_size=16)


def config_of(batch: int) -> PretrainConfig:
    return PretrainConfig(global_batch_size=batch, sequence_length=2048)


def test_the_proposed_layouts_fit_and_use_every_device() -> None:
    found = plans(PRESETS["llama2-7b"], ModelConfig(), config_of(512), 16, DEVICES["a100-80gb"], 8)
    assert found
    assert all(plan.config.parallel.world_size == 16 for plan in found)
    assert all(plan.needs.rank_bytes <= FILL * 80e9 for plan in found)
    assert all(plan.config.global_batch_size == 512 for plan in found)
    assert [plan.slowdown for plan in found] == sorted(plan.slowdown for plan in found)


def test_a_large_model_is_cut_and_one_that_is_too_large_has_no_layout() -> None:
    found = plans(PRESETS["llama2-70b"], ModelConfig(), config_of(512), 128, DEVICES["a100-80gb"], 8)
    best = found[0].config.parallel
    assert best.tensor_model_parallel_size * best.pipeline_model_parallel_size >= 8
    assert not plans(PRESETS["llama2-70b"], ModelConfig(), config_of(512), 8, DEVICES["rtx-4090"], 8)


def test_what_costs_time() -> None:
    def time(**settings: Any) -> float:
        recompute = settings.pop("recompute", "none")
        layout = ParallelConfig(**settings)
        config = PretrainConfig(parallel=layout, global_batch_size=16, recompute=recompute)
        return slowdown(config)

    assert time(recompute="full") == pytest.approx(time() * 4 / 3)
    assert time(pipeline_model_parallel_size=4) == pytest.approx(time() * (1 + 3 / 16))
    assert time(tensor_model_parallel_size=2) > time()
