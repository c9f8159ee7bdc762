"""The same recipe by other executors; SLURM is in tests/slurm."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from datatrove.pipeline.base import PipelineStep

from data_curation.curate import main
from data_curation.dedup import stages
from data_curation.executor import Runner
from data_curation.executor.local import LocalTasks
from meditron.cli import main as meditron
from meditron.config import CurateConfig, DedupConfig, LaunchConfig, Recipe, SourceConfig
from meditron.config.recipe import resolve
from meditron.errors import ConfigError, DiskFullError, InputError, MeditronError


def write_sources(folder: Path, files: int = 3) -> None:
    """Files of documents, some of which are near-duplicates across files."""
    for file in range(files):
        lines = []
        for number in range(12):
            words = [f"finding{(number % 9) * 1000 + place}" for place in range(200)]
            words[10 * file] = f"file{file}"
            lines.append(json.dumps({"id": f"{file}-{number}", "text": f"eGFR <60; {' '.join(words)}"}))
        (folder / f"{file}.jsonl").write_text("\n".join(lines))


def curated(folder: Path, work: str, **settings: object) -> dict[str, bytes]:
    """Files of the corpus of a run."""
    sources = {"notes": SourceConfig(path="*.jsonl", reader="jsonl", license="CC0-1.0")}
    curate = CurateConfig(sources=sources, chunk_megabytes=0.001, **settings)  # type: ignore[arg-type]
    recipe = resolve(Recipe(work_dir=str(folder / work), data_root=str(folder), curate=curate))
    main(recipe)
    return files_of(folder / work)


def files_of(work: Path) -> dict[str, bytes]:
    """Files of a corpus but for its manifest, which has a date."""
    corpus = work / "corpus"
    names = (path for path in corpus.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(corpus)): path.read_bytes() for path in names}


def tasks_of(work: Path, stage: str) -> int:
    """How many tasks of a stage ran."""
    return len(list((work / "logs/curate" / stage / "logs").iterdir()))


@pytest.fixture
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage has several tasks."""
    monkeypatch.setattr(stages, "KEYS_PER_TASK", 200)
    monkeypatch.setattr(stages, "PAIRS_PER_TASK", 5)


@pytest.mark.usefixtures("many_tasks")
def test_workers_write_the_same_corpus(tmp_path: Path) -> None:
    write_sources(tmp_path)
    expected = curated(tmp_path, "one")
    assert b"near duplicate" in expected["duplicates.jsonl"]
    assert curated(tmp_path, "other", workers=2) == expected
    assert tasks_of(tmp_path / "other", "extract") == 3
    assert tasks_of(tmp_path / "other", "bands") > 1
    assert tasks_of(tmp_path / "other", "compare") > 1


@pytest.fixture
def ray() -> Iterator[None]:
    """No cluster that a shell names; and what is started here ends with the test."""
    library = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    library.shutdown()


@pytest.mark.usefixtures("ray")
def test_ray_writes_the_same_corpus(tmp_path: Path) -> None:
    write_sources(tmp_path, files=2)
    near = DedupConfig(near=False)  # every task is a process to start, which takes seconds
    expected = curated(tmp_path, "one", dedup=near)
    assert curated(tmp_path, "other", dedup=near, executor="ray", workers=2) == expected
    assert tasks_of(tmp_path / "other", "extract") == tasks_of(tmp_path / "other", "publish") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray", "many_tasks")
def test_ray_writes_the_same_corpus_in_every_stage(tmp_path: Path) -> None:
    write_sources(tmp_path)
    expected = curated(tmp_path, "one")
    assert curated(tmp_path, "other", executor="ray", workers=2) == expected
    assert tasks_of(tmp_path / "other", "bands") > 1


class Fails(PipelineStep):  # type: ignore[misc]
    """A step that ends as its task's rank says."""

    name = "fails"
    type = "test"

    def run(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[object]:
        if rank == 1:
            raise DiskFullError("part: the disk is full; free some space")
        if rank == 2:
            raise ValueError("not a number")
        yield from ()


@pytest.mark.parametrize(
    ("ranks", "error", "message"),
    [
        ([0, 1], DiskFullError, "the disk is full"),
        ([2], MeditronError, r"a task failed \(ValueError: not a number\); its log is .*task_00002"),
        ([3], MeditronError, "task 3 of set ran out of luck"),
    ],
)
def test_the_error_of_a_task_elsewhere_is_raised_here(
    tmp_path: Path, ranks: list[int], error: type[Exception], message: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    executor = LocalTasks(pipeline=[Fails()], tasks=4, workers=1, logging_dir=str(folder))
    for rank in range(3):
        try:
            executor.start([rank])
        except (DiskFullError, ValueError):
            assert rank > 0
    with pytest.raises(error, match=message):
        executor.raise_failure(ranks, "ran out of luck")
    executor.raise_failure([], "")


def test_a_task_that_failed_once_and_then_ran_is_no_failure(tmp_path: Path) -> None:
    executor = LocalTasks(pipeline=[Fails()], tasks=3, workers=1, logging_dir=str(tmp_path))
    with pytest.raises(ValueError, match="not a number"):
        executor.start([2])
    assert (tmp_path / "failures" / "00002.json").exists()
    executor.pipeline = []
    executor.start([2])
    assert not (tmp_path / "failures" / "00002.json").exists()
    assert executor.get_incomplete_ranks() == [0, 1]


def test_missing_software_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sources(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", None)
    given = ["--data_root", str(tmp_path), "--work_dir", str(tmp_path / "work")]
    sources = '{"notes": {"path": "*.jsonl", "reader": "jsonl"}}'
    for executor, word in (("slurm", "sbatch is not on the PATH"), ("ray", "ray is not installed")):
        assert meditron(["curate", "--executor", executor, "--curate.sources", sources, *given]) == 10
        assert word in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["echo 7", "exit 1", None])
def test_jobs_that_are_at_work_are_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    write_sources(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "work/corpus.work/extract").mkdir(parents=True)
    (tmp_path / "work/corpus.work/extract/jobs.txt").write_text("7\n8\n")
    squeue = tmp_path / "squeue"
    if answer is not None:
        squeue.write_text(f"#!/bin/sh\n{answer}\n")
        squeue.chmod(0o755)
    with pytest.raises(InputError, match=r"jobs 7 8 of an earlier command .* scancel 7 8"):
        curated(tmp_path, "work")
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    squeue.chmod(0o755)
    assert curated(tmp_path, "work")


def test_a_part_is_read_here() -> None:
    with pytest.raises(ConfigError, match=r"curate\.executor"):
        CurateConfig(part=0, parts=2, executor="ray")


def test_a_runner_without_tasks_of_its_part_does_nothing(tmp_path: Path) -> None:
    runner = Runner(CurateConfig(), LaunchConfig())
    runner.run([Fails()], sizes=[1.0, 1.0], folder=tmp_path, title="none", part=(0, 3))
    assert not (tmp_path / "completions").exists()
