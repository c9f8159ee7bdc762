import json
from pathlib import Path

import pytest

from meditron.errors import ManifestError
from meditron.manifest import Manifest, config_hash, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.txt").write_text("BP <140 mmHg")
    write(folder)
    return folder


def write(folder: Path) -> Manifest:
    return write_manifest(
        folder, kind="corpus", config={"b": 1, "a": 2}, inputs={"raw": "00"}, counts={"n": 1}
    )


def test_round_trip(folder: Path) -> None:
    manifest = read_manifest(folder, kind=("shards", "corpus"), check_files="full")
    assert manifest.counts == {"n": 1}
    assert list(manifest.files) == ["train/a.txt"]
    assert manifest.config_hash == config_hash({"a": 2, "b": 1})
    assert manifest.packages["torch"].startswith("2.13")
    assert len(manifest.hash) == 64


def test_identity_follows_the_files(folder: Path) -> None:
    before = read_manifest(folder, kind="corpus").hash
    (folder / "train" / "a.txt").write_text("BP <130 mmHg")
    assert write(folder).hash != before


def test_flipped_byte_is_found_and_named(folder: Path) -> None:
    path = folder / "train" / "a.txt"
    path.write_text("BP >140 mmHg")
    read_manifest(folder, kind="corpus", check_files="size")
    with pytest.raises(ManifestError, match=r"train/a\.txt: its SHA-256 differs"):
        read_manifest(folder, kind="corpus", check_files="full")


def test_cut_file_is_found_by_size(folder: Path) -> None:
    (folder / "train" / "a.txt").write_text("BP")
    with pytest.raises(ManifestError, match="2 bytes, the manifest says 12"):
        read_manifest(folder, kind="corpus")


def test_missing_file(folder: Path) -> None:
    (folder / "train" / "a.txt").unlink()
    with pytest.raises(ManifestError, match="listed in the manifest but missing"):
        read_manifest(folder, kind="corpus")


def test_missing_manifest_and_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"has no manifest\.json"):
        read_manifest(folder, kind="corpus")
    with pytest.raises(ManifestError, match="does not exist"):
        read_manifest(folder / "nowhere", kind="corpus")


def test_wrong_kind_and_schema(folder: Path) -> None:
    with pytest.raises(ManifestError, match="holds a corpus, a model is needed"):
        read_manifest(folder, kind="model")
    record = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(ManifestError, match="schema 99"):
        read_manifest(folder, kind="corpus")


@pytest.mark.parametrize("content", ["{", "[]", "", '{"schema_version": 1, "kind": "corpus"}'])
def test_damaged_manifest(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ManifestError, match="make the folder again"):
        read_manifest(folder, kind="corpus")
