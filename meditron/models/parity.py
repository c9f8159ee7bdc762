"""Proof that the Megatron form of a model computes what the Hugging Face form computes.

Both are run a layer at a time, so that a comparison holds two layers and not two models; options that change
how layers are put together need whole ones.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meditron.errors import InputError, MeditronError, ParityError
from meditron.manifest import MANIFEST, package_versions, read_manifest
from meditron.models.architecture import Architecture, read_architecture
from meditron.models.safetensors_folder import FolderWeights

TOLERANCE = 1e-4
"""Largest absolute difference of fp32 logits that counts as equal."""
SEQUENCE_LENGTH = 64
COMPUTING = ("meditron", "torch", "transformers", "megatron-core")
"""Packages whose version decides whether a comparison still holds."""
ParameterReader = Callable[[str, torch.Size], Tensor]


def probe_tokens(architecture: Architecture) -> Tensor:
    """Random token ids, the same each time: [2, 64], longer where an option shows only in longer ones."""
    generator = torch.Generator().manual_seed(0)
    length = max((option.probe_length for option in architecture.options), default=0)
    length = min(max(length, SEQUENCE_LENGTH), architecture.max_position_embeddings)
    return torch.randint(architecture.vocab_size, (2, length), generator=generator)


@torch.no_grad()
def huggingface_logits(folder: str | Path, tokens: Tensor) -> Tensor:
    """Logits of the folder's model by transformers' own layers: tokens [b, s] to fp32 [b, s, vocabulary]."""
    architecture = read_architecture(folder)
    layerwise = all(option.layerwise for option in architecture.options)
    logits = _huggingface_by_layers if layerwise else _huggingface_whole
    return logits(architecture, FolderWeights(folder), tokens)


def _huggingface_whole(architecture: Architecture, weights: FolderWeights, tokens: Tensor) -> Tensor:
    from transformers import LlamaConfig, LlamaForCausalLM

    model: Any = LlamaForCausalLM(LlamaConfig(**architecture.to_hf()))
    model = model.float().eval()
    for name, parameter in model.named_parameters():
        parameter.copy_(_rows(weights, name, len(parameter)))
    for option in architecture.options:
        option.adapt_hf_model(model)
    logits: Tensor = model(tokens, use_cache=False).logits
    return logits


def _huggingface_by_layers(architecture: Architecture, weights: FolderWeights, tokens: Tensor) -> Tensor:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

    config = LlamaConfig(**architecture.to_hf())
    config._attn_implementation = "sdpa"
    hidden = _rows(weights, "model.embed_tokens.weight", architecture.vocab_size)[tokens]
    positions = torch.arange(tokens.shape[1])[None]
    rotary = LlamaRotaryEmbedding(config)(hidden, positions)
    layer = LlamaDecoderLayer(config, 0).float().eval()
    for option in architecture.options:
        option.adapt_hf_layer(layer)
    for number in range(architecture.num_hidden_layers):
        layer.load_state_dict(_layer_state(layer.state_dict(), number, weights))
        out = layer(hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary)
        hidden = out[0] if isinstance(out, tuple) else out
    norm = LlamaRMSNorm(architecture.hidden_size, architecture.rms_norm_eps)
    norm.weight.copy_(weights.rows("model.norm.weight", 0, architecture.hidden_size))
    head = "model.embed_tokens.weight" if architecture.tie_word_embeddings else "lm_head.weight"
    logits: Tensor = norm(hidden) @ _rows(weights, head, architecture.vocab_size).T
    return logits


def _layer_state(like: Mapping[str, Tensor], number: int, weights: FolderWeights) -> dict[str, Tensor]:
    return {
        name: _rows(weights, f"model.layers.{number}.{name}", len(tensor)) for name, tensor in like.items()
    }


def _rows(weights: FolderWeights, name: str, count: int) -> Tensor:
    return weights.rows(name, 0, count).float()


@torch.no_grad()
def megatron_logits(architecture: Architecture, read: ParameterReader, tokens: Tensor) -> Tensor:
    """Logits of the same model by Megatron's layers; shapes as `huggingface_logits`.

    Args:
        architecture: the whole model.
        read: gives a whole Megatron parameter by its name (layers numbered from 0) and shape.
        tokens: [b, s].
    """
    from meditron.models.megatron.llama import build_model
    from meditron.models.megatron.parallel import alone
    from meditron.models.megatron.weights import global_names

    positions = torch.arange(tokens.shape[1])[None].expand_as(tokens)
    with alone():
        if not all(option.layerwise for option in architecture.options):
            whole = build_model(architecture).eval()
            for name, parameter in global_names(whole):
                parameter.copy_(read(name, parameter.shape))
            logits: Tensor = whole(tokens, positions, attention_mask=None)
            return logits[..., : architecture.vocab_size]
        model = build_model(replace(architecture, num_hidden_layers=1)).eval()
        hidden: Tensor | None = None
        for number in range(architecture.num_hidden_layers):
            for name, parameter in global_names(model, layer_offset=number):
                if number == 0 or name.startswith("decoder.layers."):
                    parameter.copy_(read(name, parameter.shape))
            if hidden is None:
                hidden = model.embedding(input_ids=tokens, position_ids=positions)
                rotary = model.rotary_pos_emb(tokens.shape[1])
            hidden = model.decoder.layers[0](hidden, attention_mask=None, rotary_pos_emb=rotary)[0]
        return _project(model, model.decoder.final_layernorm(hidden), architecture)


def _project(model: torch.nn.Module, hidden: Tensor, architecture: Architecture) -> Tensor:
    tied = architecture.tie_word_embeddings
    weight = model.shared_embedding_or_output_weight() if tied else None  # type: ignore[operator]
    logits_sbv: Tensor = model.output_layer(hidden, weight=weight)[0]  # type: ignore[operator]
    return logits_sbv.transpose(0, 1)[..., : architecture.vocab_size]


def require_equal(reference: Tensor, other: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """Largest absolute difference of two logit tensors.

    Raises:
        ParityError: it is above `tolerance`, or a logit is not finite.
    """
    difference = (reference - other).abs().max().item()
    if not difference <= tolerance:  # also true of NaN
        raise ParityError(
            f"{what}: the logits of the Hugging Face and the Megatron form differ by {difference:.3g} "
            f"(at most {tolerance:g} allowed); the conversion of this model is not to be trusted"
        )
    return difference


def check_parity(folder: str | Path, *, tolerance: float = TOLERANCE) -> float:
    """Compare both forms of the model in a Hugging Face folder, in fp32.

    Returns:
        the largest absolute difference of the logits.

    Raises:
        ParityError: it is above `tolerance`.
        InputError: the folder is no readable Llama.
    """
    from meditron.models.megatron.weights import shard_from_hf

    architecture = read_architecture(folder)
    weights = FolderWeights(folder)
    tokens = probe_tokens(architecture)
    other = megatron_logits(
        architecture, lambda name, shape: shard_from_hf(name, shape, architecture, weights), tokens
    )
    return require_equal(huggingface_logits(folder, tokens), other, str(folder), tolerance)


def was_compared(folder: str | Path) -> bool:
    """Whether the stage that wrote a folder has compared its two forms, with the libraries of now.

    Raises:
        ManifestError: the folder does not match its manifest.
    """
    if not (Path(folder) / MANIFEST).is_file():
        return False
    manifest, here = read_manifest(folder, kind="model"), package_versions()
    same = all(manifest.packages.get(name) == here.get(name) for name in COMPUTING)
    return same and "max_logit_difference" in manifest.extra


def check_parity_apart(folder: str | Path) -> None:
    """`check_parity` in a process of its own, for a process that is already part of a training run.

    Raises:
        ParityError, InputError: as `check_parity`.
    """
    mine = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "meditron.models.parity", str(folder)]
    result = subprocess.run(command, env=mine, capture_output=True, text=True, check=False)
    if result.returncode:
        sentence = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "no message"
        cls = {error.exit_code: error for error in (ParityError, InputError)}.get(
            result.returncode, ParityError
        )
        raise cls(sentence)


if __name__ == "__main__":
    try:
        check_parity(sys.argv[1])
    except MeditronError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
