"""`meditron import`: a GGUF file, a Hugging Face folder or a hub model becomes a clean base folder."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from meditron.config.recipe import Recipe
from meditron.errors import ConfigError, InputError, ManifestError, ParityError
from meditron.files import atomic_dir, atomic_write_json, atomic_write_text, sha256_file
from meditron.manifest import Manifest, read_manifest, write_manifest
from meditron.models.architecture import Architecture, read_architecture
from meditron.models.gguf import GGUFModel, generation_config
from meditron.models.safetensors_folder import FolderWeights, tensor_shapes, write_weights
from meditron.progress import console, progress
from meditron.tokenizers import TOKENIZER_FILES, load_tokenizer

_DERIVED = "rotary_emb.inv_freq"  # older checkpoints store what the config already says
Tensors = Iterable[tuple[str, torch.Tensor]]


def main(recipe: Recipe) -> None:
    """Import `model.import_from` into `model.import_to`.

    Raises:
        ConfigError: `model.import_from` is not set.
        InputError: the source is missing, damaged, or no plain Llama in a safe format.
        ParityError: the Hugging Face and the Megatron form of the result compute different logits.
    """
    model = recipe.model
    if model.import_from is None:
        raise ConfigError("model.import_from: is not set; give a .gguf file, a model folder or a hub name")
    assert model.import_to is not None, "filled by resolve"
    import_model(
        model.import_from, model.import_to, dtype=model.import_dtype, parity_check=model.parity_check
    )


def import_model(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str | None = None,
    parity_check: bool = True,
    licenses: dict[str, str] | None = None,
) -> Manifest:
    """Write `source` as a clean Hugging Face folder at `target`, unless it is there already.

    Args:
        source: a `.gguf` file, a Hugging Face folder with safetensors, or a hub name.
        target: folder to write; an older import there is replaced, anything else is refused.
        dtype: number format of the weights. Default: as stored, float32 for GGUF.
        parity_check: compare the result's logits with those of its Megatron form.
        licenses: name of the model to its licence. Default: what the source says.

    Returns:
        the manifest of `target`.

    Raises:
        InputError, ParityError: as `main`.
    """
    target = Path(target)
    origin = _find(source)
    if target.exists() and origin.resolve() == target.resolve():
        raise InputError(f"{target}: source and target of the import are one folder; choose another target")
    inputs = {"source": _identity(origin)}
    config = {"source": str(source), "dtype": dtype, "parity_check": parity_check}
    done = _existing(target)
    if done is not None and done.inputs == inputs and done.config == config:
        console().print(f"{target}: already imported from {source}")
        return done
    with atomic_dir(target) as aside, _named(aside, target):
        if origin.suffix == ".gguf":
            license_name = _write_gguf(origin, aside, dtype)
        else:
            license_name = _write_folder(origin, aside, dtype)
        extra = {"max_logit_difference": _check_parity(aside)} if parity_check else {}
        architecture = read_architecture(aside)
        write_manifest(
            aside,
            kind="model",
            config=config,
            inputs=inputs,
            counts={"parameters": architecture.num_parameters, "vocab_size": architecture.vocab_size},
            licenses=licenses or {origin.stem: license_name},
            extra=extra,
        )
    console().print(f"{target}: {architecture.num_parameters / 1e6:,.1f}M parameters imported from {source}")
    return read_manifest(target, kind="model")


def _find(source: str | Path) -> Path:
    """The file or folder of `source`, downloaded when it is a hub name."""
    path = Path(source)
    if path.is_dir() or path.suffix == ".gguf":
        return path
    name = str(source)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"model.import_from: {name!r} is no .gguf file, model folder or hub name")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise InputError(
            f"model.import_from: no folder {name!r}, and HF_HUB_OFFLINE=1 forbids the hub; give a folder"
        )
    from huggingface_hub import snapshot_download

    try:
        wanted = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
        return Path(snapshot_download(name, allow_patterns=[*wanted, *TOKENIZER_FILES]))
    except Exception as error:  # network, authentication, unknown name: all one answer for the user
        sentence = " ".join(str(error).split())
        raise InputError(
            f"model.import_from: the hub did not give {name!r} ({sentence}); check it"
        ) from error


def _identity(origin: Path) -> str:
    """SHA-256 of what is imported: a file's bytes, a folder's manifest, or its configuration and weights."""
    if origin.is_file():
        return sha256_file(origin)
    if not origin.is_dir():
        raise InputError(f"{origin} does not exist; give a .gguf file or a model folder")
    if (origin / "manifest.json").is_file():
        return read_manifest(origin, kind="model").hash
    digest = hashlib.sha256()
    for file in [origin / "config.json", *sorted(origin.glob("*.safetensors"))]:
        digest.update(sha256_file(file).encode() if file.is_file() else b"")
    return digest.hexdigest()


def _existing(target: Path) -> Manifest | None:
    """The manifest of an earlier import; None where there is nothing, or a damaged import.

    Raises InputError for a folder that is something else, because importing would replace it.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not (target / "config.json").is_file() or not (target / "manifest.json").is_file():
        raise InputError(f"{target}: exists and is no earlier import; remove it or choose another target")
    try:
        return read_manifest(target, kind="model")
    except ManifestError as error:
        console().print(f"{error} (importing again)")
        return None


@contextmanager
def _named(aside: Path, target: Path) -> Iterator[None]:
    """Let an error that names the half-written folder name the one the user asked for."""
    try:
        yield
    except (InputError, ParityError) as error:
        raise type(error)(str(error).replace(str(aside), str(target))) from error


def _write_gguf(file: Path, folder: Path, dtype: str | None) -> str:
    model = GGUFModel(file)
    number_format = dtype or "float32"
    _write(folder, model.architecture, model.tensors(getattr(torch, number_format)), number_format, str(file))
    model.save_tokenizer(folder)
    atomic_write_text(folder / "generation_config.json", generation_config(model.architecture.token_ids))
    _check_tokenizer(folder, model.architecture)
    return model.license


def _write_folder(origin: Path, folder: Path, dtype: str | None) -> str:
    if not list(origin.glob("*.safetensors")) and list(origin.glob("*.bin")):
        raise InputError(
            f"{origin}: its weights are pickled .bin files, which can run code when read; "
            "convert them to safetensors or download a release that has them"
        )
    architecture = read_architecture(origin)
    weights = FolderWeights(origin)
    names = [name for name in weights.names if not name.endswith(_DERIVED)]
    if architecture.tie_word_embeddings and "lm_head.weight" in names:
        names.remove("lm_head.weight")
    stored = weights.rows(names[0], 0, 1).dtype
    wanted = getattr(torch, dtype) if dtype else stored
    tensors = ((name, weights.rows(name, 0, weights.shape(name)[0]).to(wanted)) for name in names)
    _write(folder, architecture, tensors, str(wanted).removeprefix("torch."), str(origin))
    load_tokenizer(origin).save(folder)
    generation = origin / "generation_config.json"
    known = generation.read_text() if generation.is_file() else generation_config(architecture.token_ids)
    atomic_write_text(folder / generation.name, known)
    _check_tokenizer(folder, architecture)
    return _recorded_license(origin)


def _recorded_license(origin: Path) -> str:
    if not (origin / "manifest.json").is_file():
        return "unknown"
    return ", ".join(read_manifest(origin, kind="model").licenses.values()) or "unknown"


def _write(folder: Path, architecture: Architecture, tensors: Tensors, dtype: str, where: str) -> None:
    """Write config.json and the weights as they come, holding each against the shape it must have."""
    expected = tensor_shapes(architecture)
    with progress(len(expected), f"import {Path(where).name}", "tensors") as task:

        def checked() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in tensors:
                shape = expected.pop(name, None)
                if shape is None or tuple(tensor.shape) != shape:
                    wanted = f"this Llama has {shape}" if shape else "no plain Llama has it"
                    raise InputError(
                        f"{where}: tensor {name} has shape {tuple(tensor.shape)}, {wanted}; "
                        "weights and configuration are of two models"
                    )
                task.advance()
                yield name, tensor

        write_weights(folder, checked())
    if expected:
        raise InputError(
            f"{where}: {len(expected)} tensors are missing, such as {next(iter(expected))}; download it again"
        )
    atomic_write_json(folder / "config.json", architecture.to_hf(dtype))


def _check_tokenizer(folder: Path, architecture: Architecture) -> None:
    size = load_tokenizer(folder).vocab_size
    if size > architecture.vocab_size:
        raise InputError(
            f"{folder}: its tokenizer has {size} ids, the embedding {architecture.vocab_size} rows; "
            "tokenizer and model are of two releases"
        )


def _check_parity(folder: Path) -> float:
    from meditron.models.parity import check_parity

    return check_parity(folder)
