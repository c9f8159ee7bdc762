"""`meditron doctor`: what this machine has, and what a recipe would need of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.base import Base, known_base
from launch.checks import (
    GB,
    Check,
    available_memory,
    check_machine,
    check_paths,
    free_disk,
    gpu_memory,
    has_slurm,
)
from launch.estimate import Estimate, estimate
from launch.jobs import pretraining_size
from launch.layout import FILL, Plan, plans, worth_showing
from launch.speed import expected_mfu, seconds
from meditron.config import Recipe
from meditron.devices import DEVICES
from meditron.errors import ConfigError, EnvironmentMissingError, MeditronError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {"ok": "green", "note": "yellow", "missing": "red"}
_WIDTH = 80
NODE = 8
"""GPUs of a node where the recipe's cluster has none."""
_PROPOSED = 5
"""Layouts that are shown."""


def main(recipe: Recipe) -> int:
    """Print the checks of this machine, the needs of a recipe, and what is missing.

    Returns:
        0, or the exit code of EnvironmentMissingError when something that is needed is missing.
    """
    console = _console()
    checks = [*check_machine(recipe), *check_paths(recipe), *check_jobs(recipe)]
    console.print(_checks_table(checks))
    try:
        base = known_base(recipe)
    except MeditronError:
        console.print("What pretraining needs can be told once model.base is there; until then")
        console.print("--model.base PRESET tells it for a model of the same shape.\n")
    else:
        needs = estimate(base.architecture, recipe.model, recipe.pretrain)
        checks += check_layout(recipe, needs)
        console.print(_needs_table(recipe, base, needs))
        _print_plans(console, recipe, base)
    problems = [check.advice for check in checks if check.state == "missing"]
    if not problems:
        console.print("Nothing that is needed is missing.")
        return 0
    console.print(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}:")
    for number, problem in enumerate(problems, start=1):
        console.print(f"{number}. {problem}", markup=False, highlight=False)
    return EnvironmentMissingError.exit_code


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    return console


def _checks_table(checks: Sequence[Check]) -> "Table":
    from rich.markup import escape

    table = _table("check", "", "found")
    for check in checks:
        state = f"[{_COLOURS[check.state]}]{check.state}[/]"
        table.add_row(escape(check.name), state, escape(check.found))
    return table


def _table(*columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def check_jobs(recipe: Recipe) -> Iterator[Check]:
    """Where there is SLURM: whether the processes of pretraining fill nodes evenly."""
    if not has_slurm():
        return
    try:
        nodes, tasks = pretraining_size(recipe)
    except ConfigError as error:
        yield Check(name="jobs", found="do not fit the nodes", state="missing", advice=f"{error}.")
    else:
        yield Check(name="jobs", found=f"pretrain: nodes {nodes}, processes on each {tasks}")


def check_layout(recipe: Recipe, needs: Estimate) -> Iterator[Check]:
    """Whether processes, memory and checkpoints fit here; where there is SLURM, nodes are elsewhere."""
    config = recipe.pretrain
    world_size, gpus = config.parallel.world_size, gpu_memory()
    if not has_slurm() and gpus and world_size > len(gpus):
        advice = (
            f"pretrain.parallel: {world_size} processes need a GPU each, this machine has {len(gpus)}; "
            "lower tensor x pipeline x context x data, or submit to a cluster with `meditron launch`."
        )
        yield Check(name="layout", found=f"{len(gpus)} GPUs", state="missing", advice=advice)
    if not has_slurm():
        needed = needs.rank_bytes * (1 if gpus else world_size)
        there = min(gpus) if gpus else available_memory()
        if needed > there:
            where = "a GPU here has" if gpus else "this machine has free for all processes"
            advice = (
                f"pretrain.parallel: weights, gradients, optimizer and activations need {_bytes(needed)}, "
                f"{where} {_bytes(there)}; raise the tensor, pipeline or data size on more devices, or use a "
                "smaller model.base."
            )
            yield Check(name="memory", found=_bytes(there), state="missing", advice=advice)
    kept = (config.checkpoint.keep or 1) + 1  # a new one is whole before the oldest goes
    free = free_disk(Path(str(config.run_dir)))
    if kept * needs.checkpoint > free:
        advice = (
            f"pretrain.run_dir: {kept} checkpoints of {_bytes(needs.checkpoint)} do not fit in the "
            f"{_bytes(free)} free at {config.run_dir}; move work_dir, or lower pretrain.checkpoint.keep."
        )
        yield Check(name="checkpoints", found=_bytes(free), state="missing", advice=advice)


def _needs_table(recipe: Recipe, base: Base, needs: Estimate) -> "Table":
    from rich.markup import escape

    config, layout = recipe.pretrain, recipe.pretrain.parallel
    table = _table("pretraining", "needs", "because")
    table.columns[1].justify = "right"
    steps = f"{config.train_steps:,} steps x {config.global_batch_size:,} x {config.sequence_length:,}"
    cut = f"tensor {layout.tensor_model_parallel_size} x pipeline {layout.pipeline_model_parallel_size}"
    cut += f" x context {layout.context_parallel_size}" if layout.context_parallel_size > 1 else ""
    shape = f"{base.architecture.num_hidden_layers} x {base.architecture.hidden_size:,}"
    table.add_row("layers x width", shape, escape(f"from {base.source}"))
    table.add_row("parameters", f"{needs.parameters / 1e6:,.1f} M", "embeddings included")
    table.add_row("processes", f"{layout.world_size:,}", f"{cut} x data {layout.data_parallel_size}")
    largest = "P, of the process that holds most"
    table.add_row("parameters of a process", f"{needs.rank_parameters / 1e6:,.1f} M", largest)
    for name, formula in needs.formulas.items():
        table.add_row(f"{name} of a process", _bytes(getattr(needs, name)), f"{formula}, {config.precision}")
    rest = "the libraries' own memory comes on top"
    table.add_row("together, of a process", _bytes(needs.rank_bytes), rest)
    table.add_row("one checkpoint", _bytes(needs.checkpoint), "weights and optimizer states")
    table.add_row("tokens", f"{needs.tokens:,}", steps)
    table.add_row("model FLOPs", f"{needs.flops:.3g}", "tokens x (6 N + 6 layers x length x heads x width)")
    table.add_row("time", *_time(recipe, needs))
    return table


def _time(recipe: Recipe, needs: Estimate) -> tuple[str, str]:
    """The recipe's own layout on GPUs of `doctor.gpu`, else of `pretrain.peak_flops`."""
    config, kind = recipe.pretrain, recipe.doctor.gpu
    peak = config.peak_flops if kind is None else DEVICES[kind].bf16_flops
    if peak is None or isinstance(peak, str):
        return "unknown", "give --doctor.gpu, or pretrain.peak_flops in FLOP/s"
    devices = f"{config.parallel.world_size:,} x {kind or 'a device'}"
    share = f"{expected_mfu(config):.0%} of {peak / 1e12:,.4g} TFLOP/s expected"
    return _duration(seconds(needs, config, peak)), f"on {devices}: {share}"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 2:
        return f"{hours * 60:,.1f} min"
    return f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"


def _print_plans(console: "Console", recipe: Recipe, base: Base) -> None:
    """The layouts to try first, and how the recipe gets the first of them."""
    gpus, kind = recipe.doctor.gpus, recipe.doctor.gpu
    if gpus is None or kind is None:
        return
    device, node = DEVICES[kind], recipe.launch.gpus_per_node or NODE
    found = plans(base.architecture, recipe.model, recipe.pretrain, gpus, device, node)
    title = f"Layouts for {gpus} x {kind}, {node} a node, within {FILL:.0%} of {_bytes(device.memory)}"
    if not found:
        console.print(f"{title}: none fits.\n")
        return
    console.print(f"{title}, the fastest first, then those that need less memory:")
    table = _table("TP x PP x DP", "micro", "recompute", "memory", "days")
    for plan in worth_showing(found)[:_PROPOSED]:
        table.add_row(*_plan_row(plan, seconds(plan.needs, plan.config, device.bf16_flops)))
    console.print(table)
    if settings := list(_changes(asdict(recipe.pretrain), asdict(found[0].config), "pretrain.")):
        console.print("The first of them is the recipe with:")
        console.print("\n".join(f"  --{name} {value}" for name, value in settings) + "\n")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted names and new values of the settings that differ."""
    for name, value in new.items():
        if isinstance(value, dict):
            yield from _changes(old[name], value, f"{prefix}{name}.")
        elif value != old[name]:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _plan_row(plan: Plan, time: float) -> tuple[str, ...]:
    layout = plan.config.parallel
    cut = (layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size, layout.data_parallel_size)
    return (
        "{} x {} x {}".format(*cut),
        f"{plan.config.micro_batch_size}",
        plan.config.recompute,
        _bytes(plan.needs.rank_bytes),
        f"{time / 86400:,.2f}",
    )


def _bytes(number: float) -> str:
    return f"{number / 1e6:,.1f} MB" if number < GB else f"{number / GB:,.1f} GB"
