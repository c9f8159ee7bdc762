"""Scripts, submission and the commands about jobs, on a real Slurm; the stages are as short as can be."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.queue import read_record
from meditron.cli import main
from meditron.config import CurateConfig, LaunchConfig, Recipe, SourceConfig
from meditron.config.loading import dump_recipe
from tests.slurm.cluster import Cluster, until

RECORDER = f"""#!{sys.executable}
import json, os, sys
json.dump({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}, open(os.environ["RECORD"], "w"))
"""
HOSTILE = (
    "$(touch pwned) `touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "$HOME ${PATH} * ~ !! \\",
    "&& touch pwned || true > pwned",
    "#SBATCH --nodes=99",
    "%j %% \\% a  b",
    "\u00e9\u4e2d\U0001f9ec",
)


def write_recipe(folder: Path, launch: LaunchConfig, files: int = 1) -> Path:
    """A recipe of curation alone, from so many files."""
    for index in range(files):
        text = f"Metformin lowers HbA1c by {index}.{index} % in adults with diabetes of type 2. " * 5
        record = {"id": f"doc-{index}", "text": text}
        (folder / "raw").mkdir(exist_ok=True)
        (folder / "raw" / f"{index}.jsonl").write_text(json.dumps(record) + "\n")
    curate = CurateConfig(
        sources={"notes": SourceConfig(path="raw", reader="jsonl", license="CC0-1.0")}, chunk_megabytes=1e-6
    )
    recipe = Recipe(work_dir=str(folder / "work"), data_root=str(folder), curate=curate, launch=launch)
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return path


def log(folder: Path, job: str) -> str:
    return "".join(path.read_text() for path in sorted((folder / "work/launch").glob(f"{job}-*.log")))


def job_id(folder: Path, name: str) -> str:
    return next(str(job.id) for job in read_record(folder / "work/launch") if job.name == name)


def test_hostile_values_arrive_as_they_are(cluster: Cluster, tmp_path: Path) -> None:
    recorder = tmp_path / "py thon $(id)"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    noted = {f"NOTE_{index}": text for index, text in enumerate(HOSTILE)}
    launch = LaunchConfig(
        gpus_per_node=0,
        python=str(recorder),
        container=["env", *(f"WORD_{index}={text}" for index, text in enumerate(HOSTILE))],
        environment={"RECORD": str(tmp_path / "record"), **noted},
        scratch=f"{tmp_path}/$(touch pwned)",
        srun_options=["--comment=$(touch pwned)'\""],
    )
    assert main(["launch", "--config", str(write_recipe(tmp_path, launch))]) == 0
    for job in ("curate", "report"):
        until(lambda job=job: cluster.state(job_id(tmp_path, job)) == "COMPLETED", 60)
    record = json.loads((tmp_path / "record").read_text())
    for index, text in enumerate(HOSTILE):
        assert record["environment"][f"NOTE_{index}"] == text
        assert record["environment"][f"WORD_{index}"] == text
    assert record["environment"]["TMPDIR"] == launch.scratch
    assert record["arguments"] == [
        "-m", "meditron", "report", "--config", f"{tmp_path}/work/launch/recipe.yaml"
    ]  # fmt: skip
    assert not [path for place in (tmp_path, Path.cwd()) for path in place.rglob("pwned")]


def test_what_sbatch_refuses_is_not_submitted(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = LaunchConfig(gpus_per_node=0, cpu_partition="nowhere")
    assert main(["launch", "--config", str(write_recipe(tmp_path, launch))]) == 10
    told = capsys.readouterr().err
    assert "curate.sbatch: sbatch refuses it (" in told
    assert "invalid partition specified: nowhere" in told
    assert cluster.run("squeue", "--noheader") == ""


def test_a_killed_task_of_an_array_is_resumed_alone(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = LaunchConfig(gpus_per_node=0, curate_tasks=8)
    recipe = ["--config", str(write_recipe(tmp_path, launch, files=8))]
    assert main(["launch", *recipe]) == 0
    parts = job_id(tmp_path, "curate-parts")
    until(lambda: cluster.state(f"{parts}_3") == "RUNNING", 60)
    until(lambda: f"{parts}_3.0" in cluster.run("squeue", "--noheader", "--steps", "--format=%i").split(), 60)
    cluster.run("scancel", "--signal=KILL", "--full", f"{parts}_3")
    until(lambda: cluster.run("squeue", "--noheader") == "", 120)
    markers = tmp_path / "work/corpus.work/extract/completions"
    before = {path.name: path.stat().st_mtime_ns for path in markers.iterdir()}
    assert sorted(before) == [f"{index:05d}" for index in range(8) if index != 3]
    assert not (tmp_path / "work/corpus").exists()

    capsys.readouterr()
    assert main(["launch", "status", *recipe]) == 0
    told = capsys.readouterr().err
    assert "7 of 8 tasks" in told
    assert "curate-parts 3:" in told

    assert main(["launch", "resume", *recipe]) == 0
    assert "tasks 3" in capsys.readouterr().err
    again = job_id(tmp_path, "curate-parts")
    until(lambda: cluster.state(job_id(tmp_path, "curate")) == "COMPLETED", 120)
    assert [path.name for path in (tmp_path / "work/launch").glob(f"curate-parts-{again}_*.log")] == [
        f"curate-parts-{again}_3.log"
    ]
    counts = json.loads((tmp_path / "work/corpus/manifest.json").read_text())["counts"]
    assert (counts["read"], counts["kept"]) == (8, 8)


def test_cancelled_jobs_do_not_come_back(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = LaunchConfig(gpus_per_node=0, setup=["sleep 100"])
    recipe = ["--config", str(write_recipe(tmp_path, launch))]
    assert main(["launch", *recipe]) == 0
    until(lambda: cluster.state(job_id(tmp_path, "curate")) == "RUNNING", 60)
    capsys.readouterr()
    assert main(["launch", *recipe]) == 3
    assert "of its last launch are still in the queue" in capsys.readouterr().err
    assert main(["launch", "cancel", *recipe]) == 0
    until(lambda: cluster.run("squeue", "--noheader") == "", 60)
    assert main(["launch", "status", *recipe]) == 0
    told = capsys.readouterr().err
    assert "curate: cancelled: The job was cancelled" in told
    assert main(["launch", "logs", *recipe]) == 0
    assert "CANCELLED AT" in capsys.readouterr().out
    record = tmp_path / "work/launch/jobs.json"
    forgotten = record.read_text().replace(f'"{job_id(tmp_path, "curate")}"', '"987654"')
    record.write_text(forgotten)  # SLURM forgets a job some minutes after its end
    assert main(["launch", "status", *recipe]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "curate 987654 ended" in told
    assert "curate: cancelled: The job was cancelled" in told


def test_scripts_are_ones_that_bash_and_sbatch_take(cluster: Cluster) -> None:
    golden = Path(__file__).parents[1] / "launch" / "recipe.yaml"
    words = [
        "--config",
        str(golden),
        "--launch",
        "{partition: main, cpu_partition: main, memory: 10G, gpus_per_node: 0, nodes: 4}",
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "meditron", "launch", *words, "--launch.dry_run", "true"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    scripts = re.split(r"^==> .* <==\n", shown, flags=re.MULTILINE)[1:-1]
    assert len(scripts) == 6
    for text in scripts:
        checked = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
