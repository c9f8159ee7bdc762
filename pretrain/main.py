"""`meditron pretrain`: shards and a base model to checkpoints."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.checkpoints import TOLD, newest, remove_leftovers
from meditron.config import PretrainConfig, Recipe
from meditron.config.check import require
from meditron.config.loading import dump_recipe, recipe_dict
from meditron.errors import REQUEUE_EXIT_CODE, ConfigError, InputError, MeditronError
from meditron.files import atomic_write_text
from meditron.manifest import MANIFEST, read_manifest
from meditron.progress import console
from meditron.runs import RunFolder

if TYPE_CHECKING:
    from meditron.models.architecture import Architecture
    from pretrain.engines import Engine
    from pretrain.sinks import Sink
    from pretrain.trainer import Trainer

SHAPING = (
    "sequence_length",
    "global_batch_size",
    "train_steps",
    "precision",
    "weights",
    "optimizer",
)
"""Settings that must stay when a run is resumed; engine, layout, recomputation and intervals may change."""
ADDED = (
    "upsample",
    "replay",
    "reset_attention_mask",
    "fp8",
    "optimizer.decay_steps",
    "optimizer.schedule_steps",
)
"""Of the same kind, but younger than some checkpoints: left out of their identity while they are unset."""

OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Makes torchrun begin each start with a store of its own."""


def main(recipe: Recipe) -> int:
    """Train a recipe's model, from its newest checkpoint if there is one.

    Alone, it starts the processes of `pretrain.parallel` itself; under torchrun it joins them.

    Returns:
        0, or the documented code of a run that was asked to save and stop.

    Raises:
        ConfigError, InputError, ManifestError: what the run needs is missing, damaged, or does not fit.
        CheckpointError: the run folder belongs to another run.
        DiskFullError: a checkpoint does not fit.
        TrainingError: losses are not finite, or a process ended.
    """
    config = recipe.pretrain
    assert config.run_dir is not None, "resolve() fills the paths"
    world_size = config.parallel.world_size
    if "RANK" not in os.environ and world_size > 1:
        from meditron.processes import run_processes

        _check(recipe)
        path = Path(config.run_dir) / "launched.yaml"
        atomic_write_text(path, dump_recipe(recipe))
        return run_processes(["pretrain", "--config", str(path)], world_size, Path(config.run_dir) / "logs")
    _check_torchrun()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != world_size:
        raise ConfigError(
            f"pretrain.parallel: tensor x pipeline x context x data = {world_size}, but {started} processes "
            "were started; make both equal"
        )
    return _join_and_run(recipe, RunFolder(config.run_dir))


def _check_torchrun() -> None:
    """Refuse restarts that cannot work.

    torchrun keeps one store for all starts (seen in torch 2.13), so that a process which is started again
    looks for its peers where those of the last start were.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ConfigError(
            f"torchrun --max-restarts {restarts}: needs {OWN_STORE}=1 in the environment, or its new "
            "processes cannot meet; set it, or leave --max-restarts out"
        )


def _join_and_run(recipe: Recipe, run: RunFolder) -> int:
    architecture = _check(recipe)
    from meditron.models.megatron.parallel import join_group, leave_processes, set_up_megatron

    config = recipe.pretrain
    is_main = os.environ.get("RANK", "0") == "0"
    layout = config.parallel
    if config.deterministic:
        _make_deterministic()
    join_group(config.timeout_minutes)
    if config.engine == "megatron":
        set_up_megatron(
            layout.tensor_model_parallel_size,
            layout.pipeline_model_parallel_size,
            recipe.seed,
            config.timeout_minutes,
            layout.virtual_pipeline_model_parallel_size,
            layout.context_parallel_size,
        )
    try:
        with run.sole_writer(is_main):
            code = _run(recipe, run, architecture)
    except MeditronError as error:
        if is_main and run.info():
            run.mark("failed", error=str(error))
        raise  # the groups are left as they are: the other processes may wait for this one
    leave_processes()
    return code


def _make_deterministic() -> None:
    import torch

    # Both are read when the libraries start, which they do at their first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("NCCL_ALGO", "Ring")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _check(recipe: Recipe) -> "Architecture":
    """What can be refused before any process is started; returns the model to train.

    Raises:
        ConfigError: model, tokenizer and layout do not go together.
    """
    from meditron.models.architecture import with_options
    from meditron.models.megatron.llama import check_layout
    from meditron.models.options import parse_options
    from pretrain.base import base_architecture
    from pretrain.sinks import require_trackers

    config = recipe.pretrain
    read_manifest(str(config.shards), kind="shards", check_files="size")
    architecture = base_architecture(recipe, _table(config))
    architecture = with_options(architecture, parse_options(recipe.model.options))
    layout = config.parallel
    check_layout(
        architecture,
        layout.tensor_model_parallel_size,
        layout.pipeline_model_parallel_size,
        layout.virtual_pipeline_model_parallel_size,
        layout.context_parallel_size,
    )
    if layout.sequence_parallel or layout.context_parallel_size > 1:
        _check_sequence(config, architecture)
    require_trackers(config.trackers)
    if config.fp8:
        from meditron.models.megatron.fp8 import require_fp8

        require_fp8()
    longest = max(architecture.max_position_embeddings, config.sequence_length)
    return replace(architecture, max_position_embeddings=longest)


def _check_sequence(config: PretrainConfig, architecture: "Architecture") -> None:
    import torch

    sample = torch.zeros(1, 1, config.sequence_length, dtype=torch.int64)
    length = architecture.insert(sample, sample, 0)[0].shape[-1]
    added = "" if length == config.sequence_length else f" (with what the model's options insert {length})"
    layout = config.parallel
    parts, names = 1, []
    if layout.sequence_parallel:
        parts, names = layout.tensor_model_parallel_size, ["tensor_model_parallel_size"]
    if layout.context_parallel_size > 1:  # each process has two parts, see `to_heads`
        parts, names = parts * 2 * layout.context_parallel_size, [*names, "2 x context_parallel_size"]
    rule = f"{added} must be a multiple of {' x '.join(names)} ({parts})"
    rule += " with sequence_parallel" if layout.sequence_parallel else ""
    require(length % parts == 0, "pretrain.sequence_length", config.sequence_length, rule.strip())


def _table(config: PretrainConfig) -> dict[str, Any]:
    path = Path(str(config.shards)) / "tokens.json"
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); tokenize again") from None
    assert isinstance(table, dict)
    return table


def _run(recipe: Recipe, run: RunFolder, architecture: "Architecture") -> int:
    import torch.distributed as dist

    from meditron.stopping import StopRequest
    from pretrain.trainer import fit, restore

    is_main = dist.get_rank() == 0
    identity = _identity(recipe, is_main)
    if is_main:
        run.create(recipe_dict(recipe), "pretrain")
        remove_leftovers(run.checkpoints)
    dist.barrier()
    found = newest(run.checkpoints, identity, "pretrain")
    if found is None and is_main and _must_compare(recipe):
        from meditron.models.parity import check_parity_apart

        check_parity_apart(str(recipe.model.base))
    trainer = _build(recipe, run, architecture, identity)
    with StopRequest(run.path / "triggers") as stop, _watched(recipe, run, is_main) as trainer.sinks:
        if found is not None:
            restore(trainer, *found)
            trainer.log("resume", path=found[0].name)
        finished = fit(trainer, stop)
    if is_main:
        run.mark("finished" if finished else "stopped", step=trainer.state.step)
        if not finished:
            console().print(
                f"pretrain: saved after step {trainer.state.step} and stopped; run it again to go on"
            )
    return 0 if finished else REQUEUE_EXIT_CODE


def _must_compare(recipe: Recipe) -> bool:
    """Whether the two forms of the base are to be compared first; `import` and `export` have done it."""
    from meditron.models.parity import was_compared

    base = Path(str(recipe.model.base))
    return recipe.model.parity_check and base.is_dir() and not was_compared(base)


@contextmanager
def _watched(recipe: Recipe, run: RunFolder, is_main: bool) -> "Iterator[list[Sink]]":
    """What the main process' log is shown on and handed to."""
    from pretrain.live import show
    from pretrain.sinks import open_trackers

    config = recipe.pretrain
    if not is_main:
        yield []
        return
    trackers = open_trackers(config.trackers, config.tracker_project, run.path, recipe_dict(recipe))
    with show(recipe) as view, trackers as opened:
        yield [view, *opened]


def _identity(recipe: Recipe, is_main: bool) -> dict[str, Any]:
    """What shapes the run. The main process also holds every byte of the shards against its hash."""
    config = recipe.pretrain
    check = "full" if is_main else "size"
    shards = read_manifest(str(config.shards), kind="shards", check_files=check)  # type: ignore[arg-type]
    settings = asdict(config)
    base = Path(str(recipe.model.base))
    has_manifest = (base / MANIFEST).is_file()
    model = read_manifest(base, kind="model").hash if has_manifest else str(recipe.model.base)
    shaping = {name: settings[name] for name in (*SHAPING, *TOLD)} | {"seed": recipe.seed}
    shaping |= {"options": recipe.model.options} if recipe.model.options else {}
    for name in ADDED:
        _leave_out_unset(shaping, settings, name.split("."))
    return {"config": json.loads(json.dumps(shaping)), "inputs": {"shards": shards.hash, "model": model}}


def _leave_out_unset(shaping: dict[str, Any], settings: dict[str, Any], path: list[str]) -> None:
    *sections, name = path
    for section in sections:
        shaping, settings = shaping[section], settings[section]
    if settings[name]:
        shaping[name] = settings[name]
    else:
        shaping.pop(name, None)


def _build(
    recipe: Recipe, run: RunFolder, architecture: "Architecture", identity: dict[str, Any]
) -> "Trainer":
    from meditron.mixture import source_shares
    from pretrain.base import base_weights
    from pretrain.data import TrainingData, ValidationData, open_shard
    from pretrain.trainer import Trainer

    config = recipe.pretrain
    engine = _engine(recipe, architecture)
    engine.build(base_weights(recipe, architecture, _table(config)))
    shards = Path(str(config.shards))
    sources = _table(config)["sources"]
    tokens = {name: row["train_tokens"] for name, row in sources.items()}
    weights = source_shares(config, tokens, {name: row["kind"] for name, row in sources.items()})
    held_out = [name for name, row in sorted(sources.items()) if row["validation_tokens"] > 1]
    return Trainer(
        config=config,
        architecture=architecture,
        engine=engine,
        train=TrainingData(shards, weights, config.sequence_length, recipe.seed),
        validation={
            name: ValidationData(
                open_shard(shards / "validation" / name),
                config.sequence_length,
                config.validation.max_tokens,
                config.reset_attention_mask,
            )
            for name in held_out
        },
        run=run,
        identity=identity,
    )


def _engine(recipe: Recipe, architecture: "Architecture") -> "Engine":
    if recipe.pretrain.engine == "deepspeed":
        from pretrain.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(architecture, recipe.pretrain)
    from pretrain.engines.megatron import MegatronEngine

    return MegatronEngine(architecture, recipe.pretrain, recipe.model.vocab_padding_multiple)
