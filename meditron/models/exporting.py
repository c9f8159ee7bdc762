"""`meditron export`: a pretraining checkpoint becomes a plain Hugging Face folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.checkpoints import checkpoint_path, newest_whole
from meditron.config.model import ExportConfig
from meditron.config.recipe import Recipe
from meditron.errors import CheckpointError, ManifestError
from meditron.files import atomic_dir, atomic_write_json, atomic_write_text
from meditron.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from meditron.models.architecture import Architecture, from_hf
from meditron.progress import console, progress

if TYPE_CHECKING:
    import torch

    from meditron.models.megatron.stored import MegatronState
    from meditron.models.stored import TrainingState


def main(recipe: Recipe) -> None:
    """Export the newest whole checkpoint of a run, or the one of `export.step`.

    Raises:
        CheckpointError: there is no whole checkpoint, or none of that step.
        ManifestError: the shards that the run read are not there; its tokenizer comes from them.
        ParityError: the exported model computes other logits than the checkpoint.
        DiskFullError: the model does not fit on the disk.
    """
    config = recipe.export
    assert config.output is not None, "resolve() fills the paths"
    export(*_find(config), Path(config.output), recipe)


def export(path: Path, checkpoint: Manifest, output: Path, recipe: Recipe) -> None:
    """Write a checkpoint's weights, without the optimizer, as a Hugging Face folder.

    Args:
        path: the checkpoint.
        checkpoint: its manifest, which its files were held against.
        output: the folder to write.
        recipe: `export`, the base model, and the shards that the run read.

    Raises:
        ManifestError, ParityError, DiskFullError: as `main`.
    """
    config = recipe.export
    shards = Path(str(recipe.pretrain.shards))
    corpus = read_manifest(shards, kind="shards")
    if corpus.hash != checkpoint.inputs["shards"]:
        raise ManifestError(
            f"{shards}: are not the shards that {path} was trained on; give theirs with --pretrain.shards"
        )
    settings = {"step": checkpoint.counts["step"], "dtype": config.dtype, "parity": recipe.model.parity_check}
    inputs = {"checkpoint": checkpoint.hash}
    if _is_done(output, settings, inputs):
        console().print(f"{output}: step {settings['step']} was exported before")
        return
    with atomic_dir(output) as aside:
        architecture = from_hf(dict(checkpoint.extra["architecture"]), str(path))
        difference = _write(aside, path, architecture, _dtype(config, checkpoint), recipe)
        write_manifest(
            aside,
            kind="model",
            config=settings,
            inputs=inputs,
            counts={
                "parameters": architecture.num_parameters,
                "step": checkpoint.counts["step"],
                "tokens": checkpoint.counts["tokens"],
            },
            licenses=_licenses(recipe, corpus),
            extra={} if difference is None else {"max_logit_difference": difference},
        )
    console().print(f"{output}: exported after step {checkpoint.counts['step']}", soft_wrap=True)


def _find(config: ExportConfig) -> tuple[Path, Manifest]:
    folder = Path(str(config.run_dir)) / "checkpoints"
    if config.step is None:
        found = newest_whole(folder)
        if found is None:
            raise CheckpointError(f"{folder}: holds no whole checkpoint; run `meditron pretrain` first")
        return found
    path = checkpoint_path(folder, config.step)
    try:
        return path, read_manifest(path, kind="checkpoint", check_files="full")
    except ManifestError as error:
        raise CheckpointError(f"export.step: {error}") from error


def _is_done(output: Path, settings: dict[str, Any], inputs: dict[str, str]) -> bool:
    try:
        manifest = read_manifest(output, kind="model")
    except ManifestError:
        return False  # absent, unfinished or damaged: exported anew
    return (dict(manifest.config), dict(manifest.inputs)) == (settings, inputs)


def _dtype(config: ExportConfig, checkpoint: Manifest) -> str:
    trained = "bfloat16" if checkpoint.extra["precision"] == "bf16" else "float32"
    return config.dtype or trained


def _licenses(recipe: Recipe, corpus: Manifest) -> dict[str, str]:
    """Of the base model and of every source that it was trained on."""
    base = Path(recipe.model.base)
    known = (base / MANIFEST).is_file()
    return {
        **(read_manifest(base, kind="model", check_files="none").licenses if known else {}),
        **corpus.licenses,
    }


def _write(
    folder: Path, checkpoint: Path, architecture: Architecture, dtype: str, recipe: Recipe
) -> float | None:
    """Fill `folder`; returns the largest difference of the logits, None where they were not compared."""
    import torch

    from meditron.models.gguf import generation_config
    from meditron.models.megatron.stored import MegatronState
    from meditron.models.parity import check_parity
    from meditron.models.safetensors_folder import write_weights
    from meditron.models.stored import open_state
    from meditron.tokenizers import load_tokenizer

    number_format = getattr(torch, dtype)
    stored = open_state(checkpoint, architecture)
    write_weights(folder, _tensors(stored, number_format), recipe.export.max_shard_bytes)
    atomic_write_json(folder / "config.json", architecture.to_hf(dtype))
    load_tokenizer(Path(str(recipe.pretrain.shards)) / "tokenizer").save(folder)
    for option in architecture.options:
        option.save_code(folder)
        option.save_tokens(folder)
    known = Path(recipe.model.base) / "generation_config.json"
    generation = known.read_text() if known.is_file() else generation_config(architecture.token_ids)
    atomic_write_text(folder / "generation_config.json", generation)
    if not recipe.model.parity_check:
        return None
    if isinstance(stored, MegatronState):
        return _parity(folder, stored, number_format)
    return check_parity(folder)


def _tensors(stored: "TrainingState", dtype: "torch.dtype") -> "Iterator[tuple[str, torch.Tensor]]":
    names = stored.names()
    with progress(len(names), "export", "tensors") as task:
        for name in names:
            yield name, stored.read("param", name).to(dtype)
            task.advance()


def _parity(folder: Path, stored: "MegatronState", dtype: "torch.dtype") -> float:
    """Hold the folder's logits against the checkpoint's, both computed in fp32 from weights in `dtype`."""
    import torch

    from meditron.models.architecture import read_architecture
    from meditron.models.parity import huggingface_logits, megatron_logits, probe_tokens, require_equal

    def read(name: str, shape: torch.Size) -> torch.Tensor:
        return stored.parameter(name)[: shape[0]].to(dtype)  # without the vocabulary's padding

    architecture = read_architecture(folder)
    tokens = probe_tokens(architecture)
    other = megatron_logits(architecture, read, tokens)
    return require_equal(huggingface_logits(folder, tokens), other, str(stored.folder))
