"""The shape of a plain Llama: read from and written to a Hugging Face `config.json`, or a preset."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.config.check import suggest
from meditron.errors import ConfigError, InputError
from meditron.models.options import ModelOption, options_from_hf

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes and constants of a Llama; the names are those of `transformers.LlamaConfig`."""

    vocab_size: int
    """Rows of the embedding."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width inside the SwiGLU MLP."""
    num_hidden_layers: int
    """Transformer layers."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key and value heads; fewer than query heads is grouped-query attention."""
    head_dim: int
    """Width of one head."""
    max_position_embeddings: int = 4096
    """Longest sequence in tokens the model is meant for."""
    rms_norm_eps: float = 1e-5
    """Epsilon of RMSNorm."""
    rope_theta: float = 10000.0
    """Base of the rotary embedding."""
    rope_scaling: dict[str, Any] | None = None
    """Scaling of the rotary frequencies, as transformers writes it: `rope_type` linear or llama3 and
    their constants. None: no scaling."""
    tie_word_embeddings: bool = False
    """Whether input and output embedding are one matrix."""
    initializer_range: float = 0.02
    """Standard deviation of a fresh model's weights."""
    token_ids: dict[str, Any] = field(default_factory=dict)
    """`bos_token_id`, `eos_token_id`, `pad_token_id` as the config has them."""
    options: tuple[ModelOption, ...] = ()
    """Options that make it more than a plain Llama; see `meditron.models.options`."""

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"model: {self.num_attention_heads} query heads do not divide into "
                f"{self.num_key_value_heads} key/value heads; correct num_key_value_heads in config.json"
            )

    @property
    def num_parameters(self) -> int:
        """Parameters, embeddings included, a tied one counted once."""
        attention = (
            self.hidden_size * self.head_dim * (self.num_attention_heads * 2 + self.num_key_value_heads * 2)
        )
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + self.hidden_size

    def flops_per_token(self, sequence_length: int) -> float:
        """Model FLOP of forward and backward for one token, without recomputation.

        `6 (N - N_embedding) + 6 L s H d`: 6 per weight that multiplies (PaLM, arXiv 2204.02311,
        appendix B), the output layer counted and the input look-up not, and causal attention at half
        of its full square.
        """
        lookup = self.vocab_size * self.hidden_size * (0 if self.tie_word_embeddings else 1)
        attention = self.num_hidden_layers * sequence_length * self.num_attention_heads * self.head_dim
        return 6.0 * (self.num_parameters - lookup) + 6.0 * attention

    def with_vocab_size(self, vocab_size: int) -> "Architecture":
        """The same model with another number of embedding rows."""
        return replace(self, vocab_size=vocab_size)

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """`config.json` of the model of this shape, with weights in `dtype`; without options it is a
        `LlamaForCausalLM`."""
        rope: dict[str, Any] = {"rope_type": "default", **(self.rope_scaling or {})}
        rope["rope_theta"] = self.rope_theta
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "use_cache": True,
            "dtype": dtype,
            **self.token_ids,
            **{key: value for option in self.options for key, value in option.hf_config().items()},
        }

    def insert(self, inputs: "Tensor", labels: "Tensor", ignore: int) -> "tuple[Tensor, Tensor]":
        """Tokens [M, B, S] and labels as the model's options take them; `ignore` is a label without loss."""
        for option in self.options:
            inputs, labels = option.insert(inputs, labels, ignore)
        return inputs, labels


_REFUSED = {"attention_bias": "biases in attention", "mlp_bias": "biases in the MLP"}
_ROPE_TYPES = ("default", "linear", "llama3")


def from_hf(config: dict[str, Any], where: str) -> Architecture:
    """The shape in a Hugging Face `config.json`.

    Raises InputError, naming `where`, when the model is no plain Llama.
    """
    options = options_from_hf(config)
    if config.get("model_type") != "llama" and not options:
        raise InputError(f"{where}: model_type {config.get('model_type')!r} is no Llama; choose a Llama base")
    for key, what in _REFUSED.items():
        if config.get(key):
            raise InputError(f"{where}: {key} is set, but {what} are not supported; choose another base")
    try:
        heads = config["num_attention_heads"]
        theta, scaling = _rope(config, where)
        return Architecture(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            max_position_embeddings=config.get("max_position_embeddings", 2048),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            initializer_range=config.get("initializer_range", 0.02),
            token_ids={key: config[key] for key in _TOKEN_IDS if config.get(key) is not None},
            options=options,
        )
    except KeyError as error:
        raise InputError(f"{where}: {error.args[0]} is missing; it is no Llama config.json") from None


_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _rope(config: dict[str, Any], where: str) -> tuple[float, dict[str, Any] | None]:
    # transformers 5 writes rope_parameters (theta included); before, rope_theta and rope_scaling.
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", config.get("rope_theta", 10000.0))
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    parameters.pop("type", None)
    if kind not in _ROPE_TYPES:
        raise InputError(
            f"{where}: rope scaling {kind!r} is not supported; known are {', '.join(_ROPE_TYPES)}"
        )
    return float(theta), None if kind == "default" else {**parameters, "rope_type": kind}


def read_architecture(folder: str | Path) -> Architecture:
    """The shape of the Hugging Face model in `folder`; raises InputError when it is not readable."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the folder of a Hugging Face model") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); download the model again") from None
    return from_hf(config, str(path))


_LLAMA2: dict[str, Any] = {
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "token_ids": {"bos_token_id": 1, "eos_token_id": 2},
}
_LLAMA3: dict[str, Any] = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "token_ids": {"bos_token_id": 128000, "eos_token_id": 128001},
}
_LLAMA3_1: dict[str, Any] = {
    **_LLAMA3,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
_LLAMA3_8B: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
_LLAMA3_70B: dict[str, Any] = {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip

PRESETS: dict[str, Architecture] = {
    # Llama 2, arXiv 2307.09288 and the config.json of its releases.
    "llama2-7b": Architecture(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, head_dim=128, **_LLAMA2,
    ),
    "llama2-13b": Architecture(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40,
        num_key_value_heads=40, head_dim=128, **_LLAMA2,
    ),
    "llama2-70b": Architecture(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, head_dim=128, **_LLAMA2,
    ),
    # Llama 3 and 3.1, arXiv 2407.21783 and the config.json of their releases.
    "llama3-8b": Architecture(**_LLAMA3_8B, **_LLAMA3),
    "llama3-70b": Architecture(**_LLAMA3_70B, **_LLAMA3),
    "llama3.1-8b": Architecture(**_LLAMA3_8B, **_LLAMA3_1),
    "llama3.1-70b": Architecture(**_LLAMA3_70B, **_LLAMA3_1),
    # arXiv 2502.02737 and its config.json.
    "smollm2-135m": Architecture(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, head_dim=64, max_position_embeddings=8192,
        rope_theta=100000.0, tie_word_embeddings=True, initializer_range=0.041666666666666664,
        token_ids={"bos_token_id": 0, "eos_token_id": 0},
    ),
    # For tests and first tries.
    "tiny": Architecture(
        vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
        token_ids={"bos_token_id": 1, "eos_token_id": 2},
    ),
}  # fmt: skip

RELEASES: dict[str, str] = {
    "meta-llama/Llama-2-7b-hf": "llama2-7b",
    "meta-llama/Llama-2-13b-hf": "llama2-13b",
    "meta-llama/Llama-2-70b-hf": "llama2-70b",
    "meta-llama/Meta-Llama-3-8B": "llama3-8b",
    "meta-llama/Meta-Llama-3-70B": "llama3-70b",
    "meta-llama/Llama-3.1-8B": "llama3.1-8b",
    "meta-llama/Llama-3.1-70B": "llama3.1-70b",
    "HuggingFaceTB/SmolLM2-135M": "smollm2-135m",
}
"""Names on the hub and the preset of the same shape, to reckon with before anything is downloaded."""


def find_architecture(base: str) -> Architecture:
    """The shape that `model.base` means: a preset's, or that of a Hugging Face folder.

    Raises ConfigError when it is neither.
    """
    if base in PRESETS:
        return PRESETS[base]
    if Path(base).is_dir():
        return read_architecture(base)
    raise ConfigError(
        f"model.base: {base!r} is neither a folder nor a preset{suggest(base, PRESETS)}; "
        f"presets: {', '.join(PRESETS)}"
    )


def with_options(architecture: Architecture, options: tuple[ModelOption, ...]) -> Architecture:
    """The model that is to be trained: the base model with the options of the recipe.

    Raises:
        ConfigError: the base model has options already.
    """
    if options and architecture.options:
        names = ", ".join(option.name for option in architecture.options)
        raise ConfigError(f"model.options: model.base has the options {names} already; leave them out")
    for option in options:
        architecture = option.extend(architecture)
    return architecture
