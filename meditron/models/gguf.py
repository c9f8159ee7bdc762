"""Reading a Llama out of a GGUF file: shape, weights tensor by tensor, and tokenizer.

GGUF is llama.cpp's format. Its weights may be quantised, its query and key rows are in another
order than Hugging Face's, and the tokenizer is stored as bare lists of tokens and merges.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch

from meditron.errors import InputError
from meditron.files import atomic_write_json, atomic_write_text
from meditron.models.architecture import Architecture

if TYPE_CHECKING:
    import tokenizers
    from tokenizers import pre_tokenizers

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


@dataclass(frozen=True)
class _PreTokenizer:
    """How a byte-level tokenizer cuts text before merging; `tokenizer.ggml.pre` names it."""

    digits_alone: bool = False
    pattern: str | None = None
    """Regular expression of the pieces. None: that of GPT-2."""
    ignore_merges: bool = False


_PRE_TOKENIZERS = {
    "default": _PreTokenizer(),
    "gpt-2": _PreTokenizer(),
    "smollm": _PreTokenizer(digits_alone=True),
    "llama-bpe": _PreTokenizer(
        pattern=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ignore_merges=True,
    ),
}


class GGUFModel:
    """A Llama in a GGUF file; the file is mapped, so only the tensors asked for are read.

    Args:
        file: the `.gguf` file.

    Raises:
        InputError: missing, damaged, not a Llama, or with a part that has no Hugging Face form here.
    """

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)
        self._reader = _open(self._file)
        family = self._field("general.architecture")
        if family != "llama":
            raise InputError(f"{file}: holds a {family!r} model, only llama is supported; choose a Llama")
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture = self._architecture()

    def _field(self, key: str, default: object = None) -> Any:  # noqa: ANN401 - GGUF values
        field = self._reader.get_field(key)
        if field is not None:
            return field.contents()
        if default is None:
            raise InputError(f"{self._file}: {key} is missing; the file is no complete GGUF model")
        return default

    @property
    def license(self) -> str:
        """Licence that the file names."""
        return str(self._field("general.license", "unknown"))

    def _architecture(self) -> Architecture:
        scaling = self._field("llama.rope.scaling.type", "none")
        if scaling not in ("none", "linear") or "rope_freqs.weight" in self._tensors:
            raise InputError(
                f"{self._file}: its rotary scaling cannot be read back exactly from GGUF; "
                "import the Hugging Face folder of the model instead"
            )
        heads = int(self._field("llama.attention.head_count"))
        hidden = int(self._field("llama.embedding_length"))
        linear = {"rope_type": "linear", "factor": _decimal(self._field("llama.rope.scaling.factor", 1.0))}
        return Architecture(
            vocab_size=int(self._tensor("token_embd.weight").shape[1]),
            hidden_size=hidden,
            intermediate_size=int(self._field("llama.feed_forward_length")),
            num_hidden_layers=int(self._field("llama.block_count")),
            num_attention_heads=heads,
            num_key_value_heads=int(self._field("llama.attention.head_count_kv", heads)),
            head_dim=int(self._field("llama.attention.key_length", hidden // heads)),
            max_position_embeddings=int(self._field("llama.context_length")),
            rms_norm_eps=_decimal(self._field("llama.attention.layer_norm_rms_epsilon")),
            rope_theta=_decimal(self._field("llama.rope.freq_base", 10000.0)),
            rope_scaling=linear if scaling == "linear" else None,
            tie_word_embeddings="output.weight" not in self._tensors,
            token_ids=self._token_ids(),
        )

    def _token_ids(self) -> dict[str, int]:
        names = {"bos": "bos", "eos": "eos", "padding": "pad"}
        found = {role: self._field(f"tokenizer.ggml.{name}_token_id", -1) for name, role in names.items()}
        return {f"{role}_token_id": int(index) for role, index in found.items() if index >= 0}

    def _tensor(self, name: str) -> gguf.ReaderTensor:
        if name not in self._tensors:
            raise InputError(f"{self._file}: the tensor {name} is missing; download the file again")
        return self._tensors[name]

    def tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and weights of each tensor of the `LlamaForCausalLM`, one at a time.

        Args:
            dtype: number format to convert to. Default: float32.
        """
        for name, tensor in self._tensors.items():
            weights = self._dequantise(tensor)
            if name.endswith(("attn_q.weight", "attn_k.weight")):
                weights = unpermute(weights, self.architecture.head_dim)
            yield self._hugging_face_name(name), torch.from_numpy(weights).to(dtype or torch.float32)

    def _hugging_face_name(self, name: str) -> str:
        if name in _NAMES:
            return _NAMES[name]
        block, layer, *part = name.split(".")
        if block != "blk" or len(part) != 2 or part[0] not in _LAYER_NAMES or part[1] != "weight":
            raise InputError(
                f"{self._file}: the tensor {name} belongs to no plain Llama; choose a model without it"
            )
        return f"model.layers.{layer}.{_LAYER_NAMES[part[0]]}.weight"

    def _dequantise(self, tensor: gguf.ReaderTensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        try:
            weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise InputError(
                f"{self._file}: {tensor.name} is stored as {tensor.tensor_type.name}, which cannot be "
                "dequantised; choose another quantisation, such as Q8_0"
            ) from None
        return np.ascontiguousarray(weights, dtype=np.float32).copy()  # the file is mapped read-only

    def save_tokenizer(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and, where there is one, the chat template.

        Raises:
            InputError: it is no byte-level BPE tokenizer of a known kind.
        """
        tokens = self._field("tokenizer.ggml.tokens")
        atomic_write_text(folder / "tokenizer.json", self._tokenizer(tokens).to_str(pretty=True))
        roles = {role.removesuffix("_id"): tokens[index] for role, index in self._token_ids().items()}
        atomic_write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": self.architecture.max_position_embeddings,
                "clean_up_tokenization_spaces": False,
                **roles,
            },
        )
        template = self._field("tokenizer.chat_template", "")
        if template:
            atomic_write_text(folder / "chat_template.jinja", template)

    def _tokenizer(self, tokens: list[str]) -> "tokenizers.Tokenizer":
        from tokenizers import AddedToken, Tokenizer, decoders, models

        pre = self._pre_tokenizer()
        merges = [tuple(merge.split(" ", 1)) for merge in self._field("tokenizer.ggml.merges")]
        vocab = {token: index for index, token in enumerate(tokens)}
        try:
            bpe = models.BPE(vocab=vocab, merges=merges, fuse_unk=False, ignore_merges=pre.ignore_merges)
        except Exception as error:  # the Rust library raises nothing narrower
            raise InputError(f"{self._file}: its tokenizer is damaged ({error}); download it again") from None
        tokenizer = Tokenizer(bpe)
        tokenizer.pre_tokenizer = _splitter(pre)
        tokenizer.decoder = decoders.ByteLevel()
        kinds = self._field("tokenizer.ggml.token_type", [1] * len(tokens))
        for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
            chosen = [token for token, found in zip(tokens, kinds, strict=True) if found == kind]
            tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in chosen])
        return tokenizer

    def _pre_tokenizer(self) -> _PreTokenizer:
        model = self._field("tokenizer.ggml.model")
        name = self._field("tokenizer.ggml.pre", "default")
        if model != "gpt2" or name not in _PRE_TOKENIZERS:
            raise InputError(
                f"{self._file}: its tokenizer ({model}, {name}) cannot be rebuilt exactly from GGUF; "
                "import the Hugging Face folder of the model instead"
            )
        return _PRE_TOKENIZERS[name]


def unpermute(
    weights: np.ndarray[Any, np.dtype[np.float32]], head_dim: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Bring the rows of a query or key projection, [heads * head_dim, hidden], to Hugging Face's order.

    llama.cpp rotates neighbouring pairs of a head's rows, Hugging Face rotates row i with row
    i + head_dim / 2.
    """
    heads = weights.shape[0] // head_dim
    pairs = weights.reshape(heads, head_dim // 2, 2, weights.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weights.shape))


def _open(file: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(file)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; give the path of a .gguf file") from None
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise InputError(f"{file}: no whole GGUF file ({error}); download it again") from None


def _decimal(value: float) -> float:
    """The shortest decimal that a stored float32 stands for: 9.99999975e-06 is 1e-05."""
    return float(str(np.float32(value)))


def _splitter(pre: _PreTokenizer) -> "pre_tokenizers.PreTokenizer":
    from tokenizers import Regex, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.pattern is None)
    if pre.pattern is not None:
        split = pre_tokenizers.Split(Regex(pre.pattern), behavior="isolated", invert=False)
        return pre_tokenizers.Sequence([split, byte_level])
    if pre.digits_alone:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def generation_config(token_ids: Mapping[str, int]) -> str:
    """`generation_config.json` of a model that samples nothing unless asked."""
    return json.dumps({"_from_model_config": True, **token_ids}, indent=2) + "\n"
