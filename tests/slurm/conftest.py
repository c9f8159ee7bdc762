"""A cluster for all tests of this folder, or the reason why there is none."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four idle nodes; SLURM_CONF points to them."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no Slurm: {reason}")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    running = Cluster(number=1 + int(worker.removeprefix("gw")))
    with pytest.MonkeyPatch.context() as patch:
        try:
            running.start()
            for name, value in running.environment.items():
                patch.setenv(name, value)
            yield running
        finally:
            running.stop()


@pytest.fixture(autouse=True)
def empty_queue(cluster: Cluster) -> Iterator[None]:
    """No test leaves jobs to the next."""
    yield
    cluster.empty()
