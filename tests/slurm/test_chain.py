"""The demo's whole way as jobs that wait for each other, on a real Slurm, with a tiny model."""

import json
from pathlib import Path

import pytest

from launch.queue import read_record
from meditron.cli import main
from meditron.demo.prepare import place_data
from meditron.runs import RunFolder
from tests.finetune.conftest import make_model, make_tokenizer
from tests.slurm.cluster import Cluster, until

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
CLUSTER = """\
gpus_per_node: 0
nodes: 2
time_limit: "10"
signal_seconds: 60
evaluate_tasks: 2
environment: {OMP_NUM_THREADS: "1"}
"""


def demo(folder: Path) -> list[str]:
    """The command line's words for the demo with a tiny model."""
    place_data(folder / "raw")
    make_model(folder / "base", tie_word_embeddings=True, max_position_embeddings=4096)
    make_tokenizer(folder / "base", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    (folder / "cluster.yaml").write_text(CLUSTER)
    return [
        "--config", str(DEMO), "--cluster", str(folder / "cluster.yaml"),
        "--work_dir", str(folder / "work"), "--data_root", str(folder / "raw"),
        "--model.base", str(folder / "base"), "--pretrain.sequence_length", "64",
        "--pretrain.train_steps", "60", "--pretrain.checkpoint.interval", "500",
        "--pretrain.validation", '{"interval": 50, "max_tokens": 64}', "--finetune.max_steps", "2",
        "--evaluate.protocols", "[letter]", "--evaluate.tasks.mmlu.limit", "4",
    ]  # fmt: skip


@pytest.mark.timeout(900)
def test_the_demo_goes_its_way_as_jobs(cluster: Cluster, tmp_path: Path) -> None:
    """Pretraining is told to save and stop on the way: its job is queued again, and the others wait on."""
    words = demo(tmp_path)
    assert main(["launch", *words]) == 0
    jobs = {job.name: job for job in read_record(tmp_path / "work/launch")}
    ids = {name: str(job.id) for name, job in jobs.items()}
    stages = ["curate", "tokenize", "pretrain", "export", "finetune", "evaluate", "report"]
    assert list(jobs) == [*stages[:5], "evaluate-parts", *stages[5:]]
    run = RunFolder(tmp_path / "work/pretrain")
    until(lambda: steps(run), 300)
    cluster.run("scancel", "--signal=USR2", "--batch", ids["pretrain"])
    until(lambda: "Restarts=1" in cluster.run("scontrol", "show", "job", ids["pretrain"]), 120)
    until(lambda: cluster.state(ids["report"]) in ("COMPLETED", "CANCELLED"), 400)
    assert {name: cluster.state(number) for name, number in ids.items()} == dict.fromkeys(ids, "COMPLETED")
    assert steps(run) == list(range(1, 61))
    told = (tmp_path / f"work/launch/pretrain-{ids['pretrain']}.log").read_text()
    assert "pretrain ended with code 75; it is queued again" in told
    assert (tmp_path / "work/report.html").is_file()
    assert main(["evaluate", *words, "--evaluate.output", str(tmp_path / "alone")]) == 0
    assert answers(tmp_path / "work/results") == answers(tmp_path / "alone")
    for file in (tmp_path / "work/results").glob("*/results.json"):
        assert json.loads(file.read_text())["answers"]["computed"] == 0  # its two parts had done all


def answers(folder: Path) -> dict[str, list[int]]:
    """What each model chose for each question, by model and file."""
    return {
        str(file.relative_to(folder)): [json.loads(line)["prediction"] for line in file.open()]
        for file in sorted(folder.glob("*/samples-*.jsonl"))
    }


def steps(run: RunFolder) -> list[int]:
    return [record["step"] for record in run.read_log() if record["event"] == "step"]
