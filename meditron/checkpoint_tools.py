"""`meditron checkpoint list` and `verify`: what checkpoints there are, and whether their bytes are intact."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meditron.checkpoints import saved
from meditron.config import Recipe
from meditron.errors import CheckpointError, ManifestError
from meditron.manifest import MANIFEST, CheckFiles, Manifest, read_manifest


@dataclass(frozen=True, kw_only=True)
class Found:
    """One checkpoint on a disk."""

    path: Path
    """Its folder."""
    manifest: Manifest | None
    """None where it is damaged."""
    problem: str = ""
    """What is wrong with it."""


def main(recipe: Recipe) -> int:
    """`meditron checkpoint` without a second word lists."""
    return list(recipe)


def list(recipe: Recipe) -> int:
    """Print step, size, tokens, layout and date of each checkpoint; names and sizes of files are compared.

    Raises:
        CheckpointError: there is none.
    """
    folders = [*_folders(recipe)]
    print(f"{'step':>9}  {'tokens':>15}  {'size':>10}  {'engine':<9}  {'made (UTC)':<16}  checkpoint")
    for found in _look(folders, "size"):
        print(_line(found))
    return 0


def verify(recipe: Recipe) -> int:
    """Hold every byte of each checkpoint against its manifest.

    Returns:
        0, or the exit code of CheckpointError when one is damaged.

    Raises:
        CheckpointError: there is none.
    """
    damaged = 0
    for found in _look(_folders(recipe), "full"):
        damaged += found.manifest is None
        print(f"{found.path}: whole" if found.manifest else found.problem)
    return CheckpointError.exit_code if damaged else 0


def _look(folders: Iterable[Path], check: CheckFiles) -> Iterator[Found]:
    for path in folders:
        try:
            yield Found(path=path, manifest=read_manifest(path, kind="checkpoint", check_files=check))
        except ManifestError as error:
            yield Found(path=path, manifest=None, problem=str(error))


def _folders(recipe: Recipe) -> Iterator[Path]:
    for name in recipe.checkpoints.paths or [str(recipe.pretrain.run_dir)]:
        path = Path(name)
        if not path.is_dir():
            raise CheckpointError(
                f"{path}: does not exist; say `meditron checkpoint list`, `verify` or `convert`, and a run "
                "folder of `meditron pretrain`"
            )
        runs = [path, path / "checkpoints"]
        inside = [checkpoint for run in runs for checkpoint in saved(run)]
        if (path / MANIFEST).is_file() and not inside:
            inside = [path]
        if not inside:
            raise CheckpointError(f"{path}: holds no checkpoint; give a run folder of `meditron pretrain`")
        yield from inside


def _line(found: Found) -> str:
    manifest = found.manifest
    if manifest is None:
        return f"{'damaged':>9}  {found.problem}"
    size = sum(described["bytes"] for described in manifest.files.values())
    made = manifest.created[:16].replace("T", " ")
    counts, engine = manifest.counts, manifest.config.get("engine", "")
    return (
        f"{counts.get('step', ''):>9}  {counts.get('tokens', 0):>15,}  {size / 1e6:>7,.1f} MB  "
        f"{engine:<9}  {made}  {found.path}"
    )
