"""Two runs side by side, from logs written by hand."""

from pathlib import Path
from typing import Any

import pytest

from meditron.cli import main
from meditron.runs import RunFolder


def write_run(path: Path, losses: list[Any], lr: float = 1e-3, start: int = 1, speed: float = 100.0) -> Path:
    run = RunFolder(path).create({"work_dir": str(path), "pretrain": {"optimizer": {"lr": lr}}}, "pretrain")
    run.log({"event": "validation", "step": 0, "source": "papers", "loss": 5.0})
    for step, loss in enumerate(losses, start=start):
        run.log({"event": "step", "step": step, "loss": loss, "tokens_per_second": speed})
    return path


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["compare", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_equal_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_run(tmp_path / "a", [4.0, 3.0, "nan"])
    second = write_run(tmp_path / "b", [4.0, 3.0, "nan", 2.5], speed=50.0)
    code, out = compared(capsys, first, second)
    assert code == 0
    assert "The losses of the 3 steps in common are equal." in out
    assert "A step of B takes 2.00 times as long as one of A (median)." in out
    assert "in A," not in out


def test_the_first_step_that_differs_is_named_with_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", [4.0, 3.0, 2.0, 1.0])
    second = write_run(tmp_path / "b", [4.0, 3.0001, 2.5, 1.0], lr=2e-3)
    code, out = compared(capsys, first, second)
    assert code == 1
    assert "The losses differ from step 2 on: 3.0 and 3.0001." in out
    assert "Largest difference of a step: 0.5 nats, at step 3." in out
    assert "  pretrain.optimizer.lr: 0.001 in A, 0.002 in B" in out
    assert (
        "differ from step 3 on (within 0.01)"
        in compared(capsys, first, second, "--compare.tolerance", 0.01)[1]
    )
    assert compared(capsys, first, second, "--compare.tolerance", 0.6)[0] == 0


def test_held_out_losses_count_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_run(tmp_path / name, [4.0, 3.0]) for name in "ab")
    RunFolder(first).log({"event": "validation", "step": 2, "source": "papers", "loss": 4.0})
    assert "held-out loss: 0 nats" in compared(capsys, first, second)[1]
    RunFolder(second).log({"event": "validation", "step": 2, "source": "papers", "loss": 4.5})
    code, out = compared(capsys, first, second)
    assert code == 1
    assert "are equal, but held-out losses differ." in out
    assert "Largest difference of a held-out loss: 0.5 nats." in out
    assert compared(capsys, first, second, "--compare.tolerance", 0.5)[0] == 0


def test_runs_without_a_common_held_out_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_run(tmp_path / name, [4.0, 3.0]) for name in "ab")
    log = RunFolder(second).log_path
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "validation" not in line))
    code, out = compared(capsys, first, second)
    assert code == 0
    assert "held-out" not in out


def test_a_step_that_was_done_again_counts_as_it_was_done_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", [4.0, 3.0])
    second = write_run(tmp_path / "b", [4.0, 9.0])
    RunFolder(second).log({"event": "step", "step": 2, "loss": 3.0, "tokens_per_second": 1.0})
    assert compared(capsys, first, second)[0] == 0


def test_a_loss_that_is_no_number_is_not_equal_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = compared(capsys, write_run(tmp_path / "a", [4.0]), write_run(tmp_path / "b", ["nan"]))
    assert (code, "differ from step 1 on: 4.0 and nan" in out) == (1, True)


@pytest.mark.parametrize(
    ("build", "code", "sentence"),
    [
        (lambda folder: [folder / "a"], 2, "1 are named; say `meditron compare A B`"),
        (lambda folder: [folder / "a", folder / "none"], 3, "none: does not exist; give the folder"),
        (lambda folder: [folder / "a", write_run(folder / "late", [1.0], start=9)], 3, "no step in common"),
    ],
)
def test_what_cannot_be_compared(
    build: Any, code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", [4.0])
    assert main(["compare", *map(str, build(tmp_path))]) == code
    assert sentence in capsys.readouterr().err
