"""Tasks in processes of this machine."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from datatrove.executor.local import LocalPipelineExecutor

from data_curation.executor.tasks import Tasks
from meditron.errors import MeditronError


class LocalTasks(Tasks, LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's local executor with an eye on its workers: its own pool would wait for a killed one."""

    def start(self, ranks: Sequence[int]) -> None:
        """Run these tasks; one worker stays in this process.

        Raises:
            MeditronError: a worker was killed from outside.
        """
        workers = min(self.workers, len(ranks))
        if workers <= 1:
            for rank in ranks:
                self._run_for_rank(rank)
            return
        with ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),  # a fork would copy the caller's locks
            initializer=_start_worker,
            initargs=(self,),
        ) as pool:
            try:
                for future in as_completed([pool.submit(_run_task, rank) for rank in ranks]):
                    future.result()
            except BrokenProcessPool:
                raise MeditronError(
                    "curate: a worker process was killed, most likely for want of memory; lower "
                    "curate.workers and start the same command again, finished tasks are kept"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


_worker: LocalTasks | None = None


def _start_worker(executor: LocalTasks) -> None:
    global _worker
    _worker = executor


def _run_task(rank: int) -> None:
    assert _worker is not None, "the pool's initializer ran"
    _worker._run_for_rank(rank)
