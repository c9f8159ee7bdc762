"""`meditron checkpoint convert`: a pretraining checkpoint in another engine's form, or Hugging Face's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from meditron.checkpoints import newest_whole
from meditron.config import Recipe
from meditron.config.pretrain import OptimizerConfig, PretrainConfig
from meditron.errors import CheckpointError, ConfigError, InputError, ManifestError
from meditron.files import atomic_dir, atomic_write_json, disk_errors
from meditron.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from meditron.models.architecture import from_hf
from meditron.progress import console, progress

if TYPE_CHECKING:
    from torch import Tensor

    from meditron.models.stored import TrainingState

FILE_BYTES = 4_000_000_000
"""Largest file of whole tensors."""


def main(recipe: Recipe) -> None:
    """Convert one checkpoint.

    Raises:
        ConfigError: the recipe does not say what to convert, to what, or where to.
        InputError: the output exists.
        CheckpointError: there is no whole checkpoint, it is not of pretraining, or has that form already.
        ManifestError, ParityError: as `meditron.models.exporting.export`.
        DiskFullError: it does not fit on the disk.
    """
    config = recipe.checkpoints
    if config.to is None or config.output is None or len(config.paths) != 1:
        raise ConfigError(
            "checkpoint convert: needs one checkpoint, --to and --output; see meditron checkpoint --help"
        )
    path, manifest = _find(Path(config.paths[0]))
    output = Path(config.output)
    if output.exists():
        raise InputError(f"checkpoints.output: {output} exists; remove it or choose another folder")
    if config.to == "hf":
        from meditron.models.exporting import export

        export(path, manifest, output, recipe)
        return
    if manifest.config["engine"] == config.to:
        raise CheckpointError(f"{path}: has the form of {config.to} already, which fits every layout")
    with atomic_dir(output) as aside:
        if config.to == "deepspeed":
            _write_whole(path, manifest, aside)
        else:
            _write_megatron(path, manifest, aside, recipe.model.vocab_padding_multiple)
        _write_manifest(aside, manifest, config.to)
    console().print(f"{output}: {path.name} in the form of {config.to}", soft_wrap=True)


def _find(path: Path) -> tuple[Path, Manifest]:
    """The checkpoint itself, or the newest whole one of a run folder."""
    if (path / MANIFEST).is_file():
        try:
            found = path, read_manifest(path, kind="checkpoint", check_files="full")
        except ManifestError as error:
            raise CheckpointError(str(error)) from error
    else:
        newest = newest_whole(path / "checkpoints")
        if newest is None:
            raise CheckpointError(
                f"{path}: holds no whole checkpoint; give one, or a run folder of pretraining"
            )
        found = newest
    if "architecture" not in found[1].extra:
        raise CheckpointError(
            f"{found[0]}: is not of `meditron pretrain`; only its checkpoints are converted"
        )
    return found


def _state(path: Path, manifest: Manifest) -> "TrainingState":
    from meditron.models.stored import open_state

    return open_state(path, from_hf(dict(manifest.extra["architecture"]), str(path)))


def _write_whole(path: Path, manifest: Manifest, folder: Path) -> None:
    """Whole tensors, a file at a time."""
    from safetensors.torch import save_file

    from meditron.models.safetensors_folder import in_shards
    from meditron.models.stored import STATE

    state = _state(path, manifest)
    for number, tensors in enumerate(in_shards(_tensors(state), FILE_BYTES)):
        file = folder / f"state-{number:05d}.safetensors"
        with disk_errors(file):
            save_file(tensors, file)
    atomic_write_json(folder / STATE, {"adam_step": state.updates})


def _tensors(state: "TrainingState") -> "Iterator[tuple[str, Tensor]]":
    from meditron.models.stored import KINDS

    names = state.names()
    with progress(len(names) * len(KINDS), "convert", "tensors") as task:
        for kind in KINDS:
            for name in names:
                yield f"{kind}/{name}", state.read(kind, name).float()
                task.advance()


def _write_megatron(path: Path, manifest: Manifest, folder: Path, vocab_padding_multiple: int) -> None:
    """Megatron's form, written by its engine on this one process, which holds the whole state."""
    from meditron.models.megatron.parallel import alone
    from meditron.models.stored import StoredWeights
    from pretrain.engines.megatron import MegatronEngine

    state = _state(path, manifest)
    settings = PretrainConfig(
        precision=manifest.extra["precision"],
        sequence_length=manifest.config["sequence_length"],
        optimizer=OptimizerConfig(**manifest.config["optimizer"]),
    )
    with alone():
        architecture = from_hf(dict(manifest.extra["architecture"]), str(path))
        engine = MegatronEngine(architecture, settings, vocab_padding_multiple)
        engine.build(StoredWeights(state, "param"))
        engine.load(path)
        engine.save(folder).finish()


def _write_manifest(folder: Path, of: Manifest, engine: str) -> None:
    """What the run's own checkpoint says, but for the form; so the run goes on from it."""
    write_manifest(
        folder,
        kind="checkpoint",
        config={**json.loads(json.dumps(of.config)), "engine": engine},
        inputs=of.inputs,
        counts=of.counts,
        extra=of.extra,
    )
