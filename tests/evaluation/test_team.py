"""Sharing work between processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.team import Team


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 5))
def test_every_job_is_done_once_and_in_order(costs: list[int], size: int) -> None:
    parts = [Team(rank=rank, size=size).share(costs) for rank in range(size)]
    assert [job for part in parts for job in part] == list(range(len(costs)))
    heaviest = max((sum(costs[job] for job in part) for part in parts), default=0)
    assert heaviest <= sum(costs) / size + 2 * max(costs, default=0)


def test_one_process_does_everything_and_waits_for_nobody() -> None:
    team = Team()
    assert team.share([5, 5, 5]) == range(3)
    assert team.leads
    team.wait()
    assert team.agree(True) is True


@pytest.mark.parametrize(("costs", "cuts"), [([1] * 4, [2, 2]), ([9, 1, 1, 1], [1, 3]), ([7], [1, 0])])
def test_parts_weigh_about_the_same(costs: list[int], cuts: list[int]) -> None:
    assert [len(Team(rank=rank, size=2).share(costs)) for rank in range(2)] == cuts
