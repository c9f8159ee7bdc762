"""Configuration of trying a model."""

from dataclasses import dataclass
from typing import Literal

from meditron.config.check import require


@dataclass(kw_only=True)
class GenerateConfig:
    """Text from a model, for a person to look at."""

    model: str | None = None
    """Hugging Face folder. Default: what `finetune` wrote, else what `export` wrote, else `model.base`."""
    prompt: str | None = None
    """Text to answer or go on from. Default: what is piped in; on a terminal, one line after the
    other."""
    system: str | None = None
    """Instruction that a conversation begins with; needs a chat template. Default: none."""
    chat: Literal["auto", "always", "never"] = "auto"
    """Whether the prompt is a turn of a conversation, written in the tokenizer's chat template; `auto`: where
    the tokenizer has one."""
    max_new_tokens: int = 256
    """Longest answer in tokens."""
    temperature: float = 0.7
    """Sharpness of the sampling; 0 takes the most likely token each time."""
    top_p: float = 0.9
    """Sampling is from the fewest tokens whose probabilities sum up to this; 1 for all tokens."""
    seed: int | None = None
    """Seed of the sampling. Default: the recipe's."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the computation; `auto`: float32 on a CPU, bfloat16 on a GPU."""
    device: str = "auto"
    """Device as torch names it, such as `cpu` or `cuda:1`; `auto`: the first GPU where there is one."""
    trust_remote_code: bool = False
    """Run the modelling file that a model folder brings; needed for models with options of their own."""

    def __post_init__(self) -> None:
        require(
            self.max_new_tokens >= 1, "generate.max_new_tokens", self.max_new_tokens, "must be at least 1"
        )
        require(self.temperature >= 0, "generate.temperature", self.temperature, "must be at least 0")
        require(0 < self.top_p <= 1, "generate.top_p", self.top_p, "must be above 0 and at most 1")
