"""Bytes that a training step keeps between its forward and its backward pass, by arithmetic.

The terms are the tensors that Megatron's layers, as `meditron.models.megatron.llama` builds them, and Hugging
Face's save for their gradients; tests/launch/test_memory.py counts these tensors in real passes. e: bytes of
an element.
"""

from meditron.config import ModelConfig, PretrainConfig
from meditron.models.architecture import Architecture


def activation_bytes(architecture: Architecture, model: ModelConfig, config: PretrainConfig) -> int:
    """Bytes at the end of the forward passes of the process that keeps most.

    With `recompute: full` one layer is added, which the backward pass computes again.
    """
    if config.engine == "deepspeed":
        return _hf_activation_bytes(architecture, config)
    layout = config.parallel
    stages = layout.pipeline_model_parallel_size
    layers = architecture.num_hidden_layers // stages
    whole, head = layer_bytes(architecture, config), head_bytes(architecture, model, config)
    kept = _layer_input_bytes(architecture, config) if config.recompute == "full" else whole
    again = whole if config.recompute == "full" else 0
    passes = min(stages * _interleaving(config), config.num_microbatches)
    first = passes * layers * kept + again
    last = layers * kept + max(again, head) if again else layers * kept + head
    return int(max(first, last) if stages > 1 else last)


def layer_bytes(a: Architecture, config: PretrainConfig) -> float:
    """One layer, one micro-batch, one process.

    Norms: input in fp32, normed and scaled; attention: the joint projection, its rotated queries and keys,
    the output and its log-sum-exp; MLP: gate and up, and three products of them.
    """
    e, tensor, sequence = _sizes(config)
    tokens = _tokens(config)
    queries, keys = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    norms = 2 * (4 + 2 * e) * a.hidden_size / sequence + 2 * 4
    products = e * (3 * queries + 3 * keys + 5 * a.intermediate_size) / tensor
    sums = 0.0 if config.recompute == "selective" else 4 * a.num_attention_heads / tensor
    rotary = (
        4 * e * a.head_dim * config.sequence_length / config.parallel.context_parallel_size
    )  # sine and cosine, of queries and of keys
    return tokens * (norms + products + sums) + rotary


def head_bytes(a: Architecture, model: ModelConfig, config: PretrainConfig) -> float:
    """Last norm and logits of one micro-batch."""
    e, tensor, sequence = _sizes(config)
    multiple = model.vocab_padding_multiple * tensor
    rows = -(-a.vocab_size // multiple) * multiple / tensor
    copies = (
        e if tensor == 1 else e + 4
    )  # the loss over tensor-parallel ranks keeps the probabilities in fp32
    per_token = (4 + 2 * e) * a.hidden_size / sequence + copies * rows + 4 + 20  # and labels, sums
    return _tokens(config) * per_token


def _layer_input_bytes(a: Architecture, config: PretrainConfig) -> float:
    e, _, sequence = _sizes(config)
    return _tokens(config) * e * a.hidden_size / sequence


def _tokens(config: PretrainConfig) -> float:
    """Of a micro-batch, on one process."""
    return config.micro_batch_size * config.sequence_length / config.parallel.context_parallel_size


def _sizes(config: PretrainConfig) -> tuple[int, int, int]:
    """Bytes of an element, parts of the cut tensors, parts of those along the sequence."""
    tensor = config.parallel.tensor_model_parallel_size
    sequence = tensor if config.parallel.sequence_parallel else 1
    return 2 if config.precision == "bf16" else 4, tensor, sequence


def _interleaving(config: PretrainConfig) -> float:
    """What interleaved stages keep more (arXiv 2205.05198, section 4.2.3)."""
    stages = config.parallel.pipeline_model_parallel_size
    chunks = config.parallel.virtual_pipeline_model_parallel_size
    return 1 + (stages - 1) / (stages * chunks) if chunks else 1.0


def _hf_activation_bytes(a: Architecture, config: PretrainConfig) -> int:
    """Of Hugging Face's model: what its layers keep, and the most around the loss."""
    e, tokens = _sizes(config)[0], config.micro_batch_size * config.sequence_length
    whole = tokens * hf_layer_bytes(a, e)
    kept = tokens * e * a.hidden_size if config.recompute == "full" else whole
    again = whole if config.recompute == "full" else 0
    return int(a.num_hidden_layers * kept + max(again, tokens * hf_head_bytes(a, e)))


def hf_layer_bytes(a: Architecture, e: int) -> float:
    """One layer, one token.

    Norms as Megatron's; attention: rotated queries and keys, values, the output and its log-sum-exp; MLP:
    gate, its activation, up, and their product.
    """
    queries, keys = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    norms = 2 * (4 + 2 * e) * a.hidden_size + 2 * 4
    return norms + e * (2 * queries + 2 * keys + 4 * a.intermediate_size) + 4 * a.num_attention_heads


def hf_head_bytes(a: Architecture, e: int) -> float:
    """Last norm, and the logits of one token: their log-softmax and its gradient in fp32, and in bf16 the
    gradient of the bf16 logits."""
    copies = 8 if e == 4 else 10
    return (4 + 2 * e) * a.hidden_size + 4 + copies * a.vocab_size
