"""`meditron finetune`: instruction tuning of a Hugging Face folder on conversations."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.checkpoints import newest, remove_leftovers
from meditron.config import FinetuneConfig, Recipe
from meditron.config.loading import dump_recipe, recipe_dict
from meditron.errors import REQUEUE_EXIT_CODE, ConfigError, InputError, MeditronError
from meditron.files import atomic_write_json, atomic_write_text, sha256_file
from meditron.manifest import MANIFEST, read_manifest
from meditron.progress import console, progress
from meditron.runs import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.chat import Chat
    from finetune.data import Examples
    from finetune.train import Job

WITHOUT_EFFECT = {
    "model",
    "run_dir",
    "data",
    "validation",
    "max_bad_fraction",
    "validation_interval",
    "checkpoint_interval",
    "keep_checkpoints",
    "nproc",
    "micro_batch_size",
    "recompute",
}
"""Settings that may change when a run is resumed: they do not shape it, or hashes of the inputs do."""


def main(recipe: Recipe) -> int:
    """Tune a recipe's model, from its newest checkpoint if there is one.

    Returns:
        0, or the documented code of a run that was asked to save and stop.

    Raises:
        ConfigError, InputError, ManifestError: what the run needs is missing or damaged.
        QuarantineError: too many lines of the data cannot be used.
        CheckpointError: the run folder belongs to another run.
        TrainingError: a loss is not finite, or a process ended.
    """
    config = recipe.finetune
    assert config.run_dir is not None, "resolve() fills the paths"
    if not config.data:
        raise ConfigError("finetune.data: names no file; give at least one JSONL file of conversations")
    if config.nproc > 1 and "WORLD_SIZE" not in os.environ:
        from meditron.processes import run_processes

        path = Path(config.run_dir) / "launched.yaml"
        atomic_write_text(path, dump_recipe(recipe))
        return run_processes(["finetune", "--config", str(path)], config.nproc, Path(config.run_dir) / "logs")
    run = RunFolder(config.run_dir)
    accelerator = _start(config)
    try:
        with run.sole_writer(accelerator.is_main_process):
            return _run(recipe, run, accelerator)
    except MeditronError as error:
        if accelerator.is_main_process and run.info():
            run.mark("failed", error=str(error))
        raise
    finally:
        _end(accelerator)


def _start(config: FinetuneConfig) -> "Accelerator":
    """Join the other processes.

    Raises:
        ConfigError: `accelerate launch` was told to shard the model, which this stage does not support.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedType
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # the run has its own
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision="bf16" if config.precision == "bf16" else "no"
    )
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in known:
        raise ConfigError(
            f"finetune: accelerate was set up for {accelerator.distributed_type.value}; only whole copies of "
            "the model on each process (MULTI_CPU, MULTI_GPU) are supported: change the accelerate config"
        )
    return accelerator


def _end(accelerator: "Accelerator") -> None:
    """Leave the other processes, and let a later stage in this process start its own accelerator."""
    from accelerate.state import AcceleratorState

    accelerator.end_training()
    AcceleratorState._reset_state(reset_partial_state=True)


def _run(recipe: Recipe, run: RunFolder, accelerator: "Accelerator") -> int:
    from finetune.chat import Chat
    from finetune.data import find_files
    from finetune.export import export, is_exported
    from finetune.train import fit
    from meditron.stopping import StopRequest

    config = recipe.finetune
    root = Path(recipe.data_root or ".")
    files = find_files(root, config.data, "finetune.data")
    held_out = find_files(root, config.validation, "finetune.validation")
    identity = _identity(recipe, files, held_out)
    if is_exported(run.path / "model", identity):
        if accelerator.is_main_process:
            console().print(f"{run.path / 'model'}: already tuned with this model, data and settings")
        return 0
    if accelerator.is_main_process:
        run.create(recipe_dict(recipe), "finetune")
        remove_leftovers(run.checkpoints)
    accelerator.wait_for_everyone()
    chat = Chat(str(config.model))
    train, validation = _read_data(config, files, held_out, chat, run, accelerator)
    job = _build(recipe, run, accelerator, chat, train, validation, identity)
    _resume(job)
    with StopRequest(run.path / "triggers") as stop, progress(job.total_steps, "finetune", "steps") as task:
        task.start_at(job.step)
        finished = fit(job, stop, task)
    if not finished:
        if accelerator.is_main_process:
            run.mark("stopped", step=job.step)
        return REQUEUE_EXIT_CODE
    export(job, chat)
    if accelerator.is_main_process:
        run.mark("finished", step=job.step)
    return 0


def _identity(recipe: Recipe, files: list[Path], held_out: list[Path]) -> dict[str, Any]:
    """What two runs must share for one to go on from the other's checkpoint."""
    settings = {key: value for key, value in asdict(recipe.finetune).items() if key not in WITHOUT_EFFECT}
    inputs = {"model": _model_hash(Path(str(recipe.finetune.model)))}
    for name, group in (("data", files), ("validation", held_out)):
        digest = hashlib.sha256("".join(sha256_file(file) for file in group).encode())
        inputs[name] = digest.hexdigest()
    return {"config": {**settings, "seed": recipe.seed}, "inputs": inputs}


def _model_hash(folder: Path) -> str:
    """Hash of the model's manifest; of a folder from elsewhere, of its config and its weights' sizes.

    Raises:
        ManifestError: a file does not match the manifest.
        InputError: no plain Llama is there.
    """
    from meditron.models.architecture import read_architecture

    read_architecture(folder)
    if (folder / MANIFEST).is_file():
        return read_manifest(folder, kind="model").hash
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(f"{folder}: holds no safetensors weights; run `meditron import` on it first")
    sizes = "".join(f"{file.name} {file.stat().st_size}\n" for file in weights)
    return hashlib.sha256((folder / "config.json").read_bytes() + sizes.encode()).hexdigest()


def _read_data(
    config: FinetuneConfig,
    files: list[Path],
    held_out: list[Path],
    chat: "Chat",
    run: RunFolder,
    accelerator: "Accelerator",
) -> "tuple[Examples, dict[str, Examples]]":
    """Every process reads all data, which is small beside the model; the main one writes what is bad."""
    from finetune.data import check, read_examples, write_quarantine

    train = read_examples(files, chat, config.max_length)
    validation = {_label(file, held_out): read_examples([file], chat, config.max_length) for file in held_out}
    quarantine = run.path / "quarantine.jsonl"
    everything = [train, *validation.values()]
    if accelerator.is_main_process:
        write_quarantine(quarantine, [record for examples in everything for record in examples.bad])
        counts = {"train": train.as_record(), "validation": [v.as_record() for v in validation.values()]}
        atomic_write_json(run.path / "data.json", counts)
        for examples in everything:
            _warn(examples, config.max_length)
    check(train, config.max_bad_fraction, quarantine, "finetune.data")
    for examples in validation.values():
        check(examples, config.max_bad_fraction, quarantine, "finetune.validation")
    return train, validation


def _label(file: Path, files: list[Path]) -> str:
    """Name of a validation file in the log: its stem, or its path where two share a stem."""
    return file.stem if sum(other.stem == file.stem for other in files) == 1 else str(file)


def _warn(examples: "Examples", max_length: int) -> None:
    for file, counts in examples.counts.items():
        if counts.dropped:
            console().print(
                f"{file}: {counts.dropped:,} of {counts.lines:,} conversations dropped, because "
                f"finetune.max_length = {max_length} cuts off their whole answer"
            )
        if counts.cut:
            console().print(f"{file}: {counts.cut:,} answers cut short at finetune.max_length = {max_length}")
        if counts.quarantined:
            console().print(f"{file}: {counts.quarantined:,} lines cannot be used, see quarantine.jsonl")


def _build(
    recipe: Recipe,
    run: RunFolder,
    accelerator: "Accelerator",
    chat: "Chat",
    train: "Examples",
    validation: "Mapping[str, Examples]",
    identity: dict[str, Any],
) -> "Job":
    import torch
    from accelerate.utils import set_seed

    from finetune.batches import DataOrder
    from finetune.model import AnswerLoss, load_model, parameter_groups
    from finetune.train import Job

    config = recipe.finetune
    set_seed(recipe.seed)
    language_model = load_model(str(config.model), len(chat.tokenizer), config.recompute == "full")
    model = AnswerLoss(language_model).train()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    order = DataOrder([len(e.ids) for e in train.encoded], config.global_batch_size, recipe.seed)
    return Job(
        config=config,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        train=train,
        validation={name: examples.encoded for name, examples in validation.items()},
        order=order,
        total_steps=config.max_steps or config.epochs * order.steps_per_epoch,
        run=run,
        identity=identity,
    )


def _resume(job: "Job") -> None:
    """Load the newest checkpoint, if any."""
    found = newest(job.run.checkpoints, job.identity, "finetune")
    if found is None:
        return
    path, manifest = found
    job.accelerator.load_state(str(path))
    job.step, job.tokens = int(manifest.counts["step"]), int(manifest.counts["tokens"])
    job.log("resume", path=path.name)
