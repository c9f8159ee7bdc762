"""What `meditron doctor` looks at on this machine and in a recipe."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch.base import is_to_come
from meditron.config import Recipe
from meditron.config.recipe import data_path
from meditron.errors import MeditronError
from meditron.models.architecture import PRESETS, find_architecture

GB = 1e9
_OPTIONAL = ("transformer-engine", "apex", "flash-attn")
_SLURM = ("sbatch", "srun", "scancel", "scontrol", "squeue")
_MIN_FREE_DISK = 1 * GB
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's table."""

    name: str
    """What was looked at."""
    found: str
    """What is there."""
    state: Literal["ok", "note", "missing"] = "ok"
    """`missing`: the recipe cannot run here without it; `note`: it can, with what `found` says."""
    advice: str = ""
    """For what is missing: one sentence, what is wrong and what to do."""


def check_machine(recipe: Recipe) -> Iterator[Check]:
    """All checks that need no model."""
    yield _python()
    yield from _packages()
    yield _compiler()
    yield _torch()
    yield _backends()
    yield from (_optional(name) for name in _OPTIONAL)
    yield _memory()
    yield _disk(Path(recipe.work_dir))
    yield _slurm()


def _python() -> Check:
    from packaging.specifiers import SpecifierSet

    wanted = importlib.metadata.metadata("meditron")["Requires-Python"]
    version = platform.python_version()
    if version in SpecifierSet(wanted):
        return Check(name="Python", found=f"{version}, within {wanted}")
    advice = f"Python {version} is outside {wanted}; make the environment again with a Python within it."
    return Check(name="Python", found=version, state="missing", advice=advice)


def _packages() -> Iterator[Check]:
    """One line for all packages within their pinned ranges, and one for each that is not."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in importlib.metadata.requires("meditron") or []]
    needed = [item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = []
    for item in needed:
        try:
            version = importlib.metadata.version(item.name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        if version == "not installed" or not item.specifier.contains(version, prereleases=True):
            wrong.append((item, version))
    found = f"{len(needed) - len(wrong)} of {len(needed)} within their pinned ranges"
    yield Check(name="packages", found=found, state="note" if wrong else "ok")
    for item, version in wrong:
        advice = f"{item.name} is {version}, this project needs {item}; run: pip install '{item}'."
        yield Check(
            name=item.name, found=f"{version}, needs {item.specifier}", state="missing", advice=advice
        )


def _compiler() -> Check:
    found = next((path for path in map(shutil.which, _COMPILERS) if path), None)
    if found is None:
        advice = "No C++ compiler (c++, g++, clang++) is on the PATH; install g++, or load its module."
        return Check(name="C++ compiler", found="none", state="missing", advice=advice)
    return Check(name="C++ compiler", found=found)


def gpu_memory() -> list[int]:
    """Bytes of each GPU that torch can use."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_properties(index).total_memory for index in range(count)]


def _torch() -> Check:
    import torch

    memories = gpu_memory()
    if not memories:
        found = f"torch {torch.__version__}: no GPU, {os.cpu_count()} CPU cores"
        return Check(name="devices", found=found, state="note")
    name = torch.cuda.get_device_name(0)
    found = f"torch {torch.__version__}: {len(memories)} x {name}, {memories[0] / GB:.0f} GB"
    return Check(name="devices", found=found)


def _backends() -> Check:
    import torch.distributed as dist

    there = {
        "NCCL": dist.is_available() and dist.is_nccl_available(),
        "gloo": dist.is_available() and dist.is_gloo_available(),
    }
    found = ", ".join(name for name, has in there.items() if has) or "none"
    needed = "NCCL" if gpu_memory() else "gloo"
    if there[needed]:
        return Check(name="backends", found=found)
    advice = f"torch was built without {needed}, so processes cannot talk; install torch from its own wheels."
    return Check(name="backends", found=found, state="missing", advice=advice)


def _optional(name: str) -> Check:
    try:
        return Check(name=name, found=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, found="not installed (optional)", state="note")


def available_memory() -> int:
    """Bytes of main memory that are free, or that this process' control group may still use."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit).is_file() and Path(used).is_file():
            text = Path(limit).read_text().strip()
            if text.isdigit():
                free = min(free, max(int(text) - int(Path(used).read_text()), 0))
    return free


def _memory() -> Check:
    return Check(name="free memory", found=f"{available_memory() / GB:,.1f} GB")


def free_disk(folder: Path) -> int:
    """Free bytes where `folder` is, or will be."""
    existing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    return shutil.disk_usage(existing).free


def _disk(work_dir: Path) -> Check:
    free = free_disk(work_dir)
    found = f"{free / GB:,.1f} GB at {work_dir}"
    if free >= _MIN_FREE_DISK:
        return Check(name="free disk", found=found)
    advice = f"work_dir: only {free / GB:.2f} GB are free at {work_dir}; free some space or move work_dir."
    return Check(name="free disk", found=found, state="missing", advice=advice)


def has_slurm() -> bool:
    """Whether jobs can be submitted from here."""
    return shutil.which("sbatch") is not None


def _slurm() -> Check:
    absent = [name for name in _SLURM if shutil.which(name) is None]
    if not absent:
        return Check(name="SLURM", found=", ".join(_SLURM))
    found = "not here" if len(absent) == len(_SLURM) else f"lacks {', '.join(absent)}"
    return Check(name="SLURM", found=found, state="note")


def check_paths(recipe: Recipe) -> Iterator[Check]:
    """One line for all files and folders that the recipe reads from outside, and one for each missing."""
    wanted = list(_paths(recipe))
    missing = [(key, path) for key, path in wanted if not _exists(path)]
    found = f"{len(wanted) - len(missing)} of {len(wanted)} exist" if wanted else "the recipe names none"
    yield Check(name="paths", found=found, state="note" if missing else "ok")
    for key, path in missing:
        advice = f"{key}: {path} does not exist; correct it, or set --data_root to the folder that holds it."
        yield Check(name=key, found="does not exist", state="missing", advice=advice)
    yield from _base(recipe)


def _paths(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    for name, source in recipe.curate.sources.items():
        for path in source.paths:
            yield f"curate.sources.{name}", data_path(recipe, path)
    for key in ("data", "validation"):
        for path in getattr(recipe.finetune, key):
            yield f"finetune.{key}", data_path(recipe, path)


def _exists(path: Path) -> bool:
    """Whether there is such a file or folder, or one that the glob matches."""
    if path.exists():
        return True
    anchor = Path(path.anchor or ".")
    return any(True for _ in anchor.glob(str(path.relative_to(path.anchor))))


def _base(recipe: Recipe) -> Iterator[Check]:
    """The base model; one that is yet to be imported is no fault."""
    base = recipe.model.base
    try:
        find_architecture(base)
    except MeditronError as error:
        if is_to_come(recipe):
            found = f"to be imported from {recipe.model.import_from}"
            yield Check(name="model.base", found=found, state="note")
        else:
            advice = f"{str(error).rstrip('.')}."
            yield Check(name="model.base", found="not usable", state="missing", advice=advice)
        return
    yield Check(name="model.base", found=f"{base} (a preset: random weights)" if base in PRESETS else base)
