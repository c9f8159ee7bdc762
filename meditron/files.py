"""Writing files so that a reader sees all of them or nothing, and hashing them."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from meditron.errors import DiskFullError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into a `DiskFullError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        free = shutil.disk_usage(_existing_parent(Path(path))).free
        raise DiskFullError(
            f"{path}: the disk is full ({free / 2**20:.0f} MiB free) or the quota is used up; "
            "free some space and start the same command again, finished work is kept"
        ) from error


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in [path, *path.absolute().parents] if parent.exists())


def fsync_directory(folder: str | Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: str | Path) -> None:
    """Flush every file and folder under `folder`, itself included."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as handle:
                os.fsync(handle.fileno())
        fsync_directory(root)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `path` on success and vanishes on failure.

    Raises:
        DiskFullError: the disk or quota is used up.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.chmod(aside, 0o666 & ~_umask())
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_write(path) as handle:
        handle.write(text.encode())


def atomic_write_json(path: str | Path, value: Any) -> None:  # noqa: ANN401 - JSON is any value
    """Write `value` as indented JSON, whole or not at all."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` on success and vanishes on failure.

    An older `path` stays until the new one is whole; it is then moved aside, replaced, and removed.

    Raises:
        DiskFullError: the disk or quota is used up.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            os.chmod(aside, 0o777 & ~_umask())
            yield aside
            fsync_tree(aside)
            old = aside.with_suffix(".old")
            if path.exists():
                os.replace(path, old)
            os.replace(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        fsync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
