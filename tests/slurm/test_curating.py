"""`meditron curate --executor slurm` on a real Slurm: the corpus of one process, and no task twice."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_curation.curate import main
from data_curation.dedup import stages
from meditron.config import CurateConfig, LaunchConfig, Recipe, SourceConfig
from meditron.config.loading import dump_recipe, load_recipe
from meditron.errors import EnvironmentMissingError, MeditronError
from tests.data_curation.test_executors import curated, files_of, write_sources
from tests.slurm.cluster import Cluster, until


def write_recipe(folder: Path, launch: LaunchConfig) -> Path:
    """The recipe of `curated`, by SLURM."""
    write_sources(folder)
    sources = {"notes": SourceConfig(path="*.jsonl", reader="jsonl", license="CC0-1.0")}
    curate = CurateConfig(sources=sources, executor="slurm", workers=8, chunk_megabytes=0.001)
    recipe = Recipe(work_dir=str(folder / "other"), data_root=str(folder), curate=curate, launch=launch)
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return path


def test_an_interrupted_command_goes_on_and_writes_the_corpus_of_one_process(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "KEYS_PER_TASK", 400)
    monkeypatch.setattr(stages, "PAIRS_PER_TASK", 5)
    recipe = write_recipe(
        tmp_path, LaunchConfig(setup=["sleep 3"], python=sys.executable, environment={"NOTE": "a 'b' $c"})
    )
    command = [sys.executable, "-m", "meditron", "curate", "--config", str(recipe)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    submitted = tmp_path / "other/corpus.work/extract/jobs.txt"
    until(submitted.exists, 60)
    first.send_signal(signal.SIGINT)
    assert "the same command goes on" in first.communicate()[1]
    assert first.returncode == 130
    job = submitted.read_text()
    main(load_recipe(recipe))
    logs = tmp_path / "other/logs/curate"
    assert (logs / "extract/jobs.txt").read_text() == job
    for stage, tasks in (("extract", 3), ("publish", 3)):
        assert len(list((logs / stage / "slurm_logs").iterdir())) == tasks
    assert len(list((logs / "bands/slurm_logs").iterdir())) > 1
    assert files_of(tmp_path / "other") == curated(tmp_path, "one")


def test_tasks_that_end_without_a_word_are_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, LaunchConfig(setup=["exit 3"], python=sys.executable)))
    with pytest.raises(MeditronError, match=r"task 0 of extract ended without a result.*extract/slurm_logs"):
        main(recipe)


def test_what_sbatch_refuses_is_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, LaunchConfig(cpu_partition="nowhere")))
    with pytest.raises(EnvironmentMissingError, match="sbatch refuses the job"):
        main(recipe)
