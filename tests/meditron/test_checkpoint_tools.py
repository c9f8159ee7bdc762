"""Checkpoints listed and verified, from folders that a hand wrote."""

from pathlib import Path

import pytest

from meditron.cli import main
from meditron.manifest import write_manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the checkpoints of two steps."""
    for step in (500, 1000):
        folder = tmp_path / "run" / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(bytes(2_000_000))
        counts = {"step": step, "tokens": step * 4096}
        write_manifest(folder, kind="checkpoint", config={"engine": "megatron"}, inputs={}, counts=counts)
    return tmp_path / "run"


def flip(run: Path) -> Path:
    """Change one bit of the newer one."""
    file = run / "checkpoints" / "step_00001000" / "weights.bin"
    content = bytearray(file.read_bytes())
    content[77] ^= 1
    file.write_bytes(content)
    return file


def test_they_are_listed_the_newest_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:5] for line in lines] == [
        ["1000", "4,096,000", "2.0", "MB", "megatron"],
        ["500", "2,048,000", "2.0", "MB", "megatron"],
    ]


def test_the_run_folder_of_a_recipe_is_the_default(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "--pretrain.run_dir", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_verifying_finds_a_flipped_bit_that_listing_does_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "verify", str(run)]) == 0
    assert capsys.readouterr().out.count(": whole") == 2
    file = flip(run)
    assert main(["checkpoint", "list", str(run)]) == 0
    assert "damaged" not in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(run)]) == 5
    out = capsys.readouterr().out
    assert f"{file}: its SHA-256 differs" in out
    assert "step_00000500: whole" in out


def test_one_checkpoint_and_a_cut_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "checkpoints" / "step_00000500"
    assert main(["checkpoint", "verify", str(folder)]) == 0
    (folder / "weights.bin").write_bytes(b"cut")
    assert main(["checkpoint", "list", str(folder)]) == 0
    assert "damaged  " in capsys.readouterr().out


def test_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(tmp_path)]) == 5
    said = capsys.readouterr()
    assert "holds no checkpoint; give a run folder" in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["foo"], 5, "foo: does not exist; say `meditron checkpoint list`, `verify` or `convert`"),
        (
            ["convert", "x", "--to", "bogus"],
            2,
            "Expected one of 'hf', 'megatron', 'deepspeed' or null, got bogus",
        ),
    ],
)
def test_words_that_mean_nothing(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", *words]) == code
    assert sentence in capsys.readouterr().err
