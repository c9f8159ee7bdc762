"""The `manifest.json` beside everything a stage writes.

It says what the files are, from what they were made, and how; a stage refuses an input
whose manifest is missing, of another schema or kind, or does not match its files.
"""

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from meditron.errors import ManifestError
from meditron.files import atomic_write_json, sha256_file

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
RECORDED_PACKAGES = (
    "meditron",
    "torch",
    "transformers",
    "megatron-core",
    "datatrove",
    "tokenizers",
    "lm-eval",
)
CheckFiles = Literal["none", "size", "full"]


@dataclass(kw_only=True, slots=True, frozen=True)
class Manifest:
    """What a folder holds and from what it was made."""

    schema_version: int
    """Version of this record's own form."""
    kind: str
    """What the folder is: corpus, shards, checkpoint, model, results."""
    created: str
    """UTC time of writing, ISO 8601."""
    config: Mapping[str, Any]
    """The resolved configuration that made it."""
    config_hash: str
    """SHA-256 of `config` as canonical JSON."""
    inputs: Mapping[str, str]
    """Name of each input to the hash of its manifest or file."""
    counts: Mapping[str, Any]
    """Documents, tokens, parameters: whatever there is to count."""
    licenses: Mapping[str, str]
    """Source name to licence."""
    files: Mapping[str, Mapping[str, Any]]
    """Relative path to its `bytes` and `sha256`."""
    packages: Mapping[str, str]
    """Versions of the packages that made it."""
    git_revision: str | None
    """Commit of the code, where it ran from a checkout."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What only this kind has."""
    hash: str = ""
    """SHA-256 of the manifest file itself; the identity that later stages record."""


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def write_manifest(
    folder: str | Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    counts: Mapping[str, Any],
    licenses: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Hash every file under `folder` and write its manifest.

    Returns:
        the manifest, its `hash` filled.
    """
    folder = Path(folder)
    config = json.loads(json.dumps(config, default=str))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config,
        config_hash=config_hash(config),
        inputs=dict(inputs),
        counts=dict(counts),
        licenses=dict(licenses or {}),
        files=_describe_all(folder),
        packages=package_versions(),
        git_revision=git_revision(),
        extra=dict(extra or {}),
    )
    record = asdict(manifest)
    del record["hash"]
    atomic_write_json(folder / MANIFEST, record)
    return _with_hash(record, folder)


def _with_hash(record: dict[str, Any], folder: Path) -> Manifest:
    return Manifest(**record, hash=sha256_file(folder / MANIFEST))


def _describe_all(folder: Path) -> dict[str, dict[str, Any]]:
    names = list(_file_names(folder))
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter's lock
        return dict(zip(names, pool.map(_describe, (folder / name for name in names)), strict=True))


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _file_names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            yield path.relative_to(folder).as_posix()


def read_manifest(
    folder: str | Path, *, kind: str | tuple[str, ...], check_files: CheckFiles = "size"
) -> Manifest:
    """Read a folder's manifest and hold it against its files.

    Args:
        folder: the folder that holds `manifest.json`.
        kind: the kind, or kinds, that the caller can use.
        check_files: `size` compares names and sizes, `full` also the SHA-256, `none` neither.

    Raises:
        ManifestError: missing, damaged, of another schema or kind, or not matching a file (named).
    """
    folder = Path(folder)
    record = _load(folder)
    kinds = (kind,) if isinstance(kind, str) else kind
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ManifestError(
            f"{folder / MANIFEST}: schema {record.get('schema_version')}, this version reads "
            f"{SCHEMA_VERSION}; make the folder again with this version"
        )
    if record.get("kind") not in kinds:
        raise ManifestError(
            f"{folder}: holds a {record.get('kind')}, a {' or '.join(kinds)} is needed; check the path"
        )
    try:
        manifest = _with_hash(record, folder)
    except TypeError as error:
        raise ManifestError(f"{folder / MANIFEST}: incomplete ({error}); make the folder again") from error
    if check_files != "none":
        paths = [folder / name for name in manifest.files]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_check_file, paths, manifest.files.values(), repeat(check_files)))
    return manifest


def _load(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        what = "has no manifest.json, so its stage did not finish" if folder.is_dir() else "does not exist"
        raise ManifestError(f"{folder}: {what}; run the stage that makes it") from None
    except ValueError as error:
        raise ManifestError(f"{path}: not readable as JSON ({error}); make the folder again") from error
    if not isinstance(record, dict):
        raise ManifestError(f"{path}: not a JSON object; make the folder again")
    return record


def _check_file(path: Path, described: Mapping[str, Any], check_files: CheckFiles) -> None:
    if not path.is_file():
        raise ManifestError(f"{path}: listed in the manifest but missing; make the folder again")
    size = path.stat().st_size
    if size != described["bytes"]:
        raise ManifestError(
            f"{path}: {size} bytes, the manifest says {described['bytes']}; "
            "the file was changed or cut, make the folder again"
        )
    if check_files == "full" and sha256_file(path) != described["sha256"]:
        raise ManifestError(
            f"{path}: its SHA-256 differs from the manifest; the file was damaged, make the folder again"
        )


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that shape results."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@cache
def git_revision() -> str | None:
    """Commit of the checkout this code runs from, with `-dirty` where it was changed; else None."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
