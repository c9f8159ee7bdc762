"""A Llama as a Megatron-core `GPTModel`, on CPU and GPU, under tensor and pipeline parallelism.

Shapes: s sequence, b batch, h hidden, v vocabulary of this rank.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meditron.config.check import require
from meditron.models.architecture import Architecture
from meditron.models.megatron.attention import CausalAttention
from meditron.models.megatron.cpu import quiet_import
from meditron.models.megatron.cross_entropy import token_cross_entropy
from meditron.models.megatron.fp8 import fp8_linears

with quiet_import():
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.models.gpt import GPTModel
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
    )
    from megatron.core.transformer import ModuleSpec, TransformerConfig
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.transformer_block import (
        TransformerBlockSubmodules,
        get_num_layers_to_build,
    )
    from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules


class RMSNorm(torch.nn.Module):
    """RMSNorm (arXiv 1910.07467) that Megatron can run under sequence parallelism.

    The local spec's own norm refuses it. Computed in fp32, as Llama does.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Megatron sums the gradients of so marked parameters over the tensor-parallel ranks.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x_sbh: Tensor) -> Tensor:
        """Normalise over the last axis."""
        normed = F.rms_norm(x_sbh.float(), (x_sbh.shape[-1],), eps=self.eps)
        return normed.to(x_sbh.dtype) * self.weight


class MegatronLlama(GPTModel):  # type: ignore[misc]
    """`GPTModel` whose loss gives no probability to the padding of the vocabulary.

    Args:
        architecture: the model; its `vocab_size` is the true one.
        gpt_arguments: passed on.
    """

    def __init__(self, architecture: Architecture, **gpt_arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**gpt_arguments)
        self.architecture = architecture
        self._set_rotary_frequencies()

    def _set_rotary_frequencies(self) -> None:
        own = self.rotary_pos_emb.inv_freq
        if self.architecture.rope_scaling is None:
            exponents = torch.arange(0, 2 * own.numel(), 2).float() / (2 * own.numel())
            own.copy_(1.0 / self.architecture.rope_theta**exponents)
            return
        # transformers is the reference for the scaled variants; it takes seconds to import.
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        reference = LlamaRotaryEmbedding(LlamaConfig(**self.architecture.to_hf()))
        assert reference.attention_scaling == 1.0, "Architecture admits no type that scales attention"
        own.copy_(reference.inv_freq)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Cross-entropy of each token in fp32: labels [b, s], logits [s, b, v], result [b, s]."""
        labels_sb = labels.transpose(0, 1).contiguous()
        if parallel_state.get_tensor_model_parallel_world_size() > 1:
            loss_sb = tensor_parallel.vocab_parallel_cross_entropy(self._without_padding(logits), labels_sb)
        else:
            flat = token_cross_entropy(
                logits.flatten(0, 1), labels_sb.flatten(), self.architecture.vocab_size
            )
            loss_sb = flat.view_as(labels_sb)
        loss_bs: Tensor = loss_sb.transpose(0, 1).contiguous()
        return loss_bs

    def _without_padding(self, logits_sbv: Tensor) -> Tensor:
        """This rank's logits, those of the vocabulary's padding at the least value."""
        rank = parallel_state.get_tensor_model_parallel_rank()
        first_padding = self.architecture.vocab_size - rank * logits_sbv.shape[-1]
        if first_padding >= logits_sbv.shape[-1]:
            return logits_sbv
        padding = torch.arange(logits_sbv.shape[-1], device=logits_sbv.device) >= first_padding
        masked: Tensor = logits_sbv.masked_fill(padding, torch.finfo(logits_sbv.dtype).min)
        return masked


def padded_vocab_size(vocab_size: int, multiple: int, tensor_model_parallel_size: int) -> int:
    """Rows of the embedding over all ranks: the next multiple of `multiple` x ranks."""
    unit = multiple * tensor_model_parallel_size
    return -(-vocab_size // unit) * unit


def check_layout(
    architecture: Architecture,
    tensor_model_parallel_size: int,
    pipeline_model_parallel_size: int,
    virtual_pipeline_model_parallel_size: int | None = None,
    context_parallel_size: int = 1,
) -> None:
    """Refuse a cut that does not divide the model, naming what does not divide.

    Raises:
        ConfigError: heads, key/value heads, MLP width or layers are not divisible.
    """
    tp, pp = tensor_model_parallel_size, pipeline_model_parallel_size
    for name, size in (
        ("attention heads", architecture.num_attention_heads),
        ("key/value heads", architecture.num_key_value_heads),
        ("intermediate_size", architecture.intermediate_size),
    ):
        field = "pretrain.parallel.tensor_model_parallel_size"
        require(size % tp == 0, field, tp, f"does not divide the model's {name} ({size})")
    heads = architecture.num_key_value_heads // tp
    field = "pretrain.parallel.context_parallel_size"
    rule = f"does not divide the {heads} key/value heads of a tensor-parallel process"
    require(heads % context_parallel_size == 0, field, context_parallel_size, rule)
    layers = architecture.num_hidden_layers
    field = "pretrain.parallel.pipeline_model_parallel_size"
    require(layers % pp == 0, field, pp, f"does not divide the model's layers ({layers})")
    chunks = virtual_pipeline_model_parallel_size or 1
    field = "pretrain.parallel.virtual_pipeline_model_parallel_size"
    require(
        layers // pp % chunks == 0, field, chunks, f"does not divide the {layers // pp} layers of a stage"
    )


def build_model(architecture: Architecture, *, max_sequence_length: int | None = None) -> MegatronLlama:
    """This rank's part of the model in fp32, not cut into virtual stages; see `build_chunks`."""
    (model,) = build_chunks(architecture, max_sequence_length=max_sequence_length)
    return model


def build_chunks(
    architecture: Architecture,
    *,
    dtype: torch.dtype = torch.float32,
    vocab_padding_multiple: int = 1,
    max_sequence_length: int | None = None,
    **settings: Any,  # noqa: ANN401
) -> list[MegatronLlama]:
    """This rank's part of the model, its weights not yet set: one module a virtual pipeline stage.

    Needs the process groups (`meditron.models.megatron.parallel`).

    Args:
        architecture: the whole model.
        dtype: of the weights.
        vocab_padding_multiple: the embedding's rows are padded to a multiple of this per rank.
        max_sequence_length: default that of the architecture.
        settings: further fields of Megatron's `TransformerConfig`.

    Raises:
        ConfigError: the cut does not divide the model.
    """
    tp = parallel_state.get_tensor_model_parallel_world_size()
    pp = parallel_state.get_pipeline_model_parallel_world_size()
    virtual = parallel_state.get_virtual_pipeline_model_parallel_world_size()
    cp = parallel_state.get_context_parallel_world_size()
    check_layout(architecture, tp, pp, virtual, cp)
    config = _transformer_config(
        architecture,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=virtual,
        context_parallel_size=cp,
        # In one batch, two messages between the same two ranks could be taken for each other.
        overlap_p2p_comm=virtual is not None,
        batch_p2p_comm=virtual is None,
        **settings,
    )
    rows = padded_vocab_size(architecture.vocab_size, vocab_padding_multiple, tp)
    length = max_sequence_length or architecture.max_position_embeddings
    stages: list[int | None] = [None] if virtual is None else list(range(virtual))
    return [_build_chunk(architecture, config, rows, length, stage) for stage in stages]


def _build_chunk(
    architecture: Architecture, config: TransformerConfig, rows: int, length: int, stage: int | None
) -> MegatronLlama:
    where = {"ignore_virtual": False, "vp_stage": stage}
    layers = get_num_layers_to_build(config, vp_stage=stage)
    model = MegatronLlama(
        architecture,
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(
            layer_specs=[_layer_spec(architecture, fp8=bool(config.fp8))] * layers, layer_norm=RMSNorm
        ),
        vocab_size=rows,
        max_sequence_length=length,
        pre_process=parallel_state.is_pipeline_first_stage(**where),
        post_process=parallel_state.is_pipeline_last_stage(**where),
        share_embeddings_and_output_weights=architecture.tie_word_embeddings,
        position_embedding_type="rope",  # MegatronLlama sets the frequencies
        vp_stage=stage,
    )
    _mark_cut_weights(model)
    for option in architecture.options:
        option.adapt_megatron_model(model)
    return model


def _mark_cut_weights(model: torch.nn.Module) -> None:
    """Say which weights are cut over the tensor-parallel ranks; without it gradient norms leave them out.

    Megatron does it while it initialises weights, which is turned off here.
    """
    axes = ((VocabParallelEmbedding, 0), (ColumnParallelLinear, 0), (RowParallelLinear, 1))
    for module in model.modules():
        for kind, axis in axes:
            if isinstance(module, kind) and module.weight is not None:
                tensor_parallel.set_tensor_model_parallel_attributes(module.weight, True, axis, 1)


def _transformer_config(a: Architecture, **settings: Any) -> TransformerConfig:  # noqa: ANN401
    return TransformerConfig(
        num_layers=a.num_hidden_layers,
        hidden_size=a.hidden_size,
        ffn_hidden_size=a.intermediate_size,
        num_attention_heads=a.num_attention_heads,
        num_query_groups=a.num_key_value_heads,
        kv_channels=a.head_dim,
        layernorm_epsilon=a.rms_norm_eps,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=a.initializer_range,
        perform_initialization=False,  # weights are always loaded, see meditron.models.megatron.weights
        calculate_per_token_loss=True,
        cuda_graph_scope=[],
        # Fused kernels need a GPU; torch.nn.functional's own are used where there is none.
        bias_activation_fusion=torch.cuda.is_available(),
        bias_dropout_fusion=torch.cuda.is_available(),
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        **settings,
    )


def _layer_spec(architecture: Architecture, *, fp8: bool) -> ModuleSpec:
    column, row = fp8_linears() if fp8 else (ColumnParallelLinear, RowParallelLinear)
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=column,
            core_attention=CausalAttention,
            linear_proj=row,
            q_layernorm=IdentityOp,
            k_layernorm=IdentityOp,
        ),
    )
    mlp = ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=column, linear_fc2=row))
    spec = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )
    for option in architecture.options:
        spec = option.adapt_layer_spec(spec)
    return spec


for _message in (
    ".*barrier.*device under current context.*",
    ".*grad attribute of a Tensor that is not a leaf.*",
    ".*torch.distributed.(reduce_scatter|all_gather_into)_tensor. is deprecated.*",
):  # of megatron-core's own code, not of its user's
    warnings.filterwarnings("ignore", message=_message)
