import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meditron.checkpoints import remove_leftovers
from meditron.fencing import Fence, TakenOverError
from meditron.files import atomic_dir
from meditron.runs import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from meditron.fencing import Fence
fence = Fence.take(Path(sys.argv[1]))
print("taken", fence.number, flush=True)
while True:
    time.sleep(0.05)
    fence.check()
"""


def test_a_later_start_takes_over_and_the_earlier_may_not_write(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first.sole_writer():
        first.log({"step": 1})
        earlier = first._fence
        assert earlier is not None
        second._fence = Fence.take(tmp_path, wait_seconds=0.0)
        second.log({"step": 2})
        for write in (lambda: first.log({"step": 3}), lambda: first.mark("finished"), earlier.check):
            with pytest.raises(TakenOverError, match=r"process \d+ on .* has taken this run over"):
                write()
        second.check_writer()
    assert [record["step"] for record in second.read_log()] == [1, 2]


def test_a_start_that_stood_still_after_its_check_puts_no_checkpoint_in_its_place(tmp_path: Path) -> None:
    old, checkpoints = RunFolder(tmp_path), tmp_path / "checkpoints"
    with old.sole_writer():
        with pytest.raises(FileNotFoundError), atomic_dir(checkpoints / "step_00000007") as aside:
            (aside / "weights").write_text("old")
            old.check_writer()
            Fence.take(tmp_path, wait_seconds=0.0)
            remove_leftovers(checkpoints)
        with pytest.raises(TakenOverError), atomic_dir(checkpoints / "step_00000008"):
            old.check_writer()
    assert list(checkpoints.iterdir()) == []


def test_a_new_start_waits_until_the_old_one_is_gone(tmp_path: Path) -> None:
    old = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert old.stdout is not None
    assert old.stdout.readline() == "taken 1\n"
    fence = Fence.take(tmp_path)
    assert fence.number == 2
    assert old.wait(10) == 1  # it saw the new number, and ended by itself
    fence.check()


def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    first = Fence.take(tmp_path)
    began = time.monotonic()
    second = Fence.take(tmp_path, wait_seconds=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    second.check()
    with pytest.raises(TakenOverError):
        first.check()


def test_numbers_are_taken_once(tmp_path: Path) -> None:
    count = 4
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    racing = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("starts/[0-9]*"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    numbers = sorted(path.name for path in tmp_path.glob("starts/[0-9]*"))
    assert numbers == [f"{number:08d}" for number in range(1, count + 1)]
    for process in racing:
        process.kill()
        process.wait()
    assert all(json.loads((tmp_path / "starts" / name).read_text())["pid"] for name in numbers)


def test_a_start_says_which_job_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Fence.take(tmp_path)
    first.release()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    Fence.take(tmp_path)
    with pytest.raises(TakenOverError, match=r"\(job 77\) has taken this run over"):
        first.check()
