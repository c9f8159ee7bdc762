"""`meditron compare A B`: are the losses of two runs equal, and from which step do they differ."""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meditron.config import Recipe
from meditron.errors import ConfigError, InputError
from meditron.runs import RunFolder

DIFFERENT_EXIT_CODE = 1
"""As that of cmp and diff."""
_TELLING = ("seed", "model", "pretrain", "finetune")
"""Sections of a recipe that shape training."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder tells of a run."""

    path: Path
    """The folder."""
    steps: Mapping[int, Mapping[str, Any]]
    """The log's record of each step, the last where a resumed run did a step again."""
    validations: Mapping[tuple[int, str], float]
    """Held-out loss by step and source."""
    settings: Mapping[str, Any]
    """Dotted names and values of what it was started with."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs over the steps that both have."""

    common: int
    """Number of those steps."""
    first: int | None
    """The first step with another loss; None where all are equal."""
    largest: float
    """Largest difference of two losses, in nats."""
    largest_step: int
    """Where it is."""
    validation: float | None
    """Largest difference of two held-out losses; None where there are none of one step and source."""
    equal: bool
    """Whether all losses are, held-out ones included."""
    seconds: float
    """Median over the steps of the second run's time over the first's."""


def main(recipe: Recipe) -> int:
    """Print how two runs compare.

    Returns:
        0 where the losses are equal, else 1.

    Raises:
        ConfigError: not two runs are named.
        InputError: one has no log of steps.
    """
    names = recipe.compare.runs
    if len(names) != 2:
        raise ConfigError(
            f"compare.runs: {len(names)} are named; say `meditron compare A B`, two run folders"
        )
    first, second = (read_run(Path(name)) for name in names)
    found = compare(first, second, recipe.compare.tolerance)
    for line in describe(first, second, found, recipe.compare.tolerance):
        print(line)
    return 0 if found.equal else DIFFERENT_EXIT_CODE


def read_run(path: Path) -> Run:
    """What a run folder tells.

    Raises:
        InputError: it has no log of steps.
    """
    if not path.is_dir():
        raise InputError(f"{path}: does not exist; give the folder that `meditron pretrain` writes")
    folder = RunFolder(path)
    records = folder.read_log()
    steps = {record["step"]: record for record in records if record.get("event") == "step"}
    if not steps:
        raise InputError(f"{folder.log_path}: has no steps; give the folder that `meditron pretrain` writes")
    held_out = {(r["step"], r["source"]): r["loss"] for r in records if r.get("event") == "validation"}
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        config = {}
    return Run(path=path, steps=steps, validations=held_out, settings=dict(_flat(config)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if prefix or name in _TELLING:
            if isinstance(value, dict):
                yield from _flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value


def compare(first: Run, second: Run, tolerance: float = 0.0) -> Comparison:
    """Hold the losses of two runs against each other.

    Raises:
        InputError: they have no step in common.
    """
    common = sorted(set(first.steps) & set(second.steps))
    if not common:
        raise InputError(
            f"{second.path}: has no step in common with {first.path}; compare runs of one length"
        )
    gaps = {step: _gap(first.steps[step]["loss"], second.steps[step]["loss"]) for step in common}
    largest = max(common, key=gaps.__getitem__)
    held_out = [
        _gap(loss, second.validations[key])
        for key, loss in first.validations.items()
        if key in second.validations
    ]
    return Comparison(
        common=len(common),
        first=next((step for step in common if gaps[step] > tolerance), None),
        equal=max([*gaps.values(), *held_out]) <= tolerance,
        largest=gaps[largest],
        largest_step=largest,
        validation=max(held_out, default=None),
        seconds=_time_ratio(first, second, common),
    )


def _gap(a: float | str, b: float | str) -> float:
    """Difference of two logged losses; those that are not finite are logged as text."""
    if isinstance(a, str) or isinstance(b, str):
        return 0.0 if a == b else math.inf
    return abs(a - b)


def _time_ratio(first: Run, second: Run, common: list[int]) -> float:
    ratios = [first.steps[n]["tokens_per_second"] / second.steps[n]["tokens_per_second"] for n in common]
    return float(statistics.median(ratios))


def describe(first: Run, second: Run, found: Comparison, tolerance: float) -> Iterator[str]:
    """Lines for a person."""
    within = f" (within {tolerance:g})" if tolerance else ""
    yield f"A  {first.path}: {len(first.steps)} steps, last loss {_last(first)}"
    yield f"B  {second.path}: {len(second.steps)} steps, last loss {_last(second)}"
    if found.first is None:
        but = "" if found.equal else ", but held-out losses differ"
        yield f"The losses of the {found.common} steps in common are equal{within}{but}."
    else:
        a, b = (run.steps[found.first]["loss"] for run in (first, second))
        yield f"The losses differ from step {found.first} on{within}: {a} and {b}."
    if found.largest:
        yield f"Largest difference of a step: {found.largest:.3g} nats, at step {found.largest_step}."
    if found.validation is not None:
        yield f"Largest difference of a held-out loss: {found.validation:.3g} nats."
    yield f"A step of B takes {found.seconds:.2f} times as long as one of A (median)."
    changed = sorted(
        name
        for name in {*first.settings, *second.settings}
        if first.settings.get(name) != second.settings.get(name)
    )
    for name in changed:
        yield f"  {name}: {first.settings.get(name)} in A, {second.settings.get(name)} in B"


def _last(run: Run) -> float | str:
    loss: float | str = run.steps[max(run.steps)]["loss"]
    return loss
