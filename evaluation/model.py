"""Loading the model that is evaluated: its identity, weights and tokenizer."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.config import EvaluateConfig
from meditron.config.check import require_choice
from meditron.errors import ConfigError, EnvironmentMissingError, InputError
from meditron.files import sha256_file
from meditron.manifest import MANIFEST, read_manifest
from meditron.tokenizers import TOKENIZER_FILES

if TYPE_CHECKING:
    import torch

DEFAULT_MAX_LENGTH = 2048


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that is to be evaluated."""

    label: str
    """Its name in the results."""
    folder: Path
    """Where it is."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Entries of its `config.json` that are changed; of a variant."""


@dataclass(kw_only=True)
class LoadedModel:
    """A model ready to be asked."""

    path: Path
    """Its folder."""
    identity: str
    """Hash of its manifest, or of its files."""
    model: Any
    """The causal language model of transformers."""
    tokenizer: Any
    """Its tokenizer."""
    max_length: int
    """Longest sequence in tokens."""
    dtype: str
    """Number format of the computation."""
    engine: Any = None
    """`vllm.LLM`, where that computes it; `model` then has no weights."""

    @property
    def parameters(self) -> int:
        """Parameters, a tied one counted once."""
        return int(self.model.num_parameters())


def candidates(config: EvaluateConfig) -> list[Candidate]:
    """The models of a recipe, and after them its variants."""
    models = [Candidate(label=label, folder=Path(folder)) for label, folder in config.models.items()]
    variants = [
        Candidate(label=label, folder=Path(config.models[own.model]), settings=own.settings)
        for label, own in config.variants.items()
    ]
    return models + variants


def check_folder(label: str, folder: Path) -> None:
    """Refuse a folder that is no model, before anything is computed.

    Raises:
        InputError: it does not exist, or lacks configuration or weights.
    """
    where = f"evaluate.models.{label}: {folder}"
    if not folder.is_dir():
        raise InputError(f"{where} does not exist; run the stage that makes it, or set evaluate.models")
    if not (folder / "config.json").is_file():
        raise InputError(f"{where} is no model folder (it has no config.json); correct evaluate.models")
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"{where} holds no safetensors weights; run `meditron import` on it first")


def identify(folder: Path, settings: Mapping[str, Any] | None = None) -> str:
    """Hash of the model's manifest, held against its files; without one, of configuration (that of
    generating, which says what ends an answer, among it), weights, tokenizer and code of its own. A variant's
    is that of the model and its changed settings.

    Raises:
        ManifestError: a file does not match the manifest.
    """
    if settings:
        content = json.dumps([identify(folder), dict(settings)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
    if (folder / MANIFEST).is_file():
        return read_manifest(folder, kind="model", check_files="full").hash
    names = [folder / name for name in ("config.json", "generation_config.json", *TOKENIZER_FILES)]
    files = [*names, *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.py"))]
    hashes = {file.name: sha256_file(file) for file in files if file.is_file()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def choose_device(name: str) -> "torch.device":
    """The device that `evaluate.device` means; of several processes on a machine, each has a GPU of its own.

    Raises:
        ConfigError: it is no device, or one GPU for several processes.
        EnvironmentMissingError: this machine does not have it.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"evaluate.device: {name!r} is no device; use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentMissingError(
            f"evaluate.device: {name!r}, but torch sees {torch.cuda.device_count()} GPUs on this machine; "
            "set it to auto or cpu"
        )
    if device.type != "cuda":
        return device
    if device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError(
            f"evaluate.device: {name!r} would put all {processes} processes on one GPU; "
            "set it to cuda or auto"
        )
    return device


def choose_dtype(config: EvaluateConfig, device: "torch.device") -> str:
    """The number format that `evaluate.dtype` means on a device."""
    if config.dtype != "auto":
        return config.dtype
    return "float32" if device.type == "cpu" else "bfloat16"


def load_model(
    label: str,
    folder: Path,
    identity: str,
    config: EvaluateConfig,
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Read weights and tokenizer.

    Raises:
        ConfigError: a variant changes a setting that the model does not have.
        InputError: they cannot be read, or do not belong together.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from meditron.models.options import register_with_transformers

    register_with_transformers()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    where = f"evaluate.{'variants' if settings else 'models'}.{label}: {folder}"
    device = choose_device(config.device)
    dtype = choose_dtype(config, device)
    tokenizer = load_tokenizer(where, folder)
    if settings:
        _check_settings(label, folder, settings, config.trust_remote_code)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            **(settings or {}),
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        sentence = " ".join(str(error).split())
        raise InputError(f"{where}: the model cannot be read ({sentence}); export it again") from error
    _check_vocabulary(where, model, tokenizer)
    return LoadedModel(
        path=folder,
        identity=identity,
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        max_length=longest(model, config),
        dtype=dtype,
    )


def _check_settings(label: str, folder: Path, settings: Mapping[str, Any], trust_remote_code: bool) -> None:
    """Refuse settings that the model's configuration does not have; transformers would ignore them."""
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    known = own.to_dict()
    for name in settings:
        require_choice(name, known, f"evaluate.variants.{label}.settings")


def longest(model: Any, config: EvaluateConfig) -> int:  # noqa: ANN401 - transformers is untyped
    """Longest sequence in tokens: the model's limit, or the recipe's where that is lower."""
    limit = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    return min(config.max_length or limit, limit)


def load_tokenizer(where: str, folder: Path) -> Any:  # noqa: ANN401 - transformers is untyped
    """A folder's tokenizer.

    Raises:
        InputError: it has none that transformers reads.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        sentence = " ".join(str(error).split())
        raise InputError(
            f"{where}: holds no tokenizer that transformers reads ({sentence}); export the model again"
        ) from error


def _check_vocabulary(where: str, model: Any, tokenizer: Any) -> None:  # noqa: ANN401
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise InputError(
            f"{where}: its tokenizer has ids up to {highest}, but its embedding only {rows} rows; "
            "the tokenizer is another model's, export the model again"
        )
