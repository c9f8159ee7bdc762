"""Configuration of landmark attention, and its registration as a model option."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.config.check import require, require_choice
from meditron.models.options.base import ModelOption, register_option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from meditron.config.recipe import Recipe
    from meditron.models.architecture import Architecture
    from meditron.models.safetensors_folder import WeightSource

TOKEN = "<landmark>"
RETRIEVALS = ("head_token", "head", "token")  # of retrieval.py, which imports torch
_PREFIX = "landmark_"
_FOLDER = "model.options.landmark"


@register_option("landmark")
@dataclass(frozen=True, kw_only=True)
class LandmarkConfig(ModelOption):
    """Landmark attention; slots are regular tokens and landmarks together."""

    block_size: int = 63
    """Regular tokens between two landmarks. 50 in the paper; 63 makes blocks of 64 slots, which the GPU
    kernel needs to be a power of two."""
    window: int = 512
    """Trained window in slots: the longest that is attended to as a whole, and the largest distance
    between positions that retrieval uses. A multiple of `block_size` + 1."""
    top_k: int = 4
    """Blocks that a query retrieves outside the training window."""
    retrieval: str = "head_token"
    """Who chooses blocks: each head for each token (`head_token`), each head for all tokens of a chunk
    (`head`), or each token for all heads (`token`)."""
    offload: bool = False
    """Keep the blocks of long inputs in main memory, and only their landmarks' keys on the GPU; best with
    `retrieval: head`."""
    kernel: bool = False
    """Train with the Triton kernels where tensors are on a GPU (engine megatron); `block_size` + 1 must be a
    power of two from 16. They agree with the plain form under Triton's interpreter and were not timed."""
    max_context: int = 32768
    """Longest input in regular tokens that the exported model states (`max_position_embeddings`)."""
    token_id: int | None = None
    """Id of the landmark. Default: the first after the base model's embedding."""

    def __post_init__(self) -> None:
        for name in ("block_size", "top_k", "max_context"):
            require(getattr(self, name) >= 1, f"{_FOLDER}.{name}", getattr(self, name), "must be at least 1")
        require_choice(self.retrieval, RETRIEVALS, f"{_FOLDER}.retrieval")
        block = self.block_size + 1
        rule = f"is no multiple of block_size + 1 = {block}"
        require(self.window % block == 0, f"{_FOLDER}.window", self.window, rule)
        least = (self.top_k + 3) * block
        # One empty slot of the prefix, the retrieved blocks, an unfinished block, and one block of a chunk.
        rule = f"must hold top_k + 3 blocks: {least} slots"
        require(self.window >= least, f"{_FOLDER}.window", self.window, rule)
        fits = block >= 16 and block & (block - 1) == 0
        rule = f"needs block_size + 1 to be a power of two from 16, not {block}; set block_size to 63"
        require(fits or not self.kernel, f"{_FOLDER}.kernel", self.kernel, rule)

    def check_recipe(self, recipe: "Recipe") -> None:
        """Refuse what landmark attention cannot be trained with."""
        pretrain = recipe.pretrain
        require(
            not pretrain.reset_attention_mask,
            "pretrain.reset_attention_mask",
            True,
            "cannot be combined with model.options.landmark, whose blocks would cross documents",
        )
        tensor = pretrain.parallel.tensor_model_parallel_size
        slots = self.slots(pretrain.sequence_length)
        require(
            not pretrain.parallel.sequence_parallel or slots % tensor == 0,
            "pretrain.sequence_length",
            pretrain.sequence_length,
            f"takes {slots} slots with landmarks, which sequence parallelism over {tensor} does not divide",
        )

    def extend(self, architecture: "Architecture") -> "Architecture":
        """One more row of the embedding, for the landmark."""
        token_id = architecture.vocab_size if self.token_id is None else self.token_id
        require(
            token_id == architecture.vocab_size,
            f"{_FOLDER}.token_id",
            token_id,
            f"must be the first id after the embedding ({architecture.vocab_size}); leave it out",
        )
        option = replace(self, token_id=token_id)
        return replace(
            architecture,
            vocab_size=token_id + 1,
            max_position_embeddings=max(self.max_context, architecture.max_position_embeddings),
            options=(*architecture.options, option),
        )

    def hf_config(self) -> dict[str, Any]:
        """Class, `auto_map`, and the settings, each with the prefix `landmark_`."""
        return {
            "architectures": ["LandmarkLlamaForCausalLM"],
            "model_type": "landmark_llama",
            "auto_map": {
                "AutoConfig": "modeling_landmark.LandmarkLlamaConfig",
                "AutoModelForCausalLM": "modeling_landmark.LandmarkLlamaForCausalLM",
            },
            **{_PREFIX + key: value for key, value in asdict(self).items()},
        }

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "LandmarkConfig | None":
        """The settings that `hf_config` wrote."""
        if config.get("model_type") != "landmark_llama":
            return None
        names = [f.name for f in fields(cls)]
        return cls(**{name: config[_PREFIX + name] for name in names if _PREFIX + name in config})

    def save_code(self, folder: Path) -> None:
        """Copy the modelling files, which need torch and transformers alone."""
        import shutil

        for name in ("attention.py", "memory.py", "retrieval.py", "slots.py", "modeling_landmark.py"):
            shutil.copyfile(Path(__file__).parent / name, folder / name)

    def save_tokens(self, folder: Path) -> None:
        """Add the landmark to the tokenizer's files, under the id of its embedding row."""
        from meditron.models.options.landmark.tokens import add_landmark

        assert self.token_id is not None, "extend() sets it"
        add_landmark(folder, TOKEN, self.token_id)

    def weights(self, weights: "WeightSource", base: "Architecture") -> "WeightSource":
        """The embedding with a last row that is the mean of the others."""
        from meditron.models.growing import MeanRows

        return MeanRows(weights, base.vocab_size, base.vocab_size + 1)

    def adapt_hf_layer(self, layer: "nn.Module") -> None:
        """Exchange the attention for one over slots."""
        from meditron.models.options.landmark.modeling_landmark import exchange_attention

        exchange_attention(layer, self.block_size)

    def adapt_layer_spec(self, spec: Any) -> Any:  # noqa: ANN401 - megatron is not typed
        """Exchange the attention core."""
        from meditron.models.options.landmark.megatron import with_landmarks

        return with_landmarks(spec, self.block_size, self.kernel)

    @property
    def probe_length(self) -> int:
        """Two whole blocks behind the last, which is unfinished."""
        return 2 * (self.block_size + 1) + 2

    def slots(self, length: int) -> int:
        """One landmark after each whole block."""
        return length + length // self.block_size

    def insert(self, inputs_MBS: "Tensor", labels_MBS: "Tensor", ignore: int) -> "tuple[Tensor, Tensor]":
        """Landmarks put in. They are no target and have no loss; the token before one predicts the next
        regular token."""
        from meditron.models.options.landmark.slots import insert_every

        assert self.token_id is not None, "extend() sets it"
        return (
            insert_every(inputs_MBS, self.block_size, self.token_id),
            insert_every(labels_MBS, self.block_size, ignore),
        )

    def register_with_transformers(self) -> None:
        """Register configuration and model class."""
        from meditron.models.options.landmark.modeling_landmark import register

        register()
