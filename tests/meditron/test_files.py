import errno
import os
from pathlib import Path

import pytest

from meditron.errors import DiskFullError
from meditron.files import atomic_dir, atomic_write, atomic_write_json, disk_errors, sha256_file


def test_atomic_write_replaces_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "a.json"
    atomic_write_json(target, {"x": 1})
    atomic_write_json(target, {"x": 2})
    assert target.read_text() == '{\n  "x": 2\n}\n'
    assert os.listdir(target.parent) == ["a.json"]


def test_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(target) as handle:
        handle.write(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_atomic_dir_replaces_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for content in ("one", "two"):
        with atomic_dir(target) as folder:
            (folder / content).write_text(content)
    assert os.listdir(target) == ["two"]
    assert os.listdir(tmp_path) == ["out"]


def test_failed_atomic_dir_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_dir(target) as folder:
        (folder / "kept").write_text("x")
    with pytest.raises(RuntimeError), atomic_dir(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert os.listdir(target) == ["kept"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_names_the_path(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(DiskFullError, match=r"model\.bin: the disk is full"),
        disk_errors(tmp_path / "model.bin"),
    ):
        raise OSError(code, "full")


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f").startswith("ba7816bf8f01cfea")
