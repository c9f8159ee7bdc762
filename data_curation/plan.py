"""Which input files make which task: fixed by the configuration and the files, not by the workers."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from data_curation.decontaminate.benchmarks import benchmark_files
from data_curation.phi.names import model_files, model_version
from data_curation.readers import suffixes
from meditron.config import CurateConfig, SourceConfig
from meditron.errors import ConfigError, InputError

_FORM = 2
"""Form of what an interrupted run leaves for the next; rises when that changes."""


@dataclass(kw_only=True, frozen=True)
class Chunk:
    """A run of consecutive files of one source: one task, and one output file per split."""

    index: int
    """Position among all chunks; the rank of its task."""
    source: str
    """Name of the source."""
    number: int
    """Position among the source's chunks; the number in the output file's name."""
    files: tuple[str, ...]
    """Paths relative to the plan's root, in order."""
    bytes: int
    """Size of the files together."""

    @property
    def name(self) -> str:
        """`<source>-00000`, the stem of the chunk's files."""
        return f"{self.source}-{self.number:05d}"


@dataclass(kw_only=True, frozen=True)
class Plan:
    """All work of one curation."""

    root: str
    """Folder that the files' paths are relative to."""
    sources: Mapping[str, SourceConfig]
    """Sources in the order that decides which of two equal documents stays."""
    chunks: tuple[Chunk, ...]
    """Tasks, in source order."""
    key: str
    """Changes with anything that changes the output: settings, file names, sizes, times."""


def make_plan(config: CurateConfig, root: str | Path, seed: int) -> Plan:
    """List the inputs and cut them into chunks.

    Raises:
        ConfigError: no source is configured.
        InputError: a source's path matches no file.
    """
    if not config.sources:
        raise ConfigError("curate.sources: is empty; name at least one source with its path and reader")
    root = Path(root).absolute()
    chunks: list[Chunk] = []
    for name, source in config.sources.items():
        files = _source_files(name, source, root)
        for number, group in enumerate(_group(files, _limit_of(source, config))):
            size = sum(file.stat().st_size for file in group)
            relative = tuple(os.path.relpath(file, root) for file in group)
            chunks.append(Chunk(index=len(chunks), source=name, number=number, files=relative, bytes=size))
    return Plan(
        root=str(root),
        sources=dict(config.sources),
        chunks=tuple(chunks),
        key=_key(config, root, chunks, seed),
    )


def _limit_of(source: SourceConfig, config: CurateConfig) -> float:
    # "The first n records" is one count, so it needs one task.
    return float("inf") if source.limit is not None else config.chunk_megabytes * 2**20


def _source_files(name: str, source: SourceConfig, root: Path) -> list[Path]:
    endings = suffixes(source.reader)
    files: dict[Path, None] = {}  # ordered, and a file named twice is read once
    for pattern in source.paths:
        found = sorted(_matches(root / pattern, endings))
        if not found:
            raise InputError(
                f"curate.sources.{name}.path: no file for reader {source.reader!r} "
                f"(endings {', '.join(endings)}) at {root / pattern}; check the path and data_root"
            )
        files.update(dict.fromkeys(found))
    return list(files)


def _matches(path: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Files that a path means: itself, a folder's files with the reader's endings, or a glob's."""
    if path.is_file():
        yield path
    elif path.is_dir():
        for file in path.rglob("*"):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.name.lower().endswith(endings) and file.is_file() and not hidden:
                yield file
    else:
        for match in glob.iglob(str(path), recursive=True):
            yield from _matches(Path(match), endings)


def _group(files: list[Path], limit: float) -> Iterator[list[Path]]:
    """Consecutive files of at most `limit` bytes together, at least one file each."""
    group: list[Path] = []
    size = 0
    for file in files:
        file_size = file.stat().st_size
        if group and size + file_size > limit:
            yield group
            group, size = [], 0
        group.append(file)
        size += file_size
    if group:
        yield group


def _key(config: CurateConfig, root: Path, chunks: list[Chunk], seed: int) -> str:
    settings = asdict(config)
    for name in (
        "workers",
        "output",
        "part",
        "parts",
        "executor",
        "task_memory_gb",
        "train_classifier",
    ):  # these do not change what is written
        del settings[name]
    digest = hashlib.sha256(
        json.dumps([_FORM, settings, seed, str(root)], sort_keys=True, default=str).encode()
    )
    inputs = [(chunk.index, root / file, file) for chunk in chunks for file in chunk.files]
    inputs += [(-1, path, str(path)) for path in benchmark_files(config.decontaminate.benchmarks, root)]
    if config.filters.classifier is not None and os.path.exists(config.filters.classifier):
        inputs.append((-1, Path(config.filters.classifier), config.filters.classifier))
    if config.phi.names_model is not None:
        inputs += [(-1, path, str(path)) for path in model_files(config.phi.names_model)]
        digest.update(model_version(config.phi.names_model).encode())
    for index, path, name in inputs:
        status = os.stat(path)
        digest.update(f"{index}|{name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
