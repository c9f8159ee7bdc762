"""What a recipe's pretraining needs, by arithmetic: memory of a process, checkpoints, FLOPs."""

from dataclasses import dataclass

from launch.memory import activation_bytes
from meditron.config import ModelConfig, PretrainConfig
from meditron.models.architecture import Architecture

BUCKET = 500_000_000
"""Gradients that DeepSpeed reduces in one message, at most (its `reduce_bucket_size`)."""
GATHERED = 1_000_000_000
"""Weights that ZeRO 3 keeps gathered, at most (its `stage3_max_live_parameters`)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Sizes in bytes on the device, without the working memory of the libraries."""

    parameters: int
    """Of the whole model, embedding rows not padded."""
    rank_parameters: int
    """Of the process that holds most."""
    weights: int
    """Bytes of its weights."""
    gradients: int
    """Bytes of its gradients, which are summed in fp32."""
    optimizer: int
    """Bytes of its optimizer states, and of the fp32 master weights in bf16 and under ZeRO."""
    buffers: int
    """Bytes of DeepSpeed's messages under way, and of the weights that ZeRO 3 gathers to compute with."""
    activations: int
    """Bytes that its forward passes keep for the backward ones."""
    formulas: dict[str, str]
    """How each of these was reckoned."""
    checkpoint: int
    """Bytes of one checkpoint on disk."""
    tokens: int
    """Of the whole run."""
    flops: float
    """Model FLOPs of the whole run."""

    @property
    def rank_bytes(self) -> int:
        """All of the above for one process."""
        return self.weights + self.gradients + self.optimizer + self.buffers + self.activations


def estimate(architecture: Architecture, model: ModelConfig, config: PretrainConfig) -> Estimate:
    """Reckon what pretraining `architecture` under `config` needs."""
    layout, zero = config.parallel, config.deepspeed
    bf16 = config.precision == "bf16"
    stage, is_zero = zero_stage(config), config.engine == "deepspeed" and config.deepspeed.zero_stage > 0
    # Adam keeps two fp32 moments; in bf16 and under ZeRO there is an fp32 copy of the weights as well.
    weight, gradient, state = (2 if bf16 else 4), 4, (12 if bf16 or is_zero else 8)
    gradient += 2 if bf16 and is_zero and stage == 1 else 0  # DeepSpeed keeps those in bf16 beside the sums
    data = layout.data_parallel_size * layout.context_parallel_size
    shares = [data if stage >= least else 1 for least in (3, 2, 1)]
    mine = rank_parameters(architecture, model, config)
    tokens = config.train_steps * config.global_batch_size * config.sequence_length
    return Estimate(
        parameters=architecture.num_parameters,
        rank_parameters=mine,
        weights=weight * mine // shares[0] if zero.offload_parameters == "none" else 0,
        gradients=gradient * mine // shares[1],
        optimizer=state * mine // shares[2] if zero.offload_optimizer == "none" else 0,
        buffers=buffer_elements(config, mine) * weight,
        activations=activation_bytes(architecture, model, config),
        formulas={
            "weights": _share(weight, shares[0], zero.offload_parameters),
            "gradients": _share(gradient, shares[1]),
            "optimizer": _share(state, shares[2], zero.offload_optimizer),
            **({"buffers": f"messages and gathered weights, {weight} bytes each"} if is_zero else {}),
            "activations": f"{config.micro_batch_size} x {config.sequence_length:,} tokens, "
            f"recompute {config.recompute}",
        },
        checkpoint=(weight + state if config.engine == "megatron" else 12) * architecture.num_parameters,
        tokens=tokens,
        flops=tokens * architecture.flops_per_token(config.sequence_length),
    )


def buffer_elements(config: PretrainConfig, parameters: int) -> int:
    """Weights and gradients that DeepSpeed holds for a while, besides those that are a process' own."""
    stage = config.deepspeed.zero_stage if config.engine == "deepspeed" else 0
    gathered = min(parameters, GATHERED) if stage == 3 else 0
    if stage == 0 or (stage == 1 and config.precision == "bf16"):
        return gathered
    doubled = stage == 3 or config.deepspeed.overlap_comm  # ZeRO 3: as measured
    return gathered + min(parameters, BUCKET) * (2 if doubled else 1)


def zero_stage(config: PretrainConfig) -> int:
    """What is shared out over the data-parallel processes, counted as ZeRO does (arXiv 1910.02054)."""
    if config.engine == "deepspeed":
        return config.deepspeed.zero_stage
    return 1 if config.parallel.distributed_optimizer else 0


def _share(bytes_each: int, parts: int, offloaded: str = "none") -> str:
    share = f"{bytes_each} P" + (f" / {parts} (data-parallel)" if parts > 1 else "")
    return share if offloaded == "none" else f"{share} are offloaded to {offloaded}"


def rank_parameters(architecture: Architecture, model: ModelConfig, config: PretrainConfig) -> int:
    """Parameters of the process that holds most: of the first or of the last pipeline stage."""
    tensor = config.parallel.tensor_model_parallel_size
    stages = config.parallel.pipeline_model_parallel_size
    a = architecture
    multiple = model.vocab_padding_multiple * tensor
    rows = -(-a.vocab_size // multiple) * multiple
    embedding = rows // tensor * a.hidden_size
    attention = a.hidden_size * a.head_dim * 2 * (a.num_attention_heads + a.num_key_value_heads)
    matrices = attention + 3 * a.hidden_size * a.intermediate_size
    layers = -(-a.num_hidden_layers // stages) * (matrices // tensor + 2 * a.hidden_size)
    if stages == 1:
        return layers + embedding * (1 if a.tie_word_embeddings else 2) + a.hidden_size
    return layers + embedding + a.hidden_size  # the last stage: output layer (or its tied copy) and norm
