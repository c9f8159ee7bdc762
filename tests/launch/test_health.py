import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.distributed import HashStore

from launch.health import ecc_problems, local_problems
from launch.meeting import Finding, exchange, unfit_nodes


def options(**values: object) -> argparse.Namespace:
    return argparse.Namespace(**{"gpus": 0, "min_free_gb": 0.0, "folder": [], "command": None, **values})


def test_memory_errors_of_a_gpu_are_named() -> None:
    assert list(ecc_problems("0, 0\n1, 3\n2, [N/A]\n")) == ["GPU 1 has 3 uncorrected memory errors"]


def test_missing_gpus_are_a_problem() -> None:
    assert next(local_problems(options(gpus=64))).endswith("of 64 GPUs are visible")


def test_disks_must_have_room_and_be_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fits = options(folder=[str(tmp_path / "new")])
    assert list(local_problems(fits)) == []
    assert list((tmp_path / "new").iterdir()) == []
    full = list(local_problems(options(folder=[str(tmp_path)], min_free_gb=1e9)))
    assert len(full) == 1
    assert "GB free, 1e+09 are asked for" in full[0]
    assert "cannot be written" in next(local_problems(options(folder=[str(tmp_path / "file")])))


def test_a_command_that_fails_tells_its_last_line() -> None:
    told = list(local_problems(options(command="echo one; echo two >&2; exit 3")))
    assert told == ["launch.health_command ended with code 3: two"]
    assert list(local_problems(options(command="true"))) == []


def test_a_clock_that_is_off_makes_a_node_unfit() -> None:
    clocks = {"n1": 100.0, "n2": 101.0, "n3": 160.0, "n4": 100.5}
    findings = [Finding(node=node, problems=(), clock=clock) for node, clock in clocks.items()]
    findings.append(Finding(node="n1", problems=("GPU 1 is hot",), clock=100.0))
    assert unfit_nodes(findings) == {"n1": ["GPU 1 is hot"], "n3": ["the clock is +60 s off"]}


def meet(count: int, said: dict[int, tuple[str, ...]], seconds: float) -> list[dict[str, list[str]]]:
    """What each of the processes in `said` hears, of `count` on half as many nodes."""
    store, nodes = HashStore(), [f"n{rank // 2}" for rank in range(count)]
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(exchange, store, rank, nodes, some, seconds) for rank, some in said.items()]
        return [answer.result() for answer in asked]


def test_all_processes_hear_of_every_problem() -> None:
    assert meet(4, {0: (), 1: (), 2: (), 3: ()}, 60) == [{}] * 4
    told = meet(4, {0: (), 1: (), 2: ("fan broken", "hot"), 3: ()}, 60)
    assert told == [{"n1": ["fan broken", "hot"]}] * 4


def test_a_process_that_never_comes_makes_its_node_unfit() -> None:
    told = meet(6, {0: (), 1: (), 2: ("hot",), 3: (), 4: ()}, 1.0)
    assert told == [{"n1": ["hot"], "n2": ["process 5 does not answer"]}] * 5
