"""Configuration of the model, its options, and its export."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(kw_only=True)
class ModelConfig:
    """A base model plus zero or more options."""

    base: str = "tiny"
    """Hugging Face folder of a Llama, or a preset (llama2-7b, llama2-13b, llama2-70b, llama3-8b,
    llama3-70b, llama3.1-8b, llama3.1-70b, smollm2-135m, tiny); a preset starts from random weights."""
    import_from: str | None = None
    """What `meditron import` reads: a `.gguf` file, a Hugging Face folder with safetensors, or a hub name."""
    import_to: str | None = None
    """Clean base folder that `meditron import` writes. Default: `<work_dir>/base`."""
    import_dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the imported weights. Default: as stored, float32 for a GGUF file."""
    parity_check: bool = True
    """Compare the logits of the Hugging Face model and of its Megatron form (fp32) when a base is
    imported, before training starts on a folder for which that was not done, and when a checkpoint is
    exported."""
    vocab_padding_multiple: int = 128
    """Rows of the embedding are padded to a multiple of this times `tensor_model_parallel_size`, for
    speed on GPUs; the padding never gets probability and is not exported."""
    options: dict[str, Any] = field(default_factory=dict)
    """Option to its settings, such as `landmark: {block_size: 63}`; see `meditron/models/options/`.
    Default: none, a plain Llama."""

    def __post_init__(self) -> None:
        from meditron.models.options.base import parse_options, settings_of

        self.options = settings_of(parse_options(self.options))


@dataclass(kw_only=True)
class ExportConfig:
    """Checkpoint to Hugging Face folder."""

    run_dir: str | None = None
    """Pretraining run folder. Default: what `pretrain` writes."""
    output: str | None = None
    """Hugging Face folder. Default: `<work_dir>/model`."""
    step: int | None = None
    """Step of the checkpoint to export. Default: the newest valid one."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the exported weights. Default: that of the training."""
    max_shard_bytes: int = 2_000_000_000
    """Largest safetensors file; a model above it is cut into several."""
